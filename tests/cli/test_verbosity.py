"""-v and -q, before and after the name of a command."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import console, verbosity
from harness.cli.main import cli
from tests.cli.test_presentation import commands


@pytest.fixture(autouse=True)
def default_level():
    yield
    verbosity.reset()


@pytest.mark.parametrize("path", list(commands(cli)), ids=" ".join)
def test_every_command_accepts_both_flags(path: tuple[str, ...]):
    text = CliRunner().invoke(cli, [*path, "--help"]).output
    assert "-v, --verbose" in text and "-q, --quiet" in text


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["ls", "scores"], logging.INFO),
        (["-q", "ls", "scores"], logging.WARNING),
        (["ls", "scores", "-q"], logging.WARNING),
        (["ls", "-v", "scores"], logging.DEBUG),
        (["-v", "subset", "show", "in900"], logging.DEBUG),
        (["subset", "show", "-v", "in900"], logging.DEBUG),
    ],
)
def test_the_flags_set_the_level(arguments: list[str], level: int):
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert verbosity.LOGGER.level == level
    assert verbosity.is_quiet() == (level == logging.WARNING)


def test_both_flags_at_once_are_refused():
    result = CliRunner().invoke(cli, ["-q", "ls", "-v"])
    assert result.exit_code == 2 and "exclude each other" in result.output


def test_quiet_shows_no_progress(capsys: pytest.CaptureFixture[str]):
    verbosity.LOGGER.setLevel(logging.WARNING)
    with console.progress("read") as report:
        report(1, 2)
    console.err().print("note")
    assert capsys.readouterr() == ("", "")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli.main", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_verbose_names_files_and_shows_the_traceback_of_an_error(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("base: demo\nname: mine\nepochs: 1\n")
    plain = run("plan", "mine.yaml", cwd=tmp_path)
    assert plain.returncode == 2 and "Traceback" not in plain.stderr
    verbose = run("-v", "plan", "mine.yaml", cwd=tmp_path)
    assert verbose.returncode == 2
    assert "Traceback" in verbose.stderr and "recipes/demo.yaml" in verbose.stderr
    assert verbose.stderr.endswith(plain.stderr)
