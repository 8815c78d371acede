"""Selections of classes for a target: shared stages, unread test images, subsets from `each`."""

from collections import Counter

import pytest

from harness.config import load as recipe
from harness.config.subset_axes import expand as expand_each
from harness.matrix.expand import Matrix, expand
from writers.errors import UserError

TINY = ["scale=tiny"]


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return expand(recipe.read("which_classes", TINY))


def test_selections_read_train_and_val_of_targets_only(matrix: Matrix):
    """Checks the features that select stages need, not the transfers that influence needs."""
    for stage in matrix.stages:
        if stage.kind != "select":
            continue
        for role, need in stage.needs.items():
            if need.kind == "features":
                assert need.config["splits"] == (
                    ["train"] if role == "source" else ["train", "val"]
                )


def test_models_of_a_selection_are_shared_by_methods_and_targets(matrix: Matrix):
    roles = Counter(stage.axes.get("role") for stage in matrix.stages if stage.kind == "pretrain")
    assert roles["surrogate"] == 1 and roles["early"] == 1 and roles["influence"] == 4
    selects = {stage.name for stage in matrix.stages if stage.kind == "select"}
    assert selects == {
        "select/el2n",
        *(
            f"select/{method}:{target}"
            for method in ("label_mapping", "feature_mapping", "influence")
            for target in ("synthetic_scenes", "synthetic_patterns")
        ),
    }


def test_a_recipe_can_exclude_unseen_targets(matrix: Matrix):
    """A target is unseen by a subset that was selected for another target."""
    transfers = [
        stage.axes
        for stage in matrix.stages
        if stage.kind == "transfer" and "role" not in stage.axes
    ]
    for axes in transfers:
        for target in ("synthetic_scenes", "synthetic_patterns"):
            if axes["subset"].endswith(target):
                assert axes["target"] == target
    shown = {(axes["subset"], axes["target"]) for axes in transfers}
    assert ("random", "synthetic_scenes") in shown and ("random", "synthetic_patterns") in shown
    both = expand(recipe.read("influence", TINY))
    seen = {
        stage.axes["target"]
        for stage in both.stages
        if stage.kind == "transfer" and stage.axes.get("subset") == "top-6-synthetic_scenes"
    }
    assert seen == {"synthetic_scenes", "synthetic_patterns"}


def test_settings_of_a_selection_are_part_of_its_keys():
    def keys(*settings: str) -> dict[str, str]:
        stages = expand(recipe.read("which_classes", [*TINY, *settings])).stages
        return {
            stage.name: stage.key
            for stage in stages
            if stage.kind in ("select", "view", "pretrain")
        }

    before = keys()
    selections = {name for name in before if name.startswith("select/")}
    for setting, methods in (
        ("selection.surrogate.epochs=2", {"label_mapping", "feature_mapping"}),
        ("selection.early.seeds=[7]", {"el2n"}),
        ("selection.influence.num_models=5", {"influence"}),
    ):
        after = keys(setting)
        changed = {name for name in selections if after[name] != before[name]}
        assert changed == {
            name for name in selections if name.split("/")[1].split(":")[0] in methods
        }
        assert after["view/synthetic_patterns/random"] == before["view/synthetic_patterns/random"]


def test_the_name_of_a_view_is_not_part_of_its_key():
    def view(name: str) -> str:
        subsets = f"subsets=[all, {{name: {name}, random: 6}}]"
        off = ["ranking=null", "selection=null", "exclude=null", subsets]
        stages = expand(recipe.read("which_classes", [*TINY, *off])).stages
        return next(stage.key for stage in stages if stage.kind == "view")

    assert view("one") == view("other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "subsets=[all, {name: a, label_mapping: {target: pets, keep: 2}}]",
            "selected for pets, which is none of the targets",
        ),
        ("selection.influence.method=logregg", "There is no method named 'logregg'"),
        ("subsets=[all, {name: a, el2n: 0.5}]", "selection.surrogate has no effect"),
        ("subsets=[{each: {keep: 3}, name: a, random: '{keep}'}]", "each: keep must be a list"),
        ("subsets=[{each: {keep: [3]}, name: a, random: 2}]", "each: keep has no effect"),
        (
            "subsets=[{each: {keep: [3]}, name: 'a-{kept}-{keep}', random: 2}]",
            "not one of the names in `each`",
        ),
        ("exclude=[{selection: sen}]", "seen"),
    ],
)
def test_mistakes_are_named(settings: str, message: str):
    with pytest.raises(UserError, match=message):
        expand(recipe.read("which_classes", [*TINY, settings]))


def test_each_expands_to_every_combination_and_keeps_numeric_types():
    entries = [
        "in1000",
        {"each": {"keep": [0.9, 2], "target": "all"}, "name": "a-{target}-{keep}",
         "label_mapping": {"target": "{target}", "keep": "{keep}"}},
    ]  # fmt: skip
    assert expand_each("in1000", ["pets", "dtd"]) == ["in1000"]
    expanded = [entry for given in entries for entry in expand_each(given, ["pets", "dtd"])]
    assert [entry["name"] for entry in expanded[1:]] == [
        "a-pets-0.9",
        "a-dtd-0.9",
        "a-pets-2",
        "a-dtd-2",
    ]
    assert expanded[3]["label_mapping"] == {"target": "pets", "keep": 2}
    mistake = [*entries, {"each": {"keep": [2]}, "name": "b", "randm": "{keep}"}]
    with pytest.raises(UserError, match="randm"):
        recipe.read("which_classes", [*TINY, f"subsets={mistake}".replace("'", '"')])


def test_a_per_target_selection_costs_a_pretraining_per_target():
    found = expand(recipe.read("which_classes"))
    models = Counter(
        stage.axes["subset"].split("-")[0]
        for stage in found.stages
        if stage.kind == "pretrain" and "role" not in stage.axes
    )
    # 12 targets x 3 fractions x 2 eps x 3 seeds
    assert models["label"] == models["feature"] == models["influence"] == 12 * 3 * 2 * 3
    assert models["el2n"] == models["hardest"] == models["random"] == 3 * 2 * 3
