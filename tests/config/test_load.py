"""Reading recipes: inheritance, overrides, and mistakes reported with file, line and cure."""

from pathlib import Path

import pytest

from harness.config import load as recipe
from harness.config.recipe import Recipe
from writers.errors import UserError

GOOD = """\
name: tiny
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
eps: [0, 0.5]
pretrain:
  epochs: 2
  optimizer:
    lr: 1e-3
targets:
  - {dataset: synthetic_patterns}
methods:
  fixed: {epochs: 2}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD)
    return path


def mistakes(path: Path | str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        recipe.read(path, overrides)
    return caught.value.message.splitlines()


def edited(path: Path, old: str, new: str) -> Path:
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    return path


def test_reads_yaml_1_2(file: Path):
    found = recipe.read(file)
    assert found.pretrain.optimizer.lr == 0.001, "1e-3 is a number"
    assert found.eps == (0.0, 0.5) and found.methods["fixed"].epochs == 2


def test_packaged_recipes_are_valid_by_name_and_by_path():
    for name in recipe.available():
        assert isinstance(recipe.read(name), Recipe)
        assert recipe.read(recipe.FOLDER / f"{name}.yaml") == recipe.read(name)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "epochs: 2\n  opt",
            "epoch: 2\n  opt",
            "tiny.yaml:7: pretrain.epoch: unknown key. Did you mean 'epochs'?",
        ),
        (
            "name: tiny",
            "name: tiny\nsubset: [all]",
            "tiny.yaml:2: subset: unknown key. Did you mean 'subsets'?",
        ),
        (
            "fixed: {epochs: 2}",
            "fixed: {epoch: 2}",
            "tiny.yaml:13: methods.fixed.epoch: unknown key. Did you mean 'epochs'?",
        ),
        (
            "lr: 1e-3",
            "lrr: 1e-3",
            "tiny.yaml:9: pretrain.optimizer.lrr: unknown key. Did you mean 'lr'?",
        ),
        (
            "epochs: 2\n  opt",
            "epochs: two\n  opt",
            "tiny.yaml:7: pretrain.epochs: must be a whole number, not 'two'.",
        ),
        (
            "epochs: 2\n  opt",
            "epochs: '2'\n  opt",
            "tiny.yaml:7: pretrain.epochs: must be a whole number, not '2'.",
        ),
        (
            "epochs: 2\n  opt",
            "epochs: 2.5\n  opt",
            "tiny.yaml:7: pretrain.epochs: must be a whole number, not 2.5.",
        ),
        (
            "epochs: 2\n  opt",
            "epochs: 0\n  opt",
            "tiny.yaml:7: pretrain.epochs: must be greater than or equal to 1, not 0.",
        ),
        (
            "epochs: 2\n  opt",
            "epochs:\n  opt",
            "tiny.yaml:7: pretrain.epochs: must be a whole number, not null.",
        ),
        (
            "  epochs: 2\n  opt",
            "  horizontal_flip: yes\n  opt",
            "tiny.yaml:7: pretrain.horizontal_flip: must be true or false, not 'yes'.",
        ),
        ("eps: [0, 0.5]", "eps: 0.5", "tiny.yaml:5: eps: must be a list, not 0.5."),
        (
            "eps: [0, 0.5]",
            "eps: [0, -1]",
            "tiny.yaml:5: eps.1: must be greater than or equal to 0, not -1.",
        ),
        (
            "eps: [0, 0.5]",
            "eps: [0, .inf]",
            "tiny.yaml:5: inf is neither a finite number, a string, a list nor a mapping.",
        ),
        ("name: tiny\n", "", "tiny.yaml: name: is missing."),
        (
            "lr: 1e-3",
            "schedule: cosin",
            "tiny.yaml:9: pretrain.optimizer.schedule: must be 'cosine', 'cyclic', 'step' or "
            "'constant', not 'cosin'. "
            "Did you mean 'cosine'?",
        ),
        (
            "lr: 1e-3",
            "step_factor: 0.1",
            "tiny.yaml:9: pretrain.optimizer.step_factor: has an effect with schedule: step only.",
        ),
        (
            "dataset: synthetic_things",
            "dataset: synthetic_thing",
            "tiny.yaml:2: source.dataset: there is no dataset named 'synthetic_thing'. "
            "Did you mean synthetic_things",
        ),
        (
            "archs: [resnet10]",
            "archs:\n  - resnet10\n  - resnet19",
            "tiny.yaml:6: archs.1: there is no model named 'resnet19'. Did you mean resnet",
        ),
        (
            "fixed: {epochs: 2}",
            "fixd: {epochs: 2}",
            "tiny.yaml:13: methods.fixd: there is no method named 'fixd'. Did you mean fixed?",
        ),
        ("subsets: [all]", "subsets: [all, in90]", "tiny.yaml:3: subsets.1: "),
        (
            "dataset: synthetic_things",
            "dataset: voc2007",
            "tiny.yaml:2: source.dataset: images of voc2007 have many labels, so it can only be "
            "a target.",
        ),
        (
            "{dataset: synthetic_patterns}",
            "{dataset: svhn, protocol: vtap}",
            "tiny.yaml:11: targets.0.protocol: svhn has no splits called 'vtap'. Known: vtab.",
        ),
        (
            "{dataset: synthetic_patterns}",
            "{dataset: VOC2007, metric: top1}",
            "tiny.yaml:11: targets.0.metric: top1 does not fit voc2007, whose images have many "
            "labels.",
        ),
        (
            "{dataset: synthetic_patterns}",
            "{dataset: clevr-count, metric: map11}",
            "tiny.yaml:11: targets.0.metric: map11 does not fit clevr_count, whose images have one "
            "label.",
        ),
        (
            "eps: [0, 0.5]",
            "eps: [0]\nevaluate: {attack: {steps: 3}}",
            "tiny.yaml:6: evaluate.attack: has no effect: no `eps` is above 0, and "
            "`eps_of_clean` is not set.",
        ),
        (
            "eps: [0, 0.5]",
            "eps: [0]\nevaluate: {common: [alle]}",
            "tiny.yaml: evaluate.common names alle, which is not one of the",
        ),
        (
            "subsets: [all]",
            "subsets: [{name: few, remove: {hardest: 1}}]\nranking: {per_class: 3}",
            "tiny.yaml:4: ranking.per_class: has an effect with split: held_out only.",
        ),
        ("name: tiny", "name: tiny\nname: other", 'tiny.yaml:2: found duplicate key "name"'),
        ("subsets: [all]", "subsets: [all", "tiny.yaml:4: "),
    ],
)
def test_a_mistake_is_named_with_its_line(file: Path, old: str, new: str, expected: str):
    found = mistakes(edited(file, old, new))
    assert len(found) == 1 and found[0].startswith(expected), found


def test_all_mistakes_are_reported_at_once(file: Path):
    file.write_text(
        GOOD.replace("epochs: 2\n  opt", "epoch: 2\n  opt")
        .replace("[resnet10]", "[resnet_10]")
        .replace("fixed: {epochs: 2}", "fixed: {epochs: 2, batch_size: big}")
    )
    found = mistakes(file)
    assert sorted(line.split(":")[1] for line in found) == ["13", "4", "7"]


def test_an_unknown_recipe_suggests_similar_names(file: Path):
    with pytest.raises(UserError, match="There is no recipe named 'robust_l3'") as caught:
        recipe.read("robust_l3")
    assert caught.value.hint == "Did you mean robust_l2 or robust_linf?"
    with pytest.raises(UserError, match=r"There is no recipe nowhere/demo\.yaml"):
        recipe.read("nowhere/demo.yaml")


def test_files_that_are_no_recipe_are_refused(file: Path):
    file.write_text("- a\n- b\n")
    assert mistakes(file) == ["tiny.yaml: a recipe is a mapping of settings."]
    file.write_bytes(b"\xff\xfe\x00")
    assert mistakes(file)[0].startswith("tiny.yaml cannot be read as YAML")
    file.write_text("")
    assert mistakes(file) == ["tiny.yaml: a recipe is a mapping of settings."]


def test_nothing_in_a_recipe_is_executed(file: Path):
    file.write_text(
        GOOD.replace("name: tiny", "name: !!python/object/apply:os.system ['touch executed']")
    )
    assert mistakes(file) == [
        "tiny.yaml:1: a recipe cannot have YAML tags, such as "
        "tag:yaml.org,2002:python/object/apply:os.system."
    ]
    assert not Path("executed").exists()


def test_a_self_referencing_alias_is_refused(file: Path):
    file.write_text("name: &a [*a]\n")
    assert mistakes(file)[0].startswith("tiny.yaml:1: name: must be a string")


def test_set_overrides_single_settings(file: Path):
    found = recipe.read(
        file,
        [
            "pretrain.epochs=7",
            "eps=[0]",
            "pretrain.optimizer.lr=1e-2",
            "targets.0.val=0.3",
            "evaluate.batch_size=8",
            "question=what",
        ],
    )
    assert (
        found.pretrain.epochs == 7 and found.eps == (0.0,) and found.pretrain.optimizer.lr == 0.01
    )
    assert (
        found.targets[0].val == 0.3 and found.evaluate.batch_size == 8 and found.question == "what"
    )
    assert recipe.read(file, ["pretrain.optimizer=null"]).pretrain.optimizer.lr == 0.5, (
        "null goes back to the default"
    )
    assert recipe.read(file, ["pretrain.epochs=3", "pretrain.epochs=4"]).pretrain.epochs == 4, (
        "the last one counts"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "pretrain.epoch=3",
            "--set pretrain.epoch=3: pretrain.epoch: unknown key. Did you mean 'epochs'?",
        ),
        (
            "pretrian.epochs=3",
            "--set pretrian.epochs=3: pretrian: unknown key. Did you mean 'pretrain'?",
        ),
        (
            "pretrain.epochs=many",
            "--set pretrain.epochs=many: pretrain.epochs: must be a whole number, not 'many'.",
        ),
        ("name.x=1", "--set name.x=1: name is 'tiny', which has no settings."),
        ("eps.2=1", "--set eps.2=1: eps has no entry '2'; it is a list of 2, counted from 0."),
        (
            "pretrain.epochs",
            "--set pretrain.epochs: write KEY=VALUE, such as --set pretrain.epochs=1.",
        ),
        ("eps=[1", "--set eps=[1: the value is not YAML."),
        ("archs.0=resnet", "--set archs.0=resnet: archs.0: there is no model named 'resnet'."),
    ],
)
def test_a_wrong_override_is_named(file: Path, override: str, expected: str):
    found = mistakes(file, override)
    assert len(found) == 1 and found[0].startswith(expected), found


def test_an_override_that_turns_an_axis_off_does_not_make_the_rest_a_mistake(file: Path):
    edited(file, "epochs: 2\n  opt", "attack: {steps: 3}\n  opt")
    assert recipe.read(file, ["eps=[0]"]).eps == (0.0,)


def test_a_recipe_inherits_from_its_base(file: Path, tmp_path: Path):
    child = tmp_path / "child.yaml"
    child.write_text(
        "base: tiny.yaml\nname: child\npretrain:\n  epochs: 9\nsubsets: [all]\n"
        "methods: {full: {}}\n"
    )
    found = recipe.read(child)
    assert found.name == "child" and found.pretrain.epochs == 9
    assert found.pretrain.optimizer.lr == 0.001, "mappings merge"
    assert set(found.methods) == {"fixed", "full"} and found.archs == ("resnet10",)
    grandchild = tmp_path / "sub" / "grandchild.yaml"
    grandchild.parent.mkdir()
    grandchild.write_text(
        "base: ../child.yaml\nname: grandchild\nmethods: {fixed: null}\neps: [1]\n"
    )
    found = recipe.read(grandchild)
    assert set(found.methods) == {"full"}, "null takes away what was inherited"
    assert found.eps == (1.0,), "lists replace"


def test_mistakes_of_a_base_are_reported_with_the_line_of_the_base(file: Path, tmp_path: Path):
    edited(file, "epochs: 2\n  opt", "epoch: 2\n  opt")
    child = tmp_path / "child.yaml"
    child.write_text("base: tiny.yaml\nname: child\n\neps: all\n")
    assert sorted(mistakes(child)) == [
        "child.yaml:4: eps: must be a list, not 'all'.",
        "tiny.yaml:7: pretrain.epoch: unknown key. Did you mean 'epochs'?",
    ]
    child.write_text("base: tiny.yaml\n")
    assert "child.yaml: name: is missing." in mistakes(child)


def test_a_base_that_is_absent_or_circular(file: Path, tmp_path: Path):
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


def test_a_base_is_found_by_name_or_by_path(file: Path, tmp_path: Path):
    child = tmp_path / "child.yaml"
    child.write_text("base: demo\nname: child\nseeds: [0, 1]\n")
    found, demo = recipe.read(child), recipe.read("demo")
    assert found == demo.model_copy(update={"name": "child", "seeds": (0, 1)})
    (tmp_path / "demo.yaml").write_text(GOOD)
    child.write_text("base: demo.yaml\nname: child\n")
    assert recipe.read(child).subsets[0].name == "all" and len(recipe.read(child).subsets) == 1, (
        "a path is from here"
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


def test_a_scale_overrides_the_file_and_set_overrides_the_scale(file: Path):
    file.write_text(SCALES)
    plain, tiny = recipe.read(file), recipe.read(file, ["scale=tiny"])
    assert plain == recipe.read(edited(file, "name", "name")) and plain.scale is None
    file.write_text(SCALES)
    assert (tiny.pretrain.epochs, tiny.pretrain.optimizer.lr, tiny.eps, set(tiny.methods)) == (
        1,
        0.5,
        (0.0,),
        {"full"},
    )
    assert (tiny.name, tiny.scale) == ("tiny_tiny", "tiny")
    for order in (["scale=tiny", "pretrain.epochs=7"], ["pretrain.epochs=7", "scale=tiny"]):
        assert recipe.read(file, order).pretrain.epochs == 7
    assert recipe.read(file, ["scale=wrong", "scale=tiny"]) == tiny, "the last one counts"
    file.write_text(SCALES + "scale: tiny\n")
    assert recipe.read(file) == tiny and recipe.read(file, ["scale=null"]) == plain
    file.write_text(SCALES.replace("tiny: {", "tiny: {name: small, "))
    assert recipe.read(file, ["scale=tiny"]).name == "small"


def test_a_scale_may_have_a_number_as_its_name(file: Path):
    file.write_text(SCALES + "  64: {pretrain: {epochs: 9}}\n")
    found = recipe.read(file, ["scale=64"])
    assert (found.name, found.scale, found.pretrain.epochs) == ("tiny_64", "64", 9)


def test_scales_are_inherited(file: Path, tmp_path: Path):
    file.write_text(SCALES)
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
    file: Path, more: str, override: str, expected: str
):
    file.write_text(SCALES + more)
    assert mistakes(file, override) == [expected]


VARIANTS = (
    GOOD.replace("eps: [0, 0.5]", "eps: [0]")
    + """\
