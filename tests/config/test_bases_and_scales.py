"""Recipes that inherit from a base, have scales, or train variants."""

from pathlib import Path

import pytest

from harness.config import load as recipe
from tests.helpers.tiny_recipe import GOOD, edited, mistakes
from writers.errors import UserError


def test_a_recipe_inherits_from_its_base(recipe_file: Path, tmp_path: Path):
    child = tmp_path / "child.yaml"
    child.write_text(
        "base: tiny.yaml\nname: child\npretrain:\n  epochs: 9\nsubsets: [all]\n"
        "methods: {full: {}}\n"
    )
    found = recipe.read(child)
    assert found.name == "child" and found.pretrain.epochs == 9
    assert found.pretrain.optimizer.lr == 0.001, "mappings are merged"
    assert set(found.methods) == {"fixed", "full"} and found.archs == ("resnet10",)
    grandchild = tmp_path / "sub" / "grandchild.yaml"
    grandchild.parent.mkdir()
    grandchild.write_text(
        "base: ../child.yaml\nname: grandchild\nmethods: {fixed: null}\neps: [1]\n"
    )
    found = recipe.read(grandchild)
    assert set(found.methods) == {"full"}, "null removes an inherited entry"
    assert found.eps == (1.0,), "a list replaces the inherited list"


def test_mistakes_of_a_base_are_reported_with_the_line_of_the_base(
    recipe_file: Path, tmp_path: Path
):
    edited(recipe_file, "epochs: 2\n  opt", "epoch: 2\n  opt")
    child = tmp_path / "child.yaml"
    child.write_text("base: tiny.yaml\nname: child\n\neps: all\n")
    assert sorted(mistakes(child)) == [
        "child.yaml:4: eps: must be a list, not 'all'.",
        "tiny.yaml:7: pretrain.epoch: unknown key. Did you mean 'epochs'?",
    ]
    child.write_text("base: tiny.yaml\n")
    assert "child.yaml: name: is missing." in mistakes(child)


def test_an_absent_or_circular_base_is_refused(recipe_file: Path, tmp_path: Path):
    child = tmp_path / "child.yaml"
    child.write_text("name: child\nbase: nowhere.yaml\n")
    assert mistakes(child)[0].startswith("child.yaml:2: base: there is no file")
    child.write_text("name: child\nbase: demu\n")
    with pytest.raises(
        UserError, match=r"child.yaml:2: base: there is no recipe named 'demu'"
    ) as caught:
        recipe.read(child)
    assert caught.value.hint == "Did you mean demo?"
    child.write_text("name: child\nbase: child.yaml\n")
    assert "refers back to the recipe itself" in mistakes(child)[0]
    child.write_text("name: child\nbase: [a]\n")
    assert mistakes(child) == ["child.yaml:2: base: must be the path of a recipe, not ['a']."]


def test_a_base_is_found_by_name_or_by_path(recipe_file: Path, tmp_path: Path):
    child = tmp_path / "child.yaml"
    child.write_text("base: demo\nname: child\nseeds: [0, 1]\n")
    found, demo = recipe.read(child), recipe.read("demo")
    assert found == demo.model_copy(update={"name": "child", "seeds": (0, 1)})
    (tmp_path / "demo.yaml").write_text(GOOD)
    child.write_text("base: demo.yaml\nname: child\n")
    assert recipe.read(child).subsets[0].name == "all" and len(recipe.read(child).subsets) == 1, (
        "the path is relative to the child's folder"
    )


SCALES = (
    GOOD
    + """\
scales:
  tiny: {pretrain: {epochs: 1, optimizer: null}, eps: [0], methods: {fixed: null,full: {epochs: 1}}}
  wrong:
    pretrain: {epoch: 1}
"""
)


