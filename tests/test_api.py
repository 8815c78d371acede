"""`harness.run` and `harness.results`."""

import csv
import io
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness
from harness import api
from harness.config.load import read
from harness.matrix.expand import expand
from harness.report.data.flat import flat_records, to_parquet
from harness.report.data.records import TransferRow
from harness.report.render import page
from harness.runner import cancel, result
from tests.helpers import ROOT
from tests.helpers.report_fakes import make_recipe, make_results
from writers.errors import UserError


def test_import_is_light():
    code = (
        "import sys, harness; assert not {'torch', 'numpy', 'pydantic', 'rich'} & sys.modules.keys()\n"
        "harness.results; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def finished(tmp_path: Path, **settings: Any) -> Path:
    """Write a recipe and results of all its stages; return the path of the recipe."""
    recipe = make_recipe(**settings)
    file = tmp_path / "fake.yaml"
    file.write_text(recipe.model_dump_json(exclude_unset=True))
    by_name = {record.name: record for record in make_results(read(file))}
    for stage in expand(read(file)).stages:
        folder = stage.folder(tmp_path / "runs")
        folder.mkdir(parents=True)
        result.save(by_name[stage.name], folder)
    return file


def test_results_are_a_data_frame_of_all_transfers(tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    file = finished(tmp_path)
    records = harness.results(file, runs_dir=tmp_path / "runs")
    frame = pandas.DataFrame(records)
    transfers = [s for s in expand(read(file)).stages if s.kind == "transfer"]
    assert len(frame) == len(transfers) and set(frame["key"]) == {s.key for s in transfers}
    assert str(frame["top1"].dtype) == "float64"
    assert not any(isinstance(value, dict | tuple) for row in records for value in row.values())
    places = {"runs_dir": tmp_path / "runs", "data_dir": tmp_path / "d", "raw_dir": tmp_path / "r"}
    assert harness.results(file, **places) == records
    with pytest.raises(UserError, match="transfers") as info:
        harness.results(file, runs_dir=tmp_path / "runs", table="transfers")
    assert "transfer" in info.value.hint
    assert harness.results(file, {"seeds": [7]}, runs_dir=tmp_path / "runs", table="accuracy") == []


@pytest.mark.parametrize(
    ("settings", "table"),
    [
        ({}, "transfer"),
        ({"targets": (), "methods": ()}, "accuracy"),
    ],
)
def test_results_are_by_default_what_the_recipe_measures(
    settings: dict[str, Any], table: str, tmp_path: Path
):
    file, runs = finished(tmp_path, **settings), tmp_path / "runs"
    records = harness.results(file, runs_dir=runs)
    assert records and records == harness.results(file, runs_dir=runs, table=table)


def test_parquet_files_have_the_numbers_of_the_csv_files(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    recipe = make_recipe()
    page.write(recipe, make_results(recipe), [], tmp_path, ("csv", "parquet"))
    tables = sorted(tmp_path.glob("*.csv"))
    assert len(tables) > 10
    for file in tables:
        rows = list(csv.DictReader(file.open()))
        columns = parquet.read_table(file.with_suffix(".parquet"))
        assert columns.num_rows == len(rows), file.name
        for name in {"top1", "key", "seed"} & set(columns.column_names):
            for value, line in zip(columns[name].to_pylist(), rows, strict=True):
                assert ("" if value is None else str(value)) == line[name]


@dataclass(frozen=True)
class Chosen:
    """A row with a mapping, like the rows of grids with their `setting`."""

    name: str
    chosen: dict[str, object]
    labels: tuple[str, ...] = ()


def test_mappings_become_columns_and_columns_of_mixed_types_text():
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [Chosen("a", {"lr": 0.1, "augment": "none"}, ("x", "y")), Chosen("b", {"lr": "auto"})]
    assert flat_records(Chosen, rows) == [
        {"name": "a", "chosen.lr": 0.1, "chosen.augment": "none", "labels": "x;y"},
        {"name": "b", "chosen.lr": "auto", "chosen.augment": None, "labels": ""},
    ]
    read_back = parquet.read_table(io.BytesIO(to_parquet(Chosen, rows)))
    assert read_back["chosen.lr"].to_pylist() == ["0.1", "auto"]
    empty = parquet.read_table(io.BytesIO(to_parquet(TransferRow, [])))
    assert empty.num_rows == 0 and "top1" in empty.column_names


def test_run_reports_mistakes_and_returns_the_report(tmp_path: Path, capfd):
    with pytest.raises(UserError, match="resnet10"):
        harness.run("demo", {"archs": ["resnet1O"]}, runs_dir=tmp_path / "runs")
    missing = {"targets": [{"path": "a"}, {"path": "b"}, {"path": "c"}]}
    folders = {name: tmp_path / name for name in ("data_dir", "raw_dir", "runs_dir")}
    with pytest.raises(UserError, match="--allow-missing") as info:
        harness.run("demo", missing, **folders)
    assert all(f"There is no {tmp_path / 'raw_dir' / name}." in str(info.value) for name in "abc")
    page_of = harness.run(finished(tmp_path), runs_dir=tmp_path / "runs", options={"jobs": 1})
    assert page_of.is_file() and page_of.suffix == ".html"


def test_settings_may_be_of_numpy(tmp_path: Path):
    recipe, seeds = finished(tmp_path), [0, 1]
    expected = expand(read(recipe, [f"seeds={seeds}"]))
    for given in (np.array(seeds), [np.int64(0), np.int64(1)], range(2), tuple(seeds)):
        assert expand(read(recipe, api._overrides({"seeds": given}))) == expected
    assert api._overrides({"source.path": Path("photos")}) == ['source.path="photos"']


@pytest.mark.parametrize("given", [["seeds=[0]"], {"seeds": {0}}, {"seeds": object()}])
def test_settings_of_other_types_are_user_errors(tmp_path: Path, given: Any):
    for function in (harness.run, harness.results):
        with pytest.raises(UserError, match=r"set must be a mapping|is of type (set|object)"):
            function("demo", given, runs_dir=tmp_path / "runs")


def test_the_path_of_the_report_may_have_any_bytes(tmp_path: Path):
    """In a locale without UTF-8, and for a name that is not UTF-8."""
    folder = tmp_path / os.fsdecode(b"caf\xc3\xa9 \xff")
    folder.mkdir()
    page = harness.run(finished(folder), runs_dir=folder / "runs")
    assert page.is_file() and page.is_relative_to(folder)


def test_a_cancelled_run_is_not_a_failed_one(tmp_path: Path):
    request = cancel.file_of(tmp_path / "runs", "demo")
    cancel.request(tmp_path / "runs", "demo")
    in_an_hour = time.time() + 3600  # after the start of the run
    os.utime(request, (in_an_hour, in_an_hour))
    with pytest.raises(RuntimeError, match=r"^The run was cancelled:\n(?s:.*)Resume with:"):
        harness.run("demo", runs_dir=tmp_path / "runs", data_dir=tmp_path / "data")


def test_a_killed_run_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "python").write_text("#!/bin/sh\necho working\nkill -9 $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match="exit code -9:\nworking"):
        harness.run("demo", runs_dir=tmp_path / "runs")
