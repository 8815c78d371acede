"""A value of a wrong type, anywhere in a recipe, gives one line: place, accepted values, value."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest

from harness.config import load
from harness.config.load import read
from harness.config.validate import check
from writers.errors import UserError

# Values to put into a recipe. Every setting refuses some of them.
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 10**30, 0.5, "", "x", "1"),
    *([], [0], ["a"], [[1]], [None], {}, {"a": 1}, {"name": 3}, [{"x": 1}], ["a", 1]),
)
NUM_CHANGES = {"demo": 40, "which_classes": 10, "better_models": 10}


def _places(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = (
        values.items()
        if isinstance(values, dict)
        else enumerate(values)
        if isinstance(values, list)
        else ()
    )
    for key, value in inner:
        yield (*place, key)
        yield from _places(value, (*place, key))


def _at(values: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        values = values[key]
    return values


def _mistakes(values: dict[str, Any]) -> list[str]:
    try:
        check(values, lambda place: "r.yaml:1")
    except UserError as error:
        return str(error).split("\n")
    return []


@pytest.mark.parametrize("name", NUM_CHANGES)
def test_each_mistake_is_reported_once_at_its_innermost_place(name: str):
    values = load._merged(load._read_files(load.find(name))).values
    values.pop("scales", None)
    draws = random.Random(len(name))
    places = list(_places(values))
    for _ in range(NUM_CHANGES[name]):
        place, wrong = draws.choice(places), draws.choice(WRONG)
        changed = copy.deepcopy(values)
        _at(changed, place[:-1])[place[-1]] = copy.deepcopy(wrong)
        lines = _mistakes(changed)
        named = [line.split(": ")[1] for line in lines]
        described = (place, wrong, lines)
        assert len(set(lines)) == len(lines) <= 8, described
        for line, key in zip(lines, named, strict=True):
            assert line.startswith("r.yaml:1: ") and line.endswith((".", "?")), described
            assert "after validation" not in line and "Input should" not in line, described
            # A setting and a part of it are not both reported.
            assert not any(other.startswith(f"{key}.") for other in named), described


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("seeds=[null]", "seeds.0: must be a whole number, not null."),
        ("seeds=[]", "seeds: must have at least 1 entry, not []."),
        ("eps=[0, [1]]", "eps.1: must be a number, not [1]."),
        ("methods.full.per_class=['8']", "methods.full.per_class.0: must be a whole number, not '8'."),
        ("methods.full.per_class=x", "methods.full.per_class: must be a whole number or a list, not 'x'."),
        ("exclude=[{eps: -2.5}]", "exclude.0.eps: must be a list or greater than or equal to 0, not -2.5."),
        ("exclude=[{arch: [{}]}]", "exclude.0.arch.0: must be a string, not {}."),
        ("encoding.format=false", "encoding.format: must be 'jpeg', 'raw', 'mixed', 'passthrough' or 'dct', not false."),
        ("encoding=[0]", "encoding: must be a preset or a mapping, not [0]."),
        ("subsets=[1]", "subsets.0: must be a name or a mapping, not 1."),
        ("methods.full.policy=[{}]", "methods.full.policy: must be a mapping or 'full', not [{}]."),
        ("methods.full.policy={reduced: x}", "methods.full.policy.reduced: must be a whole number, not 'x'."),
        ("methods.full.policy={halving: {rungs: 0}}", "methods.full.policy.halving.rungs: must be greater than or equal to 2, not 0."),
        ("models=[0]", "models.0: must be a name or a mapping, not 0."),
        ("targets=[pets]", "targets.0: must be a mapping, not 'pets'. Write {dataset: pets}, or {path: pets} for a folder."),
        ("source=photos/a", "source: must be a mapping, not 'photos/a'. Write {dataset: photos/a}, or"),
        ("targets=[[pets]]", "targets.0: must be a mapping, not [\"pets\"]."),
        ("targets=['{a']", "targets.0: must be a mapping, not '{a'."),
        ("subsets=[{name: a b, under: n02084071}]", "subsets.0.name: must consist of letters"),
    ],
)  # fmt: skip
def test_the_line_has_the_place_the_accepted_values_and_the_value(setting: str, line: str):
    with pytest.raises(UserError) as caught:
        read("demo", [setting])
    lines = [text for text in str(caught.value).split("\n") if text.startswith(f"--set {setting}")]
    assert len(lines) == 1
    assert lines[0].startswith(f"--set {setting}: {line}")


def test_a_mistake_in_an_entry_with_each_is_reported_once_at_that_entry():
    wrong = "[all, {each: {keep: [3, 4, 5]}, name: 'a-{keep}', random: {clases: '{keep}'}}]"
    with pytest.raises(UserError) as caught:
        read("demo", [f"subsets={wrong}"])
    assert str(caught.value).split(": subsets.")[1:] == [
        "1.random: there is no setting named 'clases'. Did you mean classes?"
    ]
    with pytest.raises(UserError, match=r"subsets\.1: each: must be a mapping"):
        read("demo", ["subsets=[all, {each: 3, name: x}]"])
