"""Time, memory and size of the report of a recipe whose stages are all done."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from harness.cli.options import json_option, set_option
from harness.cli.path_types import PathType

# Largest acceptable values.
MAX_REPORT_S = 60.0
MAX_MEMORY_BYTES = 2**30
MAX_HTML_BYTES = 20_000_000
# No predictions per image are made up for a recipe with more transfers than this, to save time and
# disk space. Transfers that a shortlist (a selection of models by a score) can skip do not count.
MAX_PREDICTIONS = 2000


@dataclass(frozen=True)
class ReportCost:
    """Cost of one report.

    Attributes:
        recipe: name of the recipe.
        num_stages: stages of the recipe.
        num_results: stages with a result; a shortlist of models skips the other stages.
        num_predictions: transfers that no shortlist can skip, if predictions per image were written
            (the report reads them for tests over images); otherwise 0.
        report_s: wall time of the child process, with planning and imports, in seconds.
        cpu_s: CPU time of the child process in seconds.
        peak_memory_bytes: largest resident set of the child process.
        html_bytes: size of the report's page.
    """

    recipe: str
    num_stages: int
    num_results: int
    num_predictions: int
    report_s: float
    cpu_s: float
    peak_memory_bytes: int
    html_bytes: int

    @property
    def misses(self) -> list[str]:
        """Names of the limits that are exceeded."""
        limits = {
            "report_s": MAX_REPORT_S,
            "peak_memory_bytes": MAX_MEMORY_BYTES,
            "html_bytes": MAX_HTML_BYTES,
        }
        return [name for name, limit in limits.items() if getattr(self, name) > limit]


@click.command(short_help="Measure time, memory and size of a recipe's report at full size.")
@click.option("--recipe", "recipe_name", required=True, metavar="RECIPE", help="Recipe to report.")
@set_option
@click.option(
    "--out",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Keep the report in DIR.",
)
@json_option
def command(
    recipe_name: str, overrides: tuple[str, ...], out: Path | None, json_file: Path | None
) -> None:
    """Make up results of every stage of RECIPE, and measure its report in a child process.

    The numbers are random; nothing is trained and no image is read. Exit code 1 if a limit is
    exceeded: 60 s, 1 GiB of memory, 20 MB of HTML.

    Example: harness bench report --recipe robust_l2 --json report.json
    """
    from harness.system.atomic_write import write_json

    cost = measure(recipe_name, overrides, out)
    if json_file is not None:
        write_json(json_file, asdict(cost))
    click.echo(
        f"{cost.recipe}: {cost.num_results:,} results of {cost.num_stages:,} stages. "
        f"Report: {cost.report_s:.1f} s, {cost.peak_memory_bytes / 2**20:.0f} MiB, "
        f"{cost.html_bytes / 1e6:.1f} MB of HTML."
    )
    if cost.misses:
        click.echo(f"Above the limit: {', '.join(cost.misses)}.")
        sys.exit(1)


def measure(
    recipe_name: str, overrides: tuple[str, ...] = (), out: Path | None = None
) -> ReportCost:
    """Fabricate the results in a temporary folder and run `harness report`.

    Args:
        recipe_name: Name or path of the recipe.
        overrides: `--set` values.
        out: Folder to write the report to. None means the report is deleted with the results.

    Raises:
        UserError: The report failed. The message contains the end of its output.
    """
    from harness.cli.benches._fabricate import write_results
    from harness.config.load import read
    from harness.matrix.expand import expand
    from harness.system.folders import user_cache

    matrix = expand(read(recipe_name, overrides, user_cache()))
    num_transfers = sum(stage.kind == "transfer" and not stage.gated_by for stage in matrix.stages)
    with_predictions = num_transfers <= MAX_PREDICTIONS
    with TemporaryDirectory(prefix="harness_bench_report_") as folder:
        root = Path(folder)
        num_results = write_results(matrix.stages, root / "runs", with_predictions=with_predictions)
        page = root / "report"
        arguments = ["report", recipe_name, "--out", str(page), "--runs-dir", str(root / "runs")]
        arguments += ["--data-dir", str(root / "data"), "--raw-dir", str(root / "raw")]
        arguments += [part for value in overrides for part in ("--set", value)]
        report_s, cpu_s, peak_memory_bytes = _run(arguments)
        cost = ReportCost(
            recipe=matrix.recipe.name,
            num_stages=len(matrix.stages),
            num_results=num_results,
            num_predictions=num_transfers if with_predictions else 0,
            report_s=round(report_s, 2),
            cpu_s=round(cpu_s, 2),
            peak_memory_bytes=peak_memory_bytes,
            html_bytes=sum(file.stat().st_size for file in page.glob("*.html")),
        )
        if out is not None:
            shutil.copytree(page, out, dirs_exist_ok=True)
    return cost


# The report is the child of a small process, because ru_maxrss of a child is at least the memory
# that its parent used when it forked.
_MEASURE = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def _run(arguments: list[str]) -> tuple[float, float, int]:
    """Run a harness command; return wall seconds, CPU seconds and its peak memory in bytes."""
    from writers.errors import UserError

    command = [sys.executable, "-m", "harness.cli.main", *arguments]
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", _MEASURE, *command], capture_output=True, text=True, check=True
    )
    wall_s = time.perf_counter() - started
    code, cpu_s, peak = json.loads(ended.stdout)
    if code != 0:
        last = " / ".join(ended.stderr.strip().splitlines()[-3:])
        raise UserError(f"harness {' '.join(arguments[:2])} failed: {last}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
    return wall_s, cpu_s, peak * unit