def test_a_scale_overrides_the_file_and_set_overrides_the_scale(recipe_file: Path):
    recipe_file.write_text(SCALES)
    plain, tiny = recipe.read(recipe_file), recipe.read(recipe_file, ["scale=tiny"])
    assert plain == recipe.read(edited(recipe_file, "name", "name")) and plain.scale is None
    recipe_file.write_text(SCALES)
    assert (tiny.pretrain.epochs, tiny.pretrain.optimizer.lr, tiny.eps, set(tiny.methods)) == (
        1,
        0.5,
        (0.0,),
        {"full"},
    )
    assert (tiny.name, tiny.scale) == ("tiny_tiny", "tiny")
    for order in (["scale=tiny", "pretrain.epochs=7"], ["pretrain.epochs=7", "scale=tiny"]):
        assert recipe.read(recipe_file, order).pretrain.epochs == 7
    assert recipe.read(recipe_file, ["scale=wrong", "scale=tiny"]) == tiny, "the last value applies"
    recipe_file.write_text(SCALES + "scale: tiny\n")
    assert recipe.read(recipe_file) == tiny and recipe.read(recipe_file, ["scale=null"]) == plain
    recipe_file.write_text(SCALES.replace("tiny: {", "tiny: {name: small, "))
    assert recipe.read(recipe_file, ["scale=tiny"]).name == "small"


def test_a_scale_may_have_a_number_as_its_name(recipe_file: Path):
    recipe_file.write_text(SCALES + "  64: {pretrain: {epochs: 9}}\n")
    found = recipe.read(recipe_file, ["scale=64"])
    assert (found.name, found.scale, found.pretrain.epochs) == ("tiny_64", "64", 9)


def test_scales_are_inherited(recipe_file: Path, tmp_path: Path):
    recipe_file.write_text(SCALES)
    child = tmp_path / "child.yaml"
    child.write_text(
        "base: tiny.yaml\nname: child\nscale: tiny\npretrain: {epochs: 9}\n"
        "scales: {tiny: {pretrain: {batch_size: 8}}}\n"
    )
    found = recipe.read(child)
    assert (found.name, found.pretrain.epochs, found.pretrain.batch_size) == ("child_tiny", 9, 8)


@pytest.mark.parametrize(
    ("more", "override", "expected"),
    [
        ("", "scale=tinny", "--set scale=tinny: scale: there is no scale named 'tinny'."),
        ("scale: tinny\n", "eps=[0]", "tiny.yaml:18: scale: there is no scale named 'tinny'."),
        ("", "scale=wrong", "tiny.yaml:17: pretrain.epoch: unknown key. Did you mean 'epochs'?"),
        (
            "  other: [1]\n",
            "eps=[0]",
            "tiny.yaml:14: scales: must be a mapping of names to mappings of settings.",
        ),
        (
            "  other: {base: demo}\n",
            "eps=[0]",
            "tiny.yaml:18: scales.other: base cannot be set in a scale.",
        ),
        (
            "  quick-test: {eps: [0]}\n",
            "eps=[0]",
            "tiny.yaml:18: scales.quick-test: a name may only contain a-z, 0-9 and _.",
        ),
        (
            "scale: [tiny]\n",
            "eps=[0]",
            "tiny.yaml:18: scale: must be the name of one of the recipe's scales, not ['tiny'].",
        ),
        (
            "",
            "scale=true",
            "--set scale=true: scale: must be the name of one of the recipe's scales, not True.",
        ),
    ],
)
def test_a_mistake_in_a_scale_is_reported_with_its_line(
    recipe_file: Path, more: str, override: str, expected: str
):
    recipe_file.write_text(SCALES + more)
    assert mistakes(recipe_file, override) == [expected]


VARIANTS = (
    GOOD.replace("eps: [0, 0.5]", "eps: [0]")
    + """\
variants:
  plain: {}
  smooth: {label_smoothing: 0.1, optimizer: {momentum: 0.8}}
  published: {preset: salman}
"""
)


