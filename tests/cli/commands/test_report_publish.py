"""`harness report --publish`: a leaderboard from results on disk and rows of other boards."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.runner.result import save
from tests.helpers.board_rows import file_content, record
from tests.helpers.report_fakes import make_recipe, make_results


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with results of one of two targets."""
    folder = tmp_path_factory.mktemp("study")
    recipe = make_recipe(eps=(0.0,), methods=("full",))
    (folder / "photos.yaml").write_text(recipe.model_dump_json(exclude_unset=True))
    for result in make_results(recipe):
        if result.axes.get("target") != "clothing":
            save(result, folder / "runs" / "stages" / result.kind / result.key)
    return folder


@dataclass(frozen=True)
class Ended:
    exit_code: int
    output: str


Report = Callable[..., Ended]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    def run(*arguments: str | Path) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(["report", *map(str, arguments)])
        printed = capsys.readouterr()
        return Ended(int(str(ended.value.code)), printed.out + printed.err)

    return run


def test_publish_merge_and_publish_again(report: Report, study: Path, tmp_path: Path) -> None:
    runs = ("--runs-dir", study / "runs")
    board = tmp_path / "board"
    first = report(study / "photos.yaml", *runs, "--publish", board, "--by", "Ada")
    assert first.exit_code == 0, first.output
    assert first.output.splitlines()[0] == str(board / "index.html")
    assert "6 rows, 6 of them new" in first.output
    rows = json.loads((board / "rows.json").read_text())["rows"]
    assert {(row["kind"], row["by"]) for row in rows} == {("transfer", "Ada"), ("source", "Ada")}
    assert str(study) not in (board / "rows.json").read_text()

    friend = tmp_path / "friend.json"
    friend.write_bytes(file_content(record(by="Bob")))
    merged = report("--publish", board, "--merge", friend, "--json")
    assert merged.exit_code == 0, merged.output
    assert json.loads(merged.output) == {"board": str(board / "index.html"), "rows": 7}

    again = report(study / "photos.yaml", *runs, "--publish", board, "--merge", board)
    assert "7 rows, 0 of them new; 13 duplicates." in again.output
    rows = json.loads((board / "rows.json").read_text())["rows"]
    assert {row["by"] for row in rows} == {"Ada", "Bob"}


def test_one_duplicate_and_one_difference_are_singular(report: Report, tmp_path: Path) -> None:
    rows = [record(key=f"{index:020x}", score=0.25 * index) for index in (1, 2)]
    files = [tmp_path / f"{index}.json" for index in (1, 2, 3)]
    for file, content in zip(files, (*rows, rows[0]), strict=True):
        file.write_bytes(file_content(content))
    merges = [part for file in files for part in ("--merge", file)]
    ended = report("--publish", tmp_path / "board", *merges)
    assert ended.exit_code == 0, ended.output
    assert "2 rows, 2 of them new; 1 duplicate." in ended.output
    assert "1 run was measured more than once" in ended.output


def test_a_damaged_board_is_named_and_kept(report: Report, study: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(file_content(record(score=2.0)))
    ended = report(study / "photos.yaml", "--runs-dir", study / "runs", "--publish", tmp_path)
    assert ended.exit_code == 2
    assert "row 1: 'score'" in ended.output and "Traceback" not in ended.output
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_an_impossible_value_of_a_result_is_named(
    report: Report, study: Path, tmp_path: Path
) -> None:
    shutil.copytree(study / "runs", tmp_path / "runs")
    file = next(tmp_path.glob("runs/stages/transfer/*/result.json"))
    result = json.loads(file.read_text())
    result["started_at"] = "yesterday"
    file.write_text(json.dumps(result))
    ended = report(
        study / "photos.yaml", "--runs-dir", tmp_path / "runs", "--publish", tmp_path / "board"
    )
    assert ended.exit_code == 2
    assert "transfer/grocery/full" in ended.output and "started_at" in ended.output
    assert "Traceback" not in ended.output
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument"),
        (["--publish", "x"], "or --merge FILE"),
        (["--merge", "."], "--merge and --by need --publish DIR"),
        (["--by", "Ada"], "--merge and --by need --publish DIR"),
        (["demo", "--merge", "."], "--publish"),
        (["demo", "--by", "Ada"], "--publish"),
        (["demo", "--publish", "x", "--format", "md"], "no effect"),
        (["--publish", "x", "--merge", ".", "--by", "Ada"], "no effect"),
    ],
)
def test_options_without_effect_are_refused(
    report: Report, arguments: list[str], message: str
) -> None:
    ended = report(*arguments)
    assert ended.exit_code == 2
    assert message in ended.output


def test_without_pyarrow_there_is_no_parquet(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    friend = tmp_path / "friend.json"
    friend.write_bytes(file_content(record()))
    ended = report("--publish", tmp_path / "board", "--merge", friend)
    assert ended.exit_code == 0 and "pyarrow" in ended.output
    assert not (tmp_path / "board" / "rows.parquet").exists()
    assert "rows.parquet" not in (tmp_path / "board" / "index.html").read_text()
