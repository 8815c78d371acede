"""CSV files of records equal those that the csv module writes row by row."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.report.data.flat import field_names, flat_records
from harness.report.data.grid_rows import Grid
from harness.report.data.records import GridRow
from harness.report.render.page import record_tables, write_collected
from harness.report.render.report import collect
from harness.report.render.tables import grid_csv, table
from harness.report.render.tables.table import inert, to_csv
from tests.helpers.report_fakes import make_recipe, make_results


@dataclass(frozen=True)
class Record:
    text: object
    number: object = None
    setting: Mapping[str, object] = dataclasses.field(default_factory=dict)


class Tuple(NamedTuple):
    text: object
    number: object = None
    setting: Mapping[str, object] = {}


def written_by_the_csv_module(names: Iterable[str], rows: Iterable[object]) -> bytes:
    names = list(names)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_value(getattr(row, name)) for name in names] for row in rows)
    return text.getvalue().encode()


def _value(value: object) -> object:
    if isinstance(value, Mapping):
        value = ";".join(f"{name}={item}" for name, item in value.items())
    if isinstance(value, tuple):
        value = ";".join(map(str, value))
    if isinstance(value, float) and value != value:
        return None  # a spreadsheet would read the text nan
    return inert(value) if isinstance(value, str) else value


TEXTS = ("", "a", "a,b", 'say "a"', "two\nlines", "two\rlines", "=1+1", "-2", "é\u2028", " a ", "'")
NUMBERS = (0, 0.0, -0.0, False, 1, 1.0, True, None, 0.1 + 0.2, 1e-300, float("nan"), float("inf"))
METRICS = ("top1", "map11", "mean_per_class")
SETTINGS = ({}, {"lr": 1}, {"lr": 1.0}, {"lr": True}, {"a": "x,y", "b": None}, {"a": -0.0})


@pytest.mark.parametrize("kind", [Record, Tuple])
@pytest.mark.parametrize("rows_of_part", [1, 7, 10_000])
def test_rows_are_those_of_the_csv_module(
    kind: type, rows_of_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_ROWS_OF_PART", rows_of_part)
    rows = [kind(text, number) for text in TEXTS for number in NUMBERS]
    rows += [kind("a", 1, setting) for setting in SETTINGS]
    rows += [kind(("a", "=b"), object), kind((), ["a", "b"])]
    expected = written_by_the_csv_module(("text", "number", "setting"), rows)
    parts = list(to_csv(kind, iter(rows)))
    assert b"".join(parts) == expected
    assert len(parts) == 1 + -(-len(rows) // rows_of_part)


@pytest.mark.parametrize("grids_of_part", [1, 200])
def test_lines_of_grids_are_those_of_the_csv_module(
    grids_of_part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_csv, "_GRIDS_OF_PART", grids_of_part)
    grids = []
    for text in (*TEXTS, "{}", "{lr}", "100 %s"):
        shared = GridRow(text, text, "full", "", 0.5, 1, None, None, None, False)
        shared = shared._replace(model=text, per_class=5, key=text, same_variants=("a", text))
        entries: list[dict[str, object]] = [
            {"lr": number, "axis": text, "gap": 0.1, "val": {"top1": number, "map11": 1.5}}
            for number in NUMBERS
        ]
        entries += [{"lr": 0.1, "axis": text, "val": None}, {"axis": "other", "val": {"map11": 1}}]
        grids += [Grid(shared, entries, {"lr": 0, "axis": text}, metric) for metric in METRICS]
    grids.append(Grid(shared, [], {}, "top1"))
    expected = written_by_the_csv_module(
        GridRow._fields, [row for grid in grids for row in grid.rows()]
    )
    assert b"".join(grid_csv.grid_csv(iter(grids))) == expected
    assert {row.chosen for grid in grids for row in grid.rows()} == {True, False}


def test_equal_values_of_different_types_keep_their_own_text() -> None:
    rows = [Tuple(value, value) for pair in pairwise(NUMBERS) for value in pair]
    lines = b"".join(to_csv(Tuple, rows)).decode().splitlines()[1:]
    texts = ["" if row.text in (None, NUMBERS[-2]) else str(row.text) for row in rows]
    assert lines == [f"{text},{text}," for text in texts]


def test_a_table_without_rows_is_its_header() -> None:
    assert b"".join(to_csv(Record, [])) == b"text,number,setting\n"


def test_a_table_is_made_in_parts_while_its_rows_are_read() -> None:
    num_read = 0

    def rows() -> Iterable[object]:
        nonlocal num_read
        for num_read in range(1, 50_001):
            yield Tuple("a", num_read)

    parts = to_csv(Tuple, rows())
    assert next(parts).startswith(b"text") and next(parts).startswith(b"a,1,\n")
    assert num_read < 50_000


def test_named_tuples_and_dataclasses_have_the_same_fields_and_columns() -> None:
    assert field_names(Record) == field_names(Tuple) == ("text", "number", "setting")
    values = ("a", 1.5, {"lr": 0.1})
    expected = [{"text": "a", "number": 1.5, "setting.lr": 0.1}]
    assert flat_records(Record, [Record(*values)]) == expected
    assert flat_records(Tuple, [Tuple(*values)]) == expected


def test_the_files_of_a_report_are_those_of_the_csv_module(tmp_path: Path) -> None:
    recipe = make_recipe(seeds=(0, 1))
    report = collect(recipe, list(make_results(recipe)), ["a,b"], {"a,b": 'the "reason"'}, {})
    write_collected(report, tmp_path, ("csv",))
    tables = record_tables(report)
    assert list(tables["transfer_grid"][1]) and list(tables["transfer"][1])
    for name, (kind, rows) in tables.items():
        expected = written_by_the_csv_module(field_names(kind), rows)
        assert (tmp_path / f"{name}.csv").read_bytes() == expected, name
