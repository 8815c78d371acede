"""`harness status`: the rows of models and of training from scratch, and counts of other stages."""

import io
import json
from pathlib import Path

from rich.console import Console

from harness.cli.commands import status
from harness.config.load import read
from harness.config.recipe import Recipe
from harness.matrix.expand import expand
from harness.matrix.stage import Stage
from harness.runner import retry


def test_unfinished_models_are_shown_first_if_there_are_too_many():
    rows = {(number,): {"pretrain": ["done"]} for number in range(status.MAX_ROWS + 50)}
    rows[(status.MAX_ROWS + 20,)] = {"pretrain": ["done"], "full": ["done", "failed"]}
    shown = status._shown(rows)
    assert len(shown) == status.MAX_ROWS
    assert (status.MAX_ROWS + 20,) in shown and (status.MAX_ROWS + 21,) not in shown
    assert list(shown) == sorted(shown)
    few = {(0,): {"pretrain": ["done"]}}
    assert status._shown(few) == few


def test_retries_are_counted_over_all_stages(tmp_path: Path):
    stages = [Stage("rank", {"number": number}) for number in range(3)]
    folder = stages[1].folder(tmp_path)
    folder.mkdir(parents=True)
    attempt = {"cause": "lost", "at": "2026-01-01T00:00:00+00:00", "message": ""}
    (folder / retry.FILE_NAME).write_text(json.dumps([attempt, attempt]))
    assert retry.total(stages, tmp_path) == 2


def shown_models(recipe: Recipe) -> list[list[str]]:
    """Return the words of each line of the table of models if all stages are done."""
    plan = expand(recipe)
    console = Console(file=io.StringIO(), width=200)
    console.print(status._models(plan, dict.fromkeys([stage.key for stage in plan.stages], "done")))
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_training_from_scratch_has_the_last_row_and_no_cell_of_other_methods():
    _, *rows, last = shown_models(read("demo"))
    assert last == ["(scratch)", "resnet10", "0", "2/2"]
    assert len(rows) == 3 * 2
    for row in rows:
        assert row[1] == "resnet10" and row[-4:] == ["done", "done", "2/2", "2/2"]


def test_stages_without_a_row_are_counted_below_the_table(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\nmodels: [efficientnet_lite0]\ntargets: [{path: photos}]\n"
        "methods: {logreg: {}}\n"
    )
    assert shown_models(read(str(file)))[-2:] == [
        ["efficientnet_lite0", "done", "1/1"],
        ["features:", "1/1"],
    ]