variants:
  plain: {}
  smooth: {label_smoothing: 0.1, optimizer: {momentum: 0.8}}
  published: {preset: salman}
"""
)


def test_variants_override_pretrain(file: Path):
    file.write_text(VARIANTS)
    found = recipe.read(file)
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
    file: Path, old: str, new: str, expected: str
):
    assert old in VARIANTS
    file.write_text(VARIANTS.replace(old, new))
    found = mistakes(file)
    assert len(found) == 1 and found[0].startswith(expected), found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "exclude: [{subset: al}]",
            "exclude.0.subset: there is no subset of this recipe named 'al'. Did you mean all?",
        ),
        (
            "exclude: [{subset: 'b*'}]",
            "exclude.0.subset: there is no subset of this recipe named 'b*'.",
        ),
        ("exclude: [{eps: [0, 3]}]", "exclude.0.eps: there is no eps of this recipe named '3.0'."),
        (
            "exclude: [{model: resnet10}]",
            "exclude.0.model: there is no model of this recipe named 'resnet10'. Known: none.",
        ),
        ("exclude: [{}]", "exclude.0: name the points, such as {subset: in900, eps: 3}."),
        (
            "exclude: [{model: a, eps: 0}]",
            "exclude.0: a pretrained model has none of the axes",
        ),
        ("exclude: [{epss: 0}]", "exclude.0.epss: unknown key. Did you mean 'eps'?"),
        (
            "exclude: [{eps: 0}, {eps: 0, target: synthetic_patterns}]",
            "exclude.1: has no effect: it matches no point",
        ),
        (
            "include: [{eps: 0.5}]",
            "include.0: has no effect: the recipe has all of its points already.",
        ),
        ("include: [{eps: 1}, {eps: 1, method: fixed}]", "include.1: has no effect"),
        (
            "include: [{subset: in900}]",
            "include.0.subset: there is no subset of this recipe named 'in900'.",
        ),
    ],
)
def test_a_mistake_in_include_or_exclude_is_reported_with_its_line(
    file: Path, line: str, expected: str
):
    file.write_text(GOOD + line + "\n")
    found = mistakes(file)
    assert len(found) == 1 and found[0].startswith(f"tiny.yaml:14: {expected}"), found


def test_attack_settings_have_an_effect_if_include_adds_an_eps(file: Path):
    file.write_text(
        GOOD.replace("eps: [0, 0.5]", "eps: [0]").replace(
            "epochs: 2\n  opt", "attack: {steps: 2}\n  opt"
        )
        + "include: [{eps: 1}]\n"
    )
    assert recipe.read(file).pretrain.attack.steps == 2


def test_a_file_keeps_its_own_settings_above_a_scale_of_its_base(file: Path):
    file.write_text(
        GOOD + "scales: {small: {eps: [0], pretrain: {epochs: 1, batch_size: 8}, "
        "targets: [{dataset: synthetic_patterns, name: fewer}]}}\n"
    )
    mine = file.with_name("mine.yaml")
    mine.write_text(
        "base: tiny.yaml\nname: mine\neps: [0, 3]\ntargets: [{path: photos}]\n"
        "scales: {small: {pretrain: {batch_size: 4}}}\n"
    )
    found = recipe.read(mine, ["scale=small"])
    assert found.name == "mine_small" and found.eps == (0, 3)
    assert [target.label for target in found.targets] == ["photos"]
    assert (found.pretrain.epochs, found.pretrain.batch_size) == (1, 4)
    assert recipe.read(mine, ["scale=small", "eps=[0.25]"]).eps == (0.25,)
    assert recipe.read(file, ["scale=small"]).eps == (0,)


def test_a_file_replaces_a_scale_of_its_base_that_is_no_mapping(file: Path):
    file.write_text(GOOD + "scales: {small: 5}\n")
    own = file.with_name("own.yaml")
    own.write_text(f"base: {file.name}\nname: own\nscales: {{small: {{seeds: [3]}}}}\n")
    assert recipe.read(own, ["scale=small"]).seeds == (3,)


def test_a_mistake_of_a_base_explains_how_to_override_it(file: Path, tmp_path: Path):
    edited(file, "epochs: 2\n  opt", "attack: {steps: 3}\n  opt")
    child = tmp_path / "child.yaml"
    child.write_text("base: tiny.yaml\nname: child\neps: [0]\n")
    with pytest.raises(UserError) as caught:
        recipe.read(child)
    assert "in child.yaml" in caught.value.hint and "null" in caught.value.hint
    child.write_text(child.read_text() + "pretrain: {attack: null}\n")
    assert recipe.read(child).eps == (0.0,)


def test_a_mistake_of_the_recipe_itself_is_not_called_inherited(file: Path, tmp_path: Path):
    child = tmp_path / "child.yaml"
    child.write_text("base: tiny.yaml\nname: child\neps: all\n")
    with pytest.raises(UserError) as caught:
        recipe.read(child)
    assert "inherited" not in caught.value.hint
