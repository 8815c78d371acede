"""`harness status`: tables of models and counts, --watch, and the list of recipes."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.commands import status
from harness.cli.main import main
from harness.config.load import read
from harness.config.recipe import Recipe
from harness.matrix.expand import Matrix, expand
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


def harness(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.mark.parametrize("num_unfinished", [0, 3])
def test_watch_ends_when_all_stages_are_done(
    num_unfinished: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    num_reads, num_sleeps = 0, 0

    def states_of(plan: Matrix, *_: object) -> dict[str, str]:
        nonlocal num_reads
        num_reads += 1
        is_done = num_reads > num_unfinished
        return {stage.key: "done" if is_done else "left" for stage in plan.stages}

    def sleep(_: float) -> None:
        nonlocal num_sleeps
        num_sleeps += 1
        assert num_sleeps <= num_unfinished

    monkeypatch.setattr("harness.cli.commands.plan.states_of", states_of)
    monkeypatch.setattr(status.time, "sleep", sleep)
    assert harness("status", "demo", "--watch") == 0
    totals = [line for line in capsys.readouterr().out.splitlines() if line.startswith("demo: ")]
    assert len(totals) == (2 if num_unfinished else 1)
    number = re.fullmatch(r"demo: (\d+) of (\d+) stages done", totals[-1])
    assert number is not None and number[1] == number[2]


def test_without_a_recipe_those_that_ran_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert harness("status") == 2
    shown = capsys.readouterr().err
    assert "No recipe has run in" in shown and "harness status demo" in shown
    Path("my own.yaml").write_text(
        "name: mine\nsource: {path: photos}\nsubsets: [all]\narchs: [resnet10]\n"
    )
    Path("gone.yaml").write_text(Path("my own.yaml").read_text().replace("mine", "gone"))
    for recipe in (["demo"], ["my own.yaml", "--set", "name=ours"], ["gone.yaml"]):
        assert harness("report", *recipe) == 0
    Path("gone.yaml").unlink()
    capsys.readouterr()
    assert harness("status") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  harness status demo",
        "  harness status 'my own.yaml' --set name=ours",
    ]
    for options in (["--watch"], ["--json"], ["--set", "name=ours"]):
        assert harness("status", *options) == 2
        assert f"{options[0]} has no effect without RECIPE" in capsys.readouterr().err
