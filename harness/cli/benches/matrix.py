"""Overhead of running a matrix (all stages of a recipe), time to run it again, and GPU sharing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._matrix_runs import MatrixRuns
from harness.cli.benches._rounds import time_limit_option
from harness.cli.number_types import IntType
from harness.cli.options import data_option, json_option, set_option
from harness.cli.path_types import PathType

if TYPE_CHECKING:
    from harness.cli.benches._rounds import Measured

# Largest acceptable overhead, as a fraction of the slots' time; milliseconds per stage to run a
# finished matrix again; and seconds of `harness plan`.
MAX_OVERHEAD = 0.02
MAX_FINISHED_MS = 50.0
MAX_PLAN_S = 1.0


@click.command(short_help="Measure the overhead of a run, a rerun, and stages that share a GPU.")
@click.option(
    "--recipe",
    "recipe_name",
    default="demo",
    show_default=True,
    metavar="RECIPE",
    help="Recipe to run.",
)
@set_option
@click.option("--overhead", is_flag=True, help="Only run the whole recipe, once per round.")
@click.option("--finished", is_flag=True, help="Only run a finished matrix again.")
@click.option(
    "--packing",
    is_flag=True,
    help="Only run 12 small fine-tunes on one GPU, together and one after another.",
)
@click.option(
    "--rounds",
    "num_rounds",
    type=IntType(min=1),
    default=1,
    show_default=True,
    help="Number of rounds.",
)
@click.option(
    "--stages",
    "num_stages",
    type=IntType(min=1),
    default=10_000,
    show_default=True,
    help="Number of stages of the finished matrix.",
)
@click.option(
    "--jobs", type=IntType(min=1), metavar="N", help="Number of slots, as in harness run."
)
@click.option(
    "--scratch",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Folder that holds the runs while they are measured. Default: the data folder.",
)
@json_option
@time_limit_option
@data_option
def command(
    recipe_name: str,
    overrides: tuple[str, ...],
    overhead: bool,
    finished: bool,
    packing: bool,
    num_rounds: int,
    num_stages: int,
    jobs: int | None,
    scratch: Path | None,
    json_file: Path | None,
    time_limit_s: float | None,
    data_dir: Path,
) -> None:
    """Measure the time that a run needs in addition to the work of its stages. Prints Markdown.

    A slot runs one stage at a time. Overhead is the time in which a stage is ready but its slot
    does something else: start of the command and of workers, imports, loading of compiled code,
    leases, results, waiting for the executor, and the report. Work of the command while every slot
    is busy counts too. A short pass before the first round warms the caches on disk.

    Example: harness bench matrix --overhead --rounds 3 --json matrix.json
    """
    import shutil
    import tempfile

    from harness.cli.benches import _packing
    from harness.cli.benches._record import compute_ratios, make_record, save
    from harness.cli.benches._rounds import deadline_in, take_turns
    from harness.system import environment

    deadline = deadline_in(time_limit_s)
    everything = not (overhead or finished or packing)
    parent = (scratch or data_dir).expanduser().resolve()
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench_matrix-", dir=parent))
    runs = MatrixRuns(recipe_name, overrides, folder, jobs)
    device = "cuda:0" if environment.gpu_names() else "cpu"
    results: dict[str, Any] = {}
    packed: dict[str, Measured] = {}
    absent: dict[str, str] = {}

    def record(packed: "dict[str, Measured]") -> dict[str, Any]:
        """Build the record of everything measured so far, and save it if --json is given."""
        rounds = results.get("overhead") or results.get("finished", {}).get("rounds", [])
        content = make_record(
            "matrix",
            {"recipe": recipe_name, "overrides": list(overrides)},
            packed,
            compute_ratios(packed, _packing.GOALS),
            device=device,
            absent=absent,
            rounds_complete=None if packed else len(rounds),
            rounds_planned=num_rounds,
            **results,
        )
        if json_file is not None:
            save(json_file, content)
        return content

    try:
        if packing or everything:
            if device == "cpu":
                absent["packing"] = "there is no GPU"
            else:
                packed = _packing.measure_packing(
                    runs.plan(_packing.SETTINGS),
                    runs.folders("packing"),
                    num_rounds,
                    deadline,
                    record,
                    absent,
                )
        templates = runs.warm_up() if overhead or finished or everything else {}
        if overhead or everything:

            def run_once() -> float:
                before = results.get("overhead", [])
                results["overhead"] = [*before, runs.overhead(len(before))]
                record(packed)
                return 1 / float(results["overhead"][-1]["wall_s"])

            take_turns({"overhead": run_once}, num_rounds, deadline=deadline)
        if finished or everything:
            results["finished"] = runs.finished(num_stages, templates, num_rounds, deadline)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    click.echo(markdown(record(packed)))


def markdown(record: dict[str, Any]) -> str:
    """Format the record as tables, with a verdict on each goal."""
    from harness.cli.benches import _record

    lines = [_record.markdown(record).splitlines()[0]]
    if record.get("overhead"):
        rounds = record["overhead"]
        middle = sorted(rounds, key=lambda row: float(row["overhead_share"]))[
            (len(rounds) - 1) // 2
        ]
        shares = ", ".join(f"{100 * row['overhead_share']:.2f}" for row in rounds)
        lines += [
            "",
            f"{middle['num_stages']} stages in {middle['wall_s']:.0f} s on {middle['num_slots']} "
            f"slots: overhead {100 * middle['overhead_share']:.2f} % (rounds: {shares}), must be "
            f"at most {100 * MAX_OVERHEAD:.0f} %: "
            + _verdict(middle["overhead_share"] <= MAX_OVERHEAD),
            "",
            "| of the slots' time | s | % |",
            "|---|---|---|",
        ]
        lines += [
            f"| {name.replace('_', ' ')} | {seconds:.2f} | {100 * seconds / middle['slot_s']:.2f} |"
            for name, seconds in middle["parts_s"].items()
        ]
    if record.get("finished"):
        finished = record["finished"]
        num_stages, rounds = finished["num_stages"], finished["rounds"]
        run_s = sorted(row["run_s"] for row in rounds)[len(rounds) // 2]
        plan_s = sorted(row["plan_s"] for row in rounds)[len(rounds) // 2]
        lines += [
            "",
            f"{num_stages:,} finished stages",
            "",
            "| | s | ms per stage | at most | |",
            "|---|---|---|---|---|",
        ]
        for name, seconds in (
            ("harness run", run_s),
            ("harness run, writing the report", finished["run_with_report_s"]),
        ):
            ms = 1000 * seconds / num_stages
            lines.append(
                f"| {name} | {seconds:.2f} | {ms:.2f} | {MAX_FINISHED_MS:.0f} ms | "
                f"{_verdict(ms <= MAX_FINISHED_MS)} |"
            )
        lines.append(
            f"| harness plan | {plan_s:.2f} | {1000 * plan_s / num_stages:.2f} | "
            f"{MAX_PLAN_S:.0f} s | {_verdict(plan_s < MAX_PLAN_S)} |"
        )
    if record["contenders"] or record["absent"]:
        lines += _record.markdown(record).splitlines()[1:]
    return "\n".join(lines) + "\n"


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "NOT REACHED"
