"""Output of the command line: no markup or control sequences from recipes and files; progress."""

import os
from types import SimpleNamespace

import pytest

from harness.cli import console, main
from harness.cli.commands import status
from harness.system.atomic_write import write_json


def test_brackets_are_not_markup(capsys):
    console.out().print("a [bold]b[/bold] [/] [red")
    assert capsys.readouterr().out == "a [bold]b[/bold] [/] [red\n"


def test_the_table_of_status_keeps_brackets(capsys):
    spec = SimpleNamespace(in_status="preparation")
    stage = SimpleNamespace(kind="write", axes={}, name="write/[/x] [red]y", key="k", spec=spec)
    table = status._preparation(SimpleNamespace(stages=[stage]), {"k": "done"})
    console.out().print(table)
    assert capsys.readouterr().out.split() == ["write/[/x]", "[red]y", "done"]


def test_errors_drop_colors_and_show_other_control_characters_as_escapes(capsys):
    assert main._print_error("no \x1b[31mfile\nnext", "hint \x07") == 2
    assert capsys.readouterr().err == "no file\nnext\nhint \\x07\n"


def test_a_very_long_line_of_an_error_is_cut_in_the_middle(capsys):
    assert main._print_error("There is no " + "x" * 10**6 + " in the table.\nsecond") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("There is no xxx") and first.endswith("xxx in the table.")
    assert len(first) < 1000 and second == "second"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_rate_below_one_per_second_is_not_printed(capsys, monkeypatch):
    """4 contenders in 20 s have no rate; 204 in 40 s are printed as 5 per second."""
    times = iter([0.0, 20.0, 40.0])
    monkeypatch.setattr("harness.cli.console.time.monotonic", lambda: next(times))
    report = console._plain("open contenders", "contenders")
    report(4, 9)
    report(204, 900)
    slow, fast = capsys.readouterr().err.splitlines()
    assert slow == "open contenders: 4 of 9 contenders, 25.0 s left"
    assert "204 of 900 contenders, 5 contenders/s" in fast
