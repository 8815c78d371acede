"""Results that somebody edited are refused by file and field, instead of failing in a report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.benches._fabricate import write_results
from harness.cli.main import main
from harness.config.load import read
from harness.matrix.expand import Matrix, expand
from harness.runner import metrics_types, result
from writers import names
from writers.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Matrix, Path]:
    """The demo's stages and a folder with a made-up result of each."""
    matrix, runs = expand(read("demo")), tmp_path_factory.mktemp("runs")
    write_results(matrix.stages, runs, with_predictions=True)
    return matrix, runs


@pytest.mark.parametrize("kind", names.names("harness.stages"))
def test_every_kind_declares_the_types_of_its_metrics(kind: str):
    nothing = result.Result(
        kind=kind,
        key="",
        name="",
        axes={},
        config={},
        needs={},
        metrics={},
        environment={},
        started_at="",
        wall_s=0,
    )
    assert metrics_types.problem(nothing) is None
    assert "field required" in (metrics_types.problem(nothing, may_lack=False) or "")


def test_results_have_the_declared_types(finished: tuple[Matrix, Path]):
    matrix, runs = finished
    records = [metrics_types.load_checked(stage.folder(runs)) for stage in matrix.stages]
    problems = [metrics_types.problem(record, may_lack=False) for record in records if record]
    assert problems == [None] * len(matrix.stages)


def set_to(*place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        inner = record
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value

    return change


def without(*place: str) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        inner = record
        for name in place[:-1]:
            inner = inner[name]
        del inner[place[-1]]

    return change


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("transfer", set_to("metrics", "lr", value="\x1b[31m"), "metrics.lr: "),
        ("transfer", set_to("metrics", "test", value=[]), "metrics.test: "),
        ("transfer", set_to("metrics", "grid", value=[{}, 1]), "metrics.grid: "),
        ("transfer", set_to("timing", "gpu_fed", value="../../etc"), "timing.gpu_fed: "),
        ("rank", set_to("metrics", "accuracy", value={"n01440764": {}}), "metrics.accuracy."),
        ("evaluate", set_to("metrics", "adversarial", value=3.7), "metrics.adversarial: "),
        ("pretrain", set_to("metrics", "num_parameters", value=True), "metrics.num_parameters: "),
        ("write", without("metrics", "splits", "train", "path"), "path: field required"),
        (
            "evaluate",
            without("metrics", "clean", "common_unmasked", "num_images"),
            "num_images: field required",
        ),
        ("pretrain", set_to("metrics", "num_classes", value=-1), "metrics.num_classes: "),
        ("transfer", set_to("metrics", "test", "top1", value=-0.5), "metrics.test.top1: "),
        ("transfer", set_to("metrics", "test", "top1", value=54.2), "metrics.test.top1: "),
        ("transfer", set_to("metrics", "lr", value=float("nan")), "is not a result"),
        ("transfer", set_to("metrics", "lr", value=float("inf")), "is not a result"),
    ],
)
def test_an_edited_result_is_named_in_one_line(
    kind: str,
    change: Callable[[dict[str, Any]], None],
    words: str,
    finished: tuple[Matrix, Path],
    capfd: pytest.CaptureFixture[str],
):
    matrix, runs = finished
    stage = next(stage for stage in reversed(matrix.stages) if stage.kind == kind)
    file = stage.folder(runs) / result.FILE_NAME
    original = file.read_bytes()
    record = json.loads(original)
    change(record)
    file.write_text(json.dumps(record))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["report", "demo", "--runs-dir", str(runs)])
    finally:
        file.write_bytes(original)
    error = capfd.readouterr().err
    assert ended.value.code == 2
    assert str(file) in error and words in error
    assert len(error.splitlines()) == 2


def test_predictions_are_read_from_the_stages_own_folder_only(
    finished: tuple[Matrix, Path], tmp_path: Path
):
    matrix, runs = finished
    stage = next(stage for stage in matrix.stages if stage.kind == "transfer")
    file = stage.folder(runs) / result.FILE_NAME
    original = file.read_bytes()
    record = json.loads(original)
    record["metrics"]["predictions"] = "/dev/zero"  # reading it would never end
    file.write_text(json.dumps(record))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["report", "demo", "--runs-dir", str(runs), "--out", str(tmp_path / "page")])
    finally:
        file.write_bytes(original)
    assert not ended.value.code


def test_a_stage_refuses_an_edited_result_that_it_needs(finished: tuple[Matrix, Path]):
    matrix, runs = finished
    folder = next(stage for stage in matrix.stages if stage.kind == "pretrain").folder(runs)
    record = json.loads((folder / result.FILE_NAME).read_text())
    record["metrics"]["num_steps"] = "many"
    edited = folder.with_name("edited") / folder.name
    edited.mkdir(parents=True)
    (edited / result.FILE_NAME).write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"metrics\.num_steps: input should be a valid integer"):
        metrics_types.load_checked(edited)
