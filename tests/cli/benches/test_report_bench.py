"""`harness bench report` fabricates a result for every stage, and the report accepts them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.benches._fabricate import write_results
from harness.cli.benches.report import ReportCost
from harness.cli.main import cli
from harness.config.load import read
from harness.matrix.expand import expand
from harness.report.data.collection import Collection
from harness.report.data.grid_rows import GridRows
from harness.report.data.rows import score_rows, transfer_rows
from harness.runner import result

RECIPES = (
    "better_models",
    "fewer_classes",
    "non_binary",
    "robust_l2",
    "vtab",
    "what_makes_imagenet_good",
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_stage_of_a_recipe_gets_a_result_that_the_report_accepts(recipe: str, tmp_path: Path):
    matrix = expand(read(recipe, ["scale=tiny"]))
    assert write_results(matrix.stages, tmp_path, with_predictions=True) == len(matrix.stages)
    records = [result.load(stage.folder(tmp_path)) for stage in matrix.stages]
    loaded = [record for record in records if record is not None]
    assert len(loaded) == len(matrix.stages)
    rows = transfer_rows(Collection(matrix.recipe, loaded))
    assert len(rows) == sum(stage.kind == "transfer" for stage in matrix.stages)
    assert all(0 < row.score < 1 for row in rows)


def test_a_shortlist_skips_the_other_models_and_grids_are_complete(tmp_path: Path):
    models = "[squeezenet1_1, torchvision/alexnet, torchvision/resnet18]"
    matrix = expand(read("model_zoo", ["scale=tiny", f"models={models}"]))
    gated = [stage for stage in matrix.stages if stage.gated_by]
    num_results = write_results(matrix.stages, tmp_path)
    assert len(gated) == 3 and num_results == len(matrix.stages) - 2
    loaded = [record for s in matrix.stages if (record := result.load(s.folder(tmp_path)))]
    results = Collection(matrix.recipe, loaded)
    best = max((row for row in score_rows(results) if row.name == "knn"), key=lambda row: row.value)
    trained = {row.model for row in transfer_rows(results) if row.method == "full"}
    assert trained == {best.model}
    settings = [row.setting for row in GridRows(results) if row.method == "full"]
    assert settings == [{"lr": 0.01, "steps": 1}, {"lr": 0.01, "steps": 2}]


def test_the_command_measures_a_report_and_keeps_it(tmp_path: Path):
    out, file = tmp_path / "page", tmp_path / "cost.json"
    arguments = ["bench", "report", "--recipe", "better_models", "--set", "scale=tiny"]
    run = CliRunner().invoke(cli, [*arguments, "--out", str(out), "--json", str(file)])
    assert run.exit_code == 0, run.output
    cost = json.loads(file.read_text())
    assert cost["html_bytes"] == (out / "index.html").stat().st_size
    assert cost["num_results"] == cost["num_stages"] > 0
    assert cost["report_s"] > 0 and cost["peak_memory_bytes"] > 2**20


def test_fabricated_subsets_have_the_number_of_classes_of_their_recipe(tmp_path: Path):
    matrix = expand(read("demo"))
    write_results(matrix.stages, tmp_path)
    numbers = {
        len(result.load(stage.folder(tmp_path)).metrics["classes"])
        for stage in matrix.stages
        if stage.kind == "write" and "target" not in stage.axes
    }
    assert {900, 800} <= numbers


def test_exceeded_limits_are_named():
    cost = ReportCost("r", 1, 1, 0, 60.1, 1.0, 2**30, 20_000_001)
    assert cost.misses == ["report_s", "html_bytes"]
