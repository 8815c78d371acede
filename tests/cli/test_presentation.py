"""Output for people: help texts, colors, units, completion, hints, line width; also --json."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from harness.cli import console
from harness.cli.main import cli
from harness.config import load
from harness.matrix.expand import expand
from tests.helpers import ROOT
from writers.errors import UserError


def commands(group: click.Group, path: tuple[str, ...] = ()):
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands(cli)), ids=" ".join)
def test_every_help_has_an_example_and_fits_80_columns(path: tuple[str, ...]):
    result = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80)
    assert result.exit_code == 0
    assert "Example" in result.output and f"harness {path[0]}" in result.output
    assert max(map(len, result.output.splitlines())) <= 80


def complete(arguments: list[str], incomplete: str) -> list[str]:
    shell = ShellComplete(cli, {}, "harness", "_HARNESS_COMPLETE")
    return [item.value for item in shell.get_completions(arguments, incomplete)]


def test_names_of_recipes_datasets_and_subsets_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "robust_mine.yaml").touch()
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "one.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert {"robust_l2", "robust_mine.yaml"} <= set(complete(["run"], "rob"))
    assert complete(["run"], "stu") == ["studies/"]
    assert complete(["plan"], "studies/") == ["studies/one.yaml"]
    assert "pets" in complete(["score", "--dataset"], "p")
    assert "in900" in complete(["write-beton", "--subset"], "in9")
    assert "in900" in complete(["subset", "show"], "in")
    assert complete(["run"], "no-such-folder/x") == []
    assert "demo" in complete(["gc", "robust_l2"], "de")


def test_no_color_removes_the_color_of_error_lines(monkeypatch: pytest.MonkeyPatch):
    code = (
        "import sys; from harness.cli import main as m\n"
        "import click._compat as c; c.should_strip_ansi = lambda stream=None, color=None: color is False\n"
        "import click.utils as u; u.should_strip_ansi = c.should_strip_ansi\n"
        "m.main(['run', 'no-such-recipe'])"
    )

    def error(**environment: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **environment},
        ).stderr

    assert "\x1b[31m" in error()  # as on a terminal
    assert "no-such-recipe" in error(NO_COLOR="1") and "\x1b" not in error(NO_COLOR="1")


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (870_400, "870 kB"),
        (3.2e6, "3.2 MB"),
        (999.7e6, "1.0 GB"),
        (1.1e11, "110 GB"),
    ],
)
def test_sizes_are_printed_with_a_fitting_unit(num_bytes: float, text: str):
    assert console.size(num_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.27, "0.3 s"), (200, "3 min 20 s"), (18_720, "5 h 12 min"), (1_054_800, "12 days 5 h")],
)
def test_durations_are_printed_with_a_fitting_unit(value: float, text: str):
    assert console.seconds(value) == text


def test_a_mistyped_model_path_and_missing_images_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from harness.cli.commands._model_and_images import load_model
    from harness.modeling import classifier
    from harness.system.folders import Folders

    folders = Folders(tmp_path, tmp_path, tmp_path)
    about = {"arch": "resnet10", "resolution": 32}
    classifier.save(tmp_path / "robust.pt", classifier.build("resnet10", 2), about)
    with pytest.raises(UserError, match="no model file") as info:
        load_model(str(tmp_path / "robsut.pt"), folders)
    assert "robust.pt" in info.value.hint and "stage" not in info.value.hint
    with pytest.raises(UserError, match="no model file"):
        load_model("./robust", folders)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["score", "--model", "robust.pt", "--dataset", "pets"])
    assert isinstance(result.exception, UserError)
    assert "raw/pets" in result.exception.message.replace("oxford-iiit-pet", "pets")
    assert "--source" in result.exception.hint


def test_json_of_report_logs_cancel_and_gc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "stages" / "pretrain" / "abc"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "stage.json").write_text('{"name": "pretrain/x"}')
    (folder / "log.txt").write_text("one\ntwo\n")
    (folder / ".model.pt.k3x_ab1q").write_text("12345")

    def parsed(*arguments: str):
        result = CliRunner(catch_exceptions=False).invoke(cli, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert parsed("logs", "abc", "--lines", "1") == {
        "name": "pretrain/x",
        "folder": str(folder),
        "lines": ["two"],
        "error": None,
    }
    [file] = parsed("gc", "--all")["files"]
    assert file["bytes"] == 5 and Path(file["path"]).exists()
    assert parsed("gc", "--all", "--yes")["deleted"] and not Path(file["path"]).exists()
    assert parsed("cancel", "demo") == {"stopped": [], "still_running": []}
    assert Path(parsed("report", "demo")["report"]).is_file()


def test_an_empty_report_is_named_as_such(tmp_path: Path):
    arguments = ["report", "demo", "--runs-dir", str(tmp_path), "--format", "md"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0 and f"No stage of demo is done in {tmp_path}" in result.stderr
    stage = expand(load.read("demo")).stages[0]
    stage.folder(tmp_path).mkdir(parents=True)
    (stage.folder(tmp_path) / "result.json").write_text("{}")
    assert "No stage of demo" not in CliRunner().invoke(cli, arguments).stderr


WALKED = (
    *(("ls", *kind) for kind in ((), ("datasets",), ("launchers",), ("recipes",))),
    ("plan", "demo"),
    ("plan", "robust_l2"),
    ("status", "demo"),
    ("status", "robust_l2"),
)


@pytest.mark.parametrize("arguments", WALKED, ids=" ".join)
def test_lines_fit_80_columns(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner(catch_exceptions=False).invoke(cli, [*arguments])
    assert result.exit_code == 0
    # A single word that is longer than the line, such as a path or a URL, is not broken.
    assert [
        line for line in result.output.splitlines() if len(line) > 80 and len(line.split()) > 1
    ] == []


def test_a_table_drops_last_columns_that_do_not_fit(monkeypatch: pytest.MonkeyPatch):
    rows = [("", "train", "license"), ("pets", "3,680", "CC BY-SA 4.0")]
    monkeypatch.setenv("COLUMNS", "80")
    assert console.fitting(rows, right=(1,)) == (
        ["      train  license", "pets  3,680  CC BY-SA 4.0"],
        [],
    )
    monkeypatch.setenv("COLUMNS", "20")
    assert console.fitting(rows, right=(1,)) == (["      train", "pets  3,680"], ["license"])


def test_wrapped_lines_are_indented_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch):
    text = "one two three four five six seven eight"
    monkeypatch.setenv("COLUMNS", "40")
    assert console.hanging("  ab  ", text) == "  ab  one two three four five six seven\n      eight"
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert console.hanging("  ab  ", text) == f"  ab  {text}"
