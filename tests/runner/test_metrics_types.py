"""Edited results are refused with an error that names file and field; reports omit them."""

import html
import json
import re
import shutil
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

HUGE = "1e999"  # is parsed as infinity


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Matrix, Path]:
    """Return the demo's matrix, and a runs folder with a made-up result of each stage."""
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


def edit(file: Path, change: Callable[[dict[str, Any]], None], written: Path | None = None) -> None:
    """Change a result file as a text editor could: `HUGE` becomes a number, not a string.

    The changed result replaces the file, or is written to `written` if that is given.
    """
    record = json.loads(file.read_text())
    change(record)
    text = re.sub(rf'"(-?{HUGE})"', r"\1", json.dumps(record), flags=re.IGNORECASE)
    (written or file).write_text(text)


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
        ("pretrain", set_to("metrics", "num_classes", value=-1), "metrics.num_classes: "),
        ("transfer", set_to("metrics", "test", "top1", value=-0.5), "metrics.test.top1: "),
        ("transfer", set_to("metrics", "test", "top1", value=54.2), "metrics.test.top1: "),
        ("transfer", set_to("metrics", "test", "num_images", value=0), "metrics.test.num_images: "),
        ("transfer", set_to("metrics", "num_classes", value=2**63), "metrics.num_classes: "),
        ("transfer", without("metrics", "val", "top1"), "metrics.val.top1: field required"),
        ("transfer", set_to("metrics", "lr", value=float("nan")), "NaN or infinite"),
        ("transfer", set_to("metrics", "lr", value=float("inf")), "NaN or infinite"),
        (
            "transfer",
            set_to("metrics", "grid", value=[{"lr": HUGE}]),
            "a number is NaN or infinite",
        ),
        ("transfer", set_to("wall_s", value="long"), "wall_s: input should be a valid number"),
        ("transfer", without("metrics"), "metrics: field required"),
        (
            "transfer",
            set_to("metrics", "lr", value=f"-{HUGE}".upper()),
            "a number is NaN or infinite",
        ),
    ],
)
def test_an_edited_result_is_refused_by_file_and_field(
    kind: str,
    change: Callable[[dict[str, Any]], None],
    words: str,
    finished: tuple[Matrix, Path],
    tmp_path: Path,
):
    matrix, runs = finished
    folder = next(stage for stage in reversed(matrix.stages) if stage.kind == kind).folder(runs)
    edited = tmp_path / folder.name
    edited.mkdir()
    edit(folder / result.FILE_NAME, change, edited / result.FILE_NAME)
    with pytest.raises(UserError) as error:
        metrics_types.load_checked(edited)
    assert str(edited / result.FILE_NAME) in error.value.message
    assert words in error.value.message and "\n" not in error.value.message


def test_a_report_leaves_out_and_names_results_that_it_cannot_use(
    finished: tuple[Matrix, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    matrix, runs = finished
    shutil.copytree(runs, tmp_path / "runs")
    transfers, evaluations = (
        [stage for stage in matrix.stages if stage.kind == kind]
        for kind in ("transfer", "evaluate")
    )
    files = {
        stage.name: stage.folder(tmp_path / "runs") / result.FILE_NAME
        for stage in (*transfers[:6], evaluations[0])
    }
    empty, cut, diverged, impossible, unknown, no_score, no_number = files.values()
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:-100])
    edit(diverged, set_to("metrics", "test", "top1", value=float("nan")))
    edit(impossible, set_to("metrics", "test", "top1", value=HUGE))
    unknown.unlink()
    unknown.mkdir()
    edit(no_score, without("metrics", "test", "top1"))
    edit(no_number, without("metrics", "clean", "common_unmasked", "num_images"))

    out = tmp_path / "page"
    formats = ("--format", "html", "--format", "md", "--format", "csv")
    with pytest.raises(SystemExit) as ended:
        main(["report", "demo", "--runs-dir", str(tmp_path / "runs"), "--out", str(out), *formats])
    printed = capfd.readouterr().err
    assert not ended.value.code
    assert "2 more results" in printed and str(tmp_path / "runs") in printed
    page = html.unescape((out / "index.html").read_text())
    markdown, table = ((out / name).read_text() for name in ("report.md", "unfinished.csv"))
    for text in (page, markdown.replace("\\_", "_"), table):
        for name, file in files.items():
            assert name in text and str(file.relative_to(tmp_path / "runs")) in text
        assert "common_unmasked.num_images: field required" in text
    for text in (page, markdown):
        assert "7 results are left out" in text
        assert f"{len(matrix.stages) - 7} of {len(matrix.stages)} done" in text or text == markdown
    left = (out / "transfer.csv").read_text()
    assert not any(stage.key in left for stage in transfers[:6])
    assert all(stage.key in left for stage in transfers[6:])


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
