"""Reading recipes: YAML, overrides, and mistakes reported with file, line and fix."""

from pathlib import Path

import pytest

from harness.config import load as recipe
from harness.config.recipe import Recipe
from tests.helpers.tiny_recipe import GOOD, edited, mistakes
from writers.errors import UserError


def test_reads_yaml_1_2(recipe_file: Path):
    found = recipe.read(recipe_file)
    assert found.pretrain.optimizer.lr == 0.001, "1e-3 is a number"
    assert found.eps == (0.0, 0.5) and found.methods["fixed"].epochs == 2


def test_packaged_recipes_are_valid_by_name_and_by_path():
    for name in recipe.available():
        by_name = recipe.read(name)
        assert isinstance(by_name, Recipe)
        assert recipe.read(recipe.FOLDER / f"{name}.yaml") == by_name


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
def test_a_mistake_is_named_with_its_line(recipe_file: Path, old: str, new: str, expected: str):
    found = mistakes(edited(recipe_file, old, new))
    assert len(found) == 1 and found[0].startswith(expected), found


def test_all_mistakes_are_reported_at_once(recipe_file: Path):
    recipe_file.write_text(
        GOOD.replace("epochs: 2\n  opt", "epoch: 2\n  opt")
        .replace("[resnet10]", "[resnet_10]")
        .replace("fixed: {epochs: 2}", "fixed: {epochs: 2, batch_size: big}")
    )
    found = mistakes(recipe_file)
    assert sorted(line.split(":")[1] for line in found) == ["13", "4", "7"]


def test_an_unknown_recipe_suggests_similar_names(recipe_file: Path):
    with pytest.raises(UserError, match="There is no recipe named 'robust_l3'") as caught:
        recipe.read("robust_l3")
    assert caught.value.hint == "Did you mean robust_l2 or robust_linf?"
    with pytest.raises(UserError, match=r"There is no recipe nowhere/demo\.yaml"):
        recipe.read("nowhere/demo.yaml")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("mine", "Did you mean mine.yaml?"),
        ("mien.yaml", "Did you mean mine.yaml?"),
        ("studies/pest.yaml", "Did you mean studies/pets.yml?"),
    ],
)
def test_an_unknown_recipe_suggests_files(
    given: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "mine.yaml").write_text(GOOD)
    (tmp_path / "studies" / "pets.yml").write_text(GOOD)
    with pytest.raises(UserError, match="There is no recipe") as caught:
        recipe.read(given)
    assert caught.value.hint == hint


def test_a_folder_is_no_recipe(recipe_file: Path):
    for folder in (recipe_file.parent, "."):
        with pytest.raises(UserError, match="is a folder, not a recipe") as caught:
            recipe.read(folder)
        assert caught.value.hint.endswith("tiny.yaml.")


def test_files_that_are_not_recipes_are_refused(recipe_file: Path):
    recipe_file.write_text("- a\n- b\n")
    assert mistakes(recipe_file) == ["tiny.yaml: a recipe is a mapping of settings."]
    recipe_file.write_bytes(b"\xff\xfe\x00")
    (message,) = mistakes(recipe_file)
    assert message.startswith("tiny.yaml:1 cannot be read as text in UTF-8: '")
    recipe_file.write_text("")
    assert mistakes(recipe_file) == ["tiny.yaml: a recipe is a mapping of settings."]


def test_nothing_in_a_recipe_is_executed(recipe_file: Path):
    recipe_file.write_text(
        GOOD.replace("name: tiny", "name: !!python/object/apply:os.system ['touch executed']")
    )
    assert mistakes(recipe_file) == [
        "tiny.yaml:1: a recipe cannot have YAML tags, such as "
        "tag:yaml.org,2002:python/object/apply:os.system."
    ]
    assert not Path("executed").exists()


def test_a_self_referencing_alias_is_refused(recipe_file: Path):
    recipe_file.write_text("name: &a [*a]\n")
    assert mistakes(recipe_file) == ["tiny.yaml:1: the value contains itself."]


def test_set_overrides_single_settings(recipe_file: Path):
    found = recipe.read(
        recipe_file,
        [
            "pretrain.epochs=7",
            "eps=[0]",
            "pretrain.optimizer.lr=1e-2",
            "targets.0.val=0.3",
            "evaluate.batch_size=8",
            "question=what",
        ],
    )
    assert found.pretrain.epochs == 7
    assert found.eps == (0.0,)
    assert found.pretrain.optimizer.lr == 0.01
    assert found.targets[0].val == 0.3
    assert found.evaluate.batch_size == 8
    assert found.question == "what"
    assert recipe.read(recipe_file, ["pretrain.optimizer=null"]).pretrain.optimizer.lr == 0.5, (
        "null restores the default"
    )
    assert (
        recipe.read(recipe_file, ["pretrain.epochs=3", "pretrain.epochs=4"]).pretrain.epochs == 4
    ), "the last value applies"


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
def test_a_wrong_override_is_named(recipe_file: Path, override: str, expected: str):
    found = mistakes(recipe_file, override)
    assert len(found) == 1 and found[0].startswith(expected), found


def test_attack_settings_of_a_file_are_accepted_if_set_turns_attacks_off(recipe_file: Path):
    edited(recipe_file, "epochs: 2\n  opt", "attack: {steps: 3}\n  opt")
    assert recipe.read(recipe_file, ["eps=[0]"]).eps == (0.0,)


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
            "exclude.1: has no effect: it matches no point that the entries before it leave.",
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
    recipe_file: Path, line: str, expected: str
):
    recipe_file.write_text(GOOD + line + "\n")
    found = mistakes(recipe_file)
    assert len(found) == 1 and found[0].startswith(f"tiny.yaml:14: {expected}"), found


def test_attack_settings_have_an_effect_if_include_adds_an_eps(recipe_file: Path):
    recipe_file.write_text(
        GOOD.replace("eps: [0, 0.5]", "eps: [0]").replace(
            "epochs: 2\n  opt", "attack: {steps: 2}\n  opt"
        )
        + "include: [{eps: 1}]\n"
    )
    assert recipe.read(recipe_file).pretrain.attack.steps == 2