def test_variants_override_pretrain(recipe_file: Path):
    recipe_file.write_text(VARIANTS)
    found = recipe.read(recipe_file)
    assert list(found.variants) == ["plain", "smooth", "published"]
    assert found.variants["plain"] == found.pretrain
    smooth = found.variants["smooth"]
    assert (
        smooth.label_smoothing,
        smooth.optimizer.momentum,
        smooth.optimizer.lr,
        smooth.epochs,
    ) == (0.1, 0.8, 0.001, 2)
    assert (found.variants["published"].epochs, found.variants["published"].optimizer.schedule) == (
        90,
        "step",
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "label_smoothing",
            "label_smothing",
            "tiny.yaml:16: variants.smooth.label_smothing: unknown key. "
            "Did you mean 'label_smoothing'?",
        ),
        (
            "preset: salman",
            "preset: salmon",
            "tiny.yaml:17: variants.published.preset: there is no preset named 'salmon'. "
            "Did you mean salman?",
        ),
        (
            "label_smoothing: 0.1, optimizer: {momentum: 0.8}",
            "epochs: 2",
            "tiny.yaml: the variants plain and smooth are equal; remove one of them.",
        ),
        (
            "epochs: 2\n  opt",
            "epochs: two\n  opt",
            "tiny.yaml:7: pretrain.epochs: must be a whole number, not 'two'.",
        ),
        ("smooth: {label", "smooth: [label", "tiny.yaml:16: "),
    ],
)
def test_a_mistake_in_a_variant_is_reported_with_its_line(
    recipe_file: Path, old: str, new: str, expected: str
):
    assert old in VARIANTS
    recipe_file.write_text(VARIANTS.replace(old, new))
    found = mistakes(recipe_file)
    assert len(found) == 1 and found[0].startswith(expected), found


def test_a_file_keeps_its_own_settings_above_a_scale_of_its_base(recipe_file: Path):
    recipe_file.write_text(
        GOOD + "scales: {small: {eps: [0], pretrain: {epochs: 1, batch_size: 8}, "
        "targets: [{dataset: synthetic_patterns, name: fewer}]}}\n"
    )
    mine = recipe_file.with_name("mine.yaml")
    mine.write_text(
        "base: tiny.yaml\nname: mine\neps: [0, 3]\ntargets: [{path: photos}]\n"
        "scales: {small: {pretrain: {batch_size: 4}}}\n"
    )
    found = recipe.read(mine, ["scale=small"])
    assert found.name == "mine_small" and found.eps == (0, 3)
    assert [target.label for target in found.targets] == ["photos"]
    assert (found.pretrain.epochs, found.pretrain.batch_size) == (1, 4)
    assert recipe.read(mine, ["scale=small", "eps=[0.25]"]).eps == (0.25,)
    assert recipe.read(recipe_file, ["scale=small"]).eps == (0,)


def test_a_file_replaces_a_scale_of_its_base_that_is_not_a_mapping(recipe_file: Path):
    recipe_file.write_text(GOOD + "scales: {small: 5}\n")
    own = recipe_file.with_name("own.yaml")
    own.write_text(f"base: {recipe_file.name}\nname: own\nscales: {{small: {{seeds: [3]}}}}\n")
    assert recipe.read(own, ["scale=small"]).seeds == (3,)


def test_a_mistake_of_a_base_explains_how_to_override_it(recipe_file: Path, tmp_path: Path):
    edited(recipe_file, "epochs: 2\n  opt", "attack: {steps: 3}\n  opt")
    child = tmp_path / "child.yaml"
    child.write_text("base: tiny.yaml\nname: child\neps: [0]\n")
    with pytest.raises(UserError) as caught:
        recipe.read(child)
    assert "in child.yaml" in caught.value.hint and "null" in caught.value.hint
    child.write_text(child.read_text() + "pretrain: {attack: null}\n")
    assert recipe.read(child).eps == (0.0,)


def test_a_mistake_of_the_recipe_itself_is_not_called_inherited(recipe_file: Path, tmp_path: Path):
    child = tmp_path / "child.yaml"
    child.write_text("base: tiny.yaml\nname: child\neps: all\n")
    with pytest.raises(UserError) as caught:
        recipe.read(child)
    assert "inherited" not in caught.value.hint
