"""Run recipes and read their results from Python; see `harness.run` and `harness.results`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config.load import read
from harness.system import interpreter
from harness.system.folders import Folders, user_cache
from writers import names
from writers.errors import UserError

if TYPE_CHECKING:
    from harness.report.data.flat import Record

_USER_ERROR_CODE = 2
_REPORT = b"Report: "  # begin of the line with the path of the report
# Exit code of `harness run` -> heading of the error's message.
_HEADINGS = {1: "Stages of the recipe failed:", 130: "The run was cancelled:"}
# Kind of stage -> table of its results, in the order in which `results` prefers them.
_TABLE_OF_KIND = {"transfer": "transfer", "score": "scores", "evaluate": "accuracy"}


def run(
    recipe: str | Path,
    set: Mapping[str, Any] | None = None,
    *,
    data_dir: str | Path | None = None,
    raw_dir: str | Path | None = None,
    runs_dir: str | Path | None = None,
    options: Mapping[str, str | int | float] | None = None,
) -> Path:
    """Run the unfinished stages of a recipe and write its report, as `harness run` does.

    The stages run in other processes. Progress is printed to standard error, also in a notebook.
    After an interruption, running stages save their state; the same call continues later.

    Args:
        recipe: a file, or a name in recipes/.
        set: settings to change, such as {"pretrain.epochs": 1, "seeds": [0, 1]}.
        data_dir: folder of `.beton` files. None means $HARNESS_DATA or ./data.
        raw_dir: folder of raw downloads. None means $HARNESS_RAW or ./raw.
        runs_dir: folder of stages and reports. None means $HARNESS_RUNS or ./runs.
        options: further options of `harness run`, such as {"jobs": 2, "device": "cpu"}. True sets
            a flag, as in {"accept_changes": True}; False leaves it out.

    Returns:
        Path of the report's page.

    Raises:
        UserError: a mistake in the recipe or the options, or missing data.
        RuntimeError: stages failed, or the run was cancelled or ended unexpectedly. The message has
            the last lines of its output, which name failed stages.
    """
    command = [sys.executable, "-m", "harness.cli.main", "run", str(recipe)]
    for override in _overrides(set):
        command += ["--set", override]
    for name, folder in (("data", data_dir), ("raw", raw_dir), ("runs", runs_dir)):
        if folder is not None:
            command += [f"--{name}-dir", str(folder)]
    for name, value in (options or {}).items():
        flag = f"--{name.replace('_', '-')}"
        command += [] if value is False else [flag] if value is True else [flag, str(value)]
    lines: list[str] = []
    report = None
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **interpreter.variables()},
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(_REPORT):
                    report = Path(os.fsdecode(line.removeprefix(_REPORT).rstrip()))
                lines.append(line.decode("utf-8", "replace").rstrip())
                print(lines[-1], file=sys.stderr)
        except BaseException:
            process.send_signal(signal.SIGINT)  # running stages save their state
            process.wait()
            raise
    if process.returncode == _USER_ERROR_CODE:
        raise UserError("\n".join(lines[-20:]))  # warnings, what is wrong, and how to fix it
    if process.returncode:
        other = f"The run ended unexpectedly, with exit code {process.returncode}:"
        heading = _HEADINGS.get(process.returncode, other)
        raise RuntimeError("\n".join([heading, *lines[-20:]]))
    assert report is not None
    return report


def results(
    recipe: str | Path,
    set: Mapping[str, Any] | None = None,
    *,
    table: str | None = None,
    data_dir: str | Path | None = None,
    raw_dir: str | Path | None = None,
    runs_dir: str | Path | None = None,
) -> "list[Record]":
    """Read the finished results of a recipe as flat records; `pandas.DataFrame` accepts them.

    Settings chosen from a grid become one column each, such as `chosen.lr`; tuples become `x;y`.

    Args:
        recipe: a file, or a name in recipes/.
        set: settings to change. Pass the same settings as to `run`.
        table: kind of record: transfer, accuracy, scores, timing, stages, or another table that
            `harness report --format csv` writes. None means the first of transfer, scores and
            accuracy for which the recipe has stages, otherwise stages. accuracy: accuracies on
            source classes, one record per model, set of classes that are scored, and attack.
        data_dir: accepted as by `run`, so that both take the same folders. `.beton` files
            are not read.
        raw_dir: accepted as by `run`. Raw downloads are not read.
        runs_dir: folder of stages and reports. None means $HARNESS_RUNS or ./runs.

    Returns:
        One record per result, such as a transfer, in the recipe's order. Accuracies are fractions.

    Raises:
        UserError: a mistake in the recipe, or an unknown table.
    """
    from harness.cli.commands.report import collect_report
    from harness.report.data.flat import flat_records
    from harness.report.render.page import record_tables
    from harness.runner.inputs import expand_accepted

    folders = Folders.resolve(
        data_dir or os.environ.get("HARNESS_DATA", "./data"),
        raw_dir or os.environ.get("HARNESS_RAW", "./raw"),
        runs_dir or os.environ.get("HARNESS_RUNS", "./runs"),
    )
    matrix = expand_accepted(read(recipe, _overrides(set), user_cache()), folders.runs)
    tables = record_tables(collect_report(matrix, folders))
    if table is None:
        kinds = {stage.kind for stage in matrix.stages}
        table = next((name for kind, name in _TABLE_OF_KIND.items() if kind in kinds), "stages")
    if table not in tables:
        raise names.unknown("table", table, sorted(tables))
    return flat_records(*tables[table])


def _overrides(set: Mapping[str, Any] | None) -> list[str]:
    """Return `--set` arguments, with values as JSON, which is valid YAML. Raises UserError."""
    if set is not None and not isinstance(set, Mapping):
        raise UserError(
            f"set must be a mapping of settings, not {type(set).__name__}.",
            'For example: set={"pretrain.epochs": 1, "seeds": [0, 1]}',
        )
    return [
        f"{key}={value if isinstance(value, str) else json.dumps(value, default=_plain)}"
        for key, value in (set or {}).items()
    ]


def _plain(value: Any) -> Any:
    """Convert numbers and arrays of NumPy and torch, ranges and paths. Raises UserError."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, range):
        return list(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise UserError(
        f"A setting in set is of type {type(value).__name__}.",
        "Use numbers, strings, True, False, None, lists and mappings.",
    )
