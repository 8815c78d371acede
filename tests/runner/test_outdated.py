"""Finished stages outdated by a change of defaults or code are counted, with the reason."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import cli
from harness.config.load import read
from harness.matrix import stage_kind
from harness.matrix.expand import Matrix, expand
from harness.matrix.stage import Stage
from harness.runner import outdated, provenance, result
from harness.runner.executor import prepare, unfinished
from harness.runner.result import Result
from harness.system.folders import Folders

RECIPE = """
name: tiny
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
pretrain: {epochs: 2, resolution: 32}
targets: [{dataset: synthetic_patterns}]
methods: {fixed: {epochs: 1}, logreg: {}}
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(RECIPE)
    return Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")


def plan(*overrides: str) -> Matrix:
    return expand(read("tiny.yaml", overrides))


def finish(matrix: Matrix, folders: Folders, kinds: tuple[str, ...] = ("evaluate",)) -> None:
    recipe_file = provenance.keep_recipe(matrix.recipe, folders.runs)
    for stage in matrix.stages:
        if stage.kind in kinds:
            folder = stage.folder(folders.runs)
            folder.mkdir(parents=True)
            prepare(stage, folder, recipe_file)
            result.save(as_record(stage), folder)


def as_record(stage: Stage) -> Result:
    needs = {role: need.key for role, need in stage.needs.items()}
    return Result(
        kind=stage.kind,
        key=stage.key,
        name=stage.name,
        axes=stage.axes,
        config=stage.config,
        needs=needs,
        metrics={},
        environment={},
        started_at="",
        wall_s=1.0,
    )


def outdated_stages(matrix: Matrix, folders: Folders) -> list[tuple[str, str, str]]:
    return [
        (old.successor.kind, old.reason, old.details)
        for old in outdated.find(matrix, folders.runs, unfinished(matrix, folders))
    ]


def with_config(matrix: Matrix, kind: str, change: dict[str, Any]) -> Matrix:
    """Return the matrix with changed settings of one kind, as if its defaults were different."""
    stages = tuple(
        replace(stage, config={**stage.config, "settings": {**stage.config["settings"], **change}})
        if stage.kind == kind
        else stage
        for stage in matrix.stages
    )
    return Matrix(matrix.recipe, stages)


def test_a_finished_matrix_has_no_outdated_stages(folders: Folders):
    finish(plan(), folders)
    assert outdated_stages(plan(), folders) == []


def test_a_changed_default_is_named(folders: Folders):
    finish(with_config(plan(), "evaluate", {"batch_size": 7}), folders)
    assert outdated_stages(plan(), folders) == [
        ("evaluate", "changed default", "settings.batch_size"),
    ]


def test_settings_of_another_recipe_are_not_outdated(folders: Folders):
    finish(plan("evaluate.batch_size=7"), folders)
    assert outdated_stages(plan(), folders) == []


def test_a_changed_need_is_distinguished_from_a_changed_setting(folders: Folders):
    """The settings of the evaluation are equal; those of the model that it needs differ."""
    matrix = plan()
    model = next(stage for stage in matrix.stages if stage.kind == "pretrain")
    other = replace(model, config={**model.config, "settings": {"epochs": 1}})
    before = tuple(
        replace(stage, needs={**stage.needs, "model": other}) if stage.kind == "evaluate" else stage
        for stage in matrix.stages
    )
    finish(Matrix(matrix.recipe, before), folders)
    assert outdated_stages(matrix, folders) == [("evaluate", "needed stage", "model")]


@pytest.mark.parametrize("overrides", [(), ("evaluate.batch_size=7",)])
def test_results_of_an_older_code_version_are_counted_and_stay_readable(
    folders: Folders,
    overrides: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    find = stage_kind.find
    version = find("evaluate").version

    def earlier(kind: str, package: str = stage_kind.STAGES_PACKAGE) -> stage_kind.StageKind:
        return replace(find(kind, package), version=find(kind, package).version - 1)

    with monkeypatch.context() as patch:
        patch.setattr(stage_kind, "find", earlier)
        old = plan(*overrides)
        finish(old, folders, ("evaluate", "transfer"))
        keys = {stage.kind: stage.key for stage in old.stages}
    by_kind = Counter(kind for kind, reason, _ in outdated_stages(plan(), folders))
    assert by_kind == {"evaluate": 1, "transfer": 2}
    assert ("evaluate", "code version", f"version {version - 1}, now {version}") in outdated_stages(
        plan(), folders
    )
    record = result.load(folders.runs / "stages" / "evaluate" / keys["evaluate"])
    assert record is not None and record.name == "evaluate/all/eps0/seed0"
    arguments = ["tiny.yaml", "--data-dir", str(folders.data), "--runs-dir", str(folders.runs)]
    with pytest.raises(SystemExit):
        cli(["plan", *arguments, "--json"])
    assert json.loads(capsys.readouterr().out)["outdated"] == {"code version": 3}
    with pytest.raises(SystemExit):
        cli(["plan", *arguments])
    assert "outdated: 3 finished stages" in capsys.readouterr().out


def test_damaged_records_are_skipped(folders: Folders):
    finish(with_config(plan(), "evaluate", {"batch_size": 7}), folders)
    (file,) = folders.runs.glob("stages/evaluate/*/stage.json")
    for text in ("{", "[]", '{"name": "evaluate/all/eps0/seed0"}'):
        file.write_text(text)
        assert outdated_stages(plan(), folders) == []
