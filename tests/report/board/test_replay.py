"""The command that a leaderboard shows for a row runs the row's stage, with shipped recipes."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from harness.config.load import read
from harness.matrix.expand import expand
from harness.matrix.stage import Stage
from harness.report.board.exported import published_recipe
from harness.report.board.merge import Merged
from harness.report.board.replay import command
from harness.report.board.row import BoardRow
from harness.report.board.standings import board
from harness.report.board.tables import _replay_cell
from tests.helpers.board_rows import row

# robust_l2 and robust_linf have clean and robust models, better_models has variants of pretraining,
# and model_zoo has models whose weights are loaded.
RECIPES = ["robust_l2", "robust_linf", "better_models", "model_zoo"]


def row_of(stage: Stage, recipe: str) -> BoardRow:
    axes = {name: value for name, value in stage.axes.items() if value is not None}
    names: dict[str, Any] = dict.fromkeys(
        ("model", "subset", "variant", "arch", "target", "method"), ""
    )
    names |= {name: axes[name] for name in names if name in axes}
    kind = "transfer" if stage.kind == "transfer" else "source"
    return row(
        **names, kind=kind, eps=float(axes.get("eps", 0)), seed=axes.get("seed", 0), recipe=recipe
    )


@pytest.mark.parametrize("name", RECIPES)
def test_commands_plan_the_stage(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digest, settings = published_recipe(read(name, ["scale=tiny"]))
    stages = expand(read(name, ["scale=tiny"])).stages
    for kind in ("transfer", "evaluate"):
        found = [stage for stage in stages if stage.kind == kind and "role" not in stage.axes]
        for stage in found[:1] + found[-1:]:
            words = shlex.split(command(row_of(stage, digest), settings, whole_model=False))
            Path(words[2]).write_text(json.dumps(settings))
            planned = expand(read(words[2], [word for word in words[3:] if word != "--set"])).stages
            keys = {one.key for one in planned if one.kind == kind}
            assert stage.key in keys
            if kind == "transfer":
                assert len(keys) == 1
            assert len(planned) <= len(stages)


def test_the_command_of_a_model_does_not_add_targets_that_its_recipe_excludes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models of a subset that was selected for one target are transferred to that target only."""
    monkeypatch.chdir(tmp_path)
    recipe = read("which_classes", ["scale=tiny"])
    digest, settings = published_recipe(recipe)
    stages = [
        stage
        for stage in expand(recipe).stages
        if stage.kind == "transfer"
        and stage.axes.get("subset") == "label-mapping-synthetic_scenes"
        and (stage.axes["method"], stage.axes["eps"]) == ("full", 0.0)
    ]
    targets = [stage.axes["target"] for stage in stages]
    assert targets == ["synthetic_scenes"]
    words = shlex.split(
        command(row_of(stages[0], digest), settings, whole_model=True, targets=targets)
    )
    Path(words[2]).write_text(json.dumps(settings))
    planned = expand(read(words[2], [word for word in words[3:] if word != "--set"])).stages
    found = {one.key for one in planned if one.kind == "transfer" and "role" not in one.axes}
    assert found == {stages[0].key}


@pytest.mark.parametrize("common", ["[all,minus1,minus2]", "null"])
def test_the_command_of_a_source_row_does_not_add_subsets_that_its_recipe_excludes(
    common: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fewer_classes trains no robust models on its control subsets, such as random classes.

    If `common` is null, models are compared on the classes that all subsets share, also the
    control subsets.
    """
    monkeypatch.chdir(tmp_path)
    recipe = read("fewer_classes", ["scale=tiny", f"evaluate.common={common}"])
    digest, settings = published_recipe(recipe)
    stages = [stage for stage in expand(recipe).stages if stage.kind == "evaluate"]
    robust = [stage for stage in stages if stage.axes["eps"]]
    left = {stage.axes["subset"] for stage in robust}
    rows = tuple(row_of(stage, digest) for stage in stages)
    assert len(left) < len(recipe.subsets) and settings["exclude"]
    page = board(Merged(rows, {digest: settings}, 0))
    words = shlex.split(_replay_cell(page, row_of(robust[0], digest)).folded[1])
    Path(words[2]).write_text(json.dumps(settings))
    planned = expand(read(words[2], [word for word in words[3:] if word != "--set"])).stages
    evaluated = [one for one in planned if one.kind == "evaluate"]
    assert {one.axes["subset"] for one in evaluated if one.axes["eps"]} == left
    again = next(one for one in evaluated if one.name == robust[0].name)
    shared = [
        {need.axes["subset"] for role, need in stage.needs.items() if role.startswith("common_")}
        for stage in (again, robust[0])
    ]
    assert shared[0] == shared[1] and len(shared[0]) > 1
    if common == "null":
        # The shared classes depend on the control subsets, so their clean models run too.
        assert again.key == robust[0].key
        assert {one.axes["subset"] for one in evaluated if not one.axes["eps"]} == {
            subset.name for subset in recipe.subsets
        } - left


def test_commands_quote_names_of_a_row() -> None:
    hostile = "$(reboot); 'x' \"y\" `z`"
    recipe = {"name": "demo", "archs": [hostile], "source": {}}
    one = row(subset=hostile, target=hostile, method=hostile, arch=hostile, recipe="1" * 16)
    words = shlex.split(command(one, recipe, whole_model=False))
    assert words[:3] == ["harness", "run", f"demo-{'1' * 16}.json"]
    assert len(words) == 3 + 2 * 2
    (point,) = json.loads(words[6].partition("=")[2])
    assert {point["subset"], point["target"], point["method"], point["arch"]} == {hostile}
    assert command(one, None, whole_model=False) == ""
