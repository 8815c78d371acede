"""`harness plan` prints how many pretrainings a selection of classes or images costs."""

import json
from pathlib import Path

from click.testing import CliRunner

from harness.cli.main import cli
from harness.config import load as recipe
from harness.matrix.expand import expand


def shown(tmp_path: Path, name: str, *more: str) -> str:
    folders = [f"--{kind}-dir={tmp_path / kind}" for kind in ("runs", "raw", "data")]
    found = CliRunner().invoke(cli, ["plan", name, "--set", "scale=tiny", *folders, *more])
    assert found.exit_code == 0, found.output
    return " ".join(found.stdout.split())


def test_a_selection_per_target_costs_a_pretraining_for_each(tmp_path: Path):
    text = shown(tmp_path, "which_classes")
    stages = expand(recipe.read("which_classes", ["scale=tiny"])).stages
    trained = [stage for stage in stages if stage.kind == "pretrain"]
    assert f"pretrainings: {len(trained)}, of which 7 score classes or images" in text
    assert "4 influence" in text and "1 surrogate" in text
    # 2 targets x 2 eps; influence is clean only
    assert "label_mapping: 4 pretrainings for 2 targets, 2 for each" in text
    assert "influence: 2 pretrainings for 2 targets, 1 for each" in text
    assert "el2n: 1 pretraining" in text
    assert "hours of one device" not in text


def test_hours_follow_from_the_time_of_a_finished_model(tmp_path: Path):
    """The finished model took an hour per unit of work; the same is assumed of the others."""
    stages = expand(recipe.read("which_classes", ["scale=tiny"])).stages
    stage = next(stage for stage in stages if stage.kind == "pretrain" and "role" not in stage.axes)
    folder = stage.folder(tmp_path / "runs")
    folder.mkdir(parents=True)
    record = {
        **{key: stage.to_json()[key] for key in ("kind", "key", "name", "axes", "config")},
        "needs": {},
        "metrics": {},
        "environment": {},
        "started_at": "2026-01-01T00:00:00+00:00",
        "wall_s": 3600.0 * stage.spec.work(stage.config),
    }
    (folder / "result.json").write_text(json.dumps(record))
    text = shown(tmp_path, "which_classes")
    models = [s for s in stages if s.kind == "pretrain" and s.axes["subset"] == "el2n"]
    hours = sum(model.spec.work(model.config) for model in models)
    assert f"el2n: 1 pretraining, about {hours:.1f} hours of one device" in text


def test_a_damaged_calibration_is_read_and_reported_once(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "calibration.json").write_text("{")
    folders = [f"--{kind}-dir={tmp_path / kind}" for kind in ("runs", "raw", "data")]
    found = CliRunner().invoke(cli, ["plan", "which_classes", "--set", "scale=tiny", *folders])
    assert found.exit_code == 0, found.output
    assert "el2n: 1 pretraining" in " ".join(found.stdout.split())
    assert found.stderr.count("calibration.json") == 1


def test_a_recipe_without_selections_has_no_line(tmp_path: Path):
    assert "pretrainings" not in shown(tmp_path, "robust_l2")


def test_status_counts_the_many_models_that_score_classes(tmp_path: Path):
    folders = [f"--{kind}-dir={tmp_path / kind}" for kind in ("runs", "raw", "data")]
    more = ["--set", "scale=tiny", "--set", "selection.influence.num_models=6", *folders]
    found = CliRunner().invoke(cli, ["status", "influence", *more])
    assert found.exit_code == 0, found.output
    lines = [line.split() for line in found.stdout.splitlines()]
    assert ["pretrain", "of", "influence", "0/6"] in lines
    assert ["transfer", "of", "influence", "0/12"] in lines
    assert not any(line and line[0].startswith("pretrain/influence/") for line in lines)


def test_status_counts_stages_of_one_name(tmp_path: Path):
    """Label and feature mapping both extract features of a target: one row counts both stages."""
    folders = [f"--{kind}-dir={tmp_path / kind}" for kind in ("runs", "raw", "data")]
    found = CliRunner().invoke(cli, ["status", "which_classes", "--set", "scale=tiny", *folders])
    assert found.exit_code == 0, found.output
    stages = expand(recipe.read("which_classes", ["scale=tiny"])).stages
    name = "features/selection/synthetic_scenes"
    number = sum(stage.name == name for stage in stages)
    assert number > 1
    assert [name, f"0/{number}"] in [line.split() for line in found.stdout.splitlines()]
