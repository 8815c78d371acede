"""Images a second out of loaders: ours, stock FFCV, torchvision, DALI and others, on the same JPEGs and the same cores.

Two parts: `goals`, one workload and the ratios that are to be reached, and `survey` (harness/cli/benches/_load_survey.py), the
other workloads, views, the first batch, and where the time goes.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from harness.cli.benches._common import time_limit_option

if TYPE_CHECKING:
    from harness.cli.benches._common import Goal, Measured, RoundPlan

OURS = ("ours:dct", "ours:restart", "ours:jpeg", "ours:raw400")
THEIRS = ("ffcv:jpeg", "ffcv:raw400", "torchvision:io", "torchvision:pil", "dali:cpu")
EVERYONE = (
    *OURS,
    *THEIRS,
    "ours:jpeg400",
    "ours:restart400",
    "ffcv:jpeg400",
    "dali:cpu_careful",
    "webdataset:pil",
    "streaming:pil",
    "litdata:pil",
    "spdl:ffmpeg",
)
WORKLOADS: dict[str, dict[str, Any]] = {
    "rrc224": {},
    "rrc224_large": {"crop_scale": (0.25, 1.0)},
    "center224": {"augment": "center_crop"},
    "rrc160": {"resolution": 160},
    "rrc128": {"resolution": 128},
    "rrc224_1thread": {"num_threads": 1},
}
OPENING_TIMEOUT_S = 900  # betons and shards of the corpus are written on the first opening


@click.command(short_help="Loaders: ours against stock FFCV, torchvision, DALI and others.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Any folder of JPEG files. Default: photo tiles, made on first use by benchmarks/photo_tiles.py.",
)
@click.option(
    "--against",
    "against",
    metavar="NAMES",
    default=",".join(THEIRS),
    show_default=True,
    help="Contenders, by commas: file:variant of benchmarks/contenders, a file for all of its variants, or all.",
)
@click.option("--ours", "ours", metavar="NAMES", default=",".join(OURS), show_default=True)
@click.option(
    "--part",
    type=click.Choice(["goals", "survey", "all"]),
    default="goals",
    show_default=True,
    help="survey: all workloads, views, first batch, memory, and where the time goes.",
)
@click.option(
    "--workload",
    type=click.Choice(list(WORKLOADS)),
    default="rrc224",
    show_default=True,
    help="Of the goals.",
)
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--images",
    "images_per_round",
    type=click.IntRange(min=1),
    default=6144,
    show_default=True,
    help="At least so many a round, in whole epochs.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads, and cores that everyone is kept to. Default: 2.",
)
@click.option(
    "--device", default="cpu", show_default=True, metavar="cpu|cuda:0", help="Where batches end up."
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where betons and shards of the corpus are kept between runs. Default: bench_load in the data folder.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Every round; saved after each.",
)
@time_limit_option
@click.option(
    "--plot", "plot_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png"
)
@click.option(
    "--data-dir", envvar="HARNESS_DATA", default="./data", metavar="DIR", show_envvar=True
)
def command(
    corpus: Path | None,
    against: str,
    ours: str,
    part: Literal["goals", "survey", "all"],
    workload: str,
    num_rounds: int,
    images_per_round: int,
    batch_size: int,
    threads: int | None,
    device: str,
    scratch: Path | None,
    json_file: Path | None,
    time_limit_s: float | None,
    plot_file: Path | None,
    data_dir: str,
) -> None:
    """Random-resized crops to uint8 batches, as fast as they come: every contender in turn, round after round.

    Each runs in a process of its own, is kept to the same cores, and stands still while the others run.
    """
    from harness.cli.benches import _common as bench
    from harness.cli.benches import _load_survey
    from harness.cli.benches._corpus import linked, photo_tiles
    from writers.errors import UserError

    deadline = bench.deadline_in(time_limit_s)
    if not (bench.ROOT / "benchmarks" / "contender.py").is_file():
        raise UserError(
            "The contenders of this benchmark come with the source, in benchmarks/, and not with the package.",
            "Run it in a checkout.",
        )
    scratch = (scratch or Path(data_dir) / "bench_load").expanduser().resolve()
    photos = linked(corpus.resolve() if corpus else photo_tiles(scratch), scratch)
    converted = scratch / "converted" / photos.name
    work = {
        "corpus": str(photos),
        "scratch": str(converted),
        "batch_size": batch_size,
        "device": device,
        "images_per_round": images_per_round,
        "num_threads": threads or 2,
    }
    sizes = [path.stat().st_size for path in photos.glob("*/*")]
    told = {
        name: value
        for name, value in (work | WORKLOADS[workload]).items()
        if name not in ("corpus", "scratch")
    }
    told |= {
        "workload": workload,
        "num_images": len(sizes),
        "mean_jpeg_bytes": sum(sizes) / len(sizes),
    }

    def record(
        measured: "dict[str, Measured]",
        absent: dict[str, str],
        plan: "RoundPlan | None" = None,
        survey: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        content = bench.record(
            "load",
            told
            if plan is None or deadline is None
            else told | {"images_per_round": plan.num_steps * len(sizes)},
            measured,
            bench.ratios(measured, _goals(workload)),
            device=device,
            absent=absent,
            rounds_planned=None if plan is None else plan.num_rounds,
            bytes_on_disk=_bytes_on_disk(converted),
            survey=survey,
        )
        if json_file is not None:
            bench.save(json_file, content)
        return content

    measured: dict[str, Measured] = {}
    absent: dict[str, str] = {}
    plan = None
    if part != "survey":
        names = [*_named(ours, OURS), *_named(against, EVERYONE)]
        measured, absent, plan = take_turns(
            {name: (name, work | WORKLOADS[workload]) for name in names},
            num_rounds,
            deadline=deadline,
            on_round=record,
        )
    survey = _load_survey.measure(work, num_rounds) if part != "goals" else None
    content = record(measured, absent, plan, survey)
    if measured:
        if plot_file is not None:
            _plot(measured, plot_file)
        _show(content)
    if survey is not None:
        if plot_file is not None:
            _load_survey.plot(survey, plot_file.with_stem(f"{plot_file.stem}_survey"))
        _load_survey.show(survey, content["bytes_on_disk"])


def take_turns(
    contenders: dict[str, tuple[str, dict[str, Any]]],
    num_rounds: int,
    *,
    deadline: float | None = None,
    on_round: "Callable[[dict[str, Measured], dict[str, str], RoundPlan], object] | None" = None,
) -> "tuple[dict[str, Measured], dict[str, str], RoundPlan]":
    """Measure contenders (file:variant and its work, by any key) in turns.

    Under a deadline one epoch of each contender is timed first, and the rounds are sized by it: a step of the plan
    is an epoch. A contender that fails to open, or whose turn to open comes after half of the time, is then absent.

    Returns:
        What was measured, why others are absent, and the rounds that were planned.

    Raises:
        UserError: No contender can be opened, or one fails.
    """
    from harness.cli import console
    from harness.cli.benches import _common as bench
    from harness.cli.benches._common import Measured, RoundPlan
    from writers.errors import UserError

    measured: dict[str, Measured] = {}
    absent: dict[str, str] = {}
    started_at = time.monotonic()
    with ExitStack() as stack:
        processes: dict[str, Contender] = {}
        with console.progress("open contenders", "contenders") as report:
            for number, (key, (name, work)) in enumerate(contenders.items()):
                report(number, len(contenders))
                used_s = time.monotonic() - started_at
                timeout_s: float = OPENING_TIMEOUT_S
                if deadline is not None:
                    if measured and started_at + 2 * used_s > deadline:
                        absent[key] = f"no time was left to open it, after {used_s:.0f} s"
                        continue
                    timeout_s = min(timeout_s, max(deadline - time.monotonic(), 1))
                contender = stack.enter_context(started(name, work))
                try:
                    opened = contender.answer(timeout_s)
                except UserError as error:
                    if deadline is None:
                        raise
                    opened = {"absent": str(error)}
                if "absent" in opened:
                    absent[key] = opened["absent"]
                    continue
                contender.stop()
                processes[key] = contender
                measured[key] = Measured(opened.pop("what"), opened=opened)
        if not measured:
            raise UserError(
                "No contender could be opened: "
                + "; ".join(f"{name}: {why}" for name, why in absent.items())
            )
        plan, images_per_round = RoundPlan(num_rounds, 1), None
        if deadline is not None:
            epochs = {key: process.round(1) for key, process in processes.items()}
            num_images = max(epoch["num_images"] for epoch in epochs.values())
            wanted = max(work["images_per_round"] for _, work in contenders.values())
            plan = bench.plan_rounds(
                {key: epoch["wall_s"] for key, epoch in epochs.items()},
                {},
                deadline - time.monotonic(),
                RoundPlan(num_rounds, -(-wanted // num_images)),
            )
            images_per_round = plan.num_steps * num_images

        def round_of(key: str) -> Callable[[], float]:
            def run() -> float:
                detail = processes[key].round(images_per_round)
                measured[key].details.append(detail)
                return float(detail["img_per_s"])

            return run

        def after_round(rates: dict[str, list[float]]) -> None:
            for key, found in rates.items():
                measured[key].rates = found
            if on_round is not None:
                on_round(measured, absent, plan)

        with console.progress("rounds", "rounds") as report:
            bench.take_turns(
                {key: round_of(key) for key in processes},
                plan.num_rounds,
                report,
                on_round=after_round,
                deadline=deadline,
            )
    return measured, absent, plan


def _goals(workload: str) -> "list[Goal]":
    from harness.cli.benches._common import Goal

    goals = [
        Goal("ours:dct", ("ffcv:jpeg",), 7.0, 9.0, "ours, dct / stock FFCV, the source's JPEGs"),
        Goal(
            "ours:restart",
            ("ffcv:jpeg",),
            4.2,
            5.2,
            "ours, indexed / stock FFCV, the source's JPEGs",
        ),
        Goal("ours:raw400", ("ffcv:raw400",), 5.0, 6.0, "ours / stock FFCV, raw at 400 px"),
        Goal("ours:dct", ("ffcv:raw400",), 1.5, 2.5, "ours, dct / stock FFCV, raw at 400 px"),
        Goal(
            "ours:dct",
            ("dali:cpu", "torchvision:io"),
            5.0,
            7.0,
            "ours, dct / best of DALI CPU and torchvision.io",
        ),
        Goal(
            "ours:restart",
            ("dali:cpu", "torchvision:io"),
            1.8,
            2.4,
            "ours / best of DALI CPU and torchvision.io",
        ),
        Goal("ours:restart", ("torchvision:pil",), 3.0, 3.5, "ours / torchvision, Pillow"),
        Goal("ours:restart", ("dali:gpu",), title="ours / DALI on the GPU"),
        Goal("ours:resident", ("dali:gpu",), title="ours, decoded once and kept / DALI on the GPU"),
        Goal(
            "ours:resident",
            ("ours:restart",),
            title="ours, decoded once and kept / decoded each time",
        ),
    ]
    return (
        goals
        if workload == "rrc224"
        else [Goal(goal.ours, goal.against, title=goal.title) for goal in goals]
    )


class Contender:
    """The process of one contender."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", log: Path) -> None:
        self.name, self._process, self._log = name, process, log

    def answer(self, timeout_s: float = OPENING_TIMEOUT_S) -> dict[str, Any]:
        """Its next line. Raises UserError with the last of its log where it has ended or does not answer."""
        from threading import Timer

        from writers.errors import UserError

        assert self._process.stdout is not None
        alarm = Timer(
            timeout_s, self.end
        )  # a contender that hangs is killed, and its line then ends
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if not line:
            last = self._log.read_text(errors="replace").strip().splitlines()[-3:]
            raise UserError(
                f"The contender {self.name} has failed: " + " / ".join(last),
                "Leave it out of --against.",
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def round(self, num_images: int | None = None) -> dict[str, Any]:
        """One round of whole epochs, of at least `num_images`. None: as its work has it."""
        os.killpg(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write("round\n" if num_images is None else f"round {num_images}\n")
        self._process.stdin.flush()
        answer = self.answer()
        self.stop()
        return answer

    def stop(self) -> None:
        """Stand still, workers and all, so that the others have the cores to themselves."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def started(
    name: str, work: dict[str, Any], environment: dict[str, str] | None = None
) -> Iterator[Contender]:
    from harness.cli.benches._common import ROOT, checkout_first

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.contender", name, json.dumps(work)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                env=checkout_first() | (environment or {}),
            )
        contender = Contender(name, process, log)
        try:
            yield contender
        finally:
            contender.end()
            process.communicate()


def _named(text: str, everyone: Sequence[str]) -> list[str]:
    """Contenders by name: `ffcv:jpeg`, all variants of `ffcv`, or `all`. Raises UserError for one that is no file."""
    from harness.cli.benches._common import ROOT
    from writers import names

    there = sorted(path.stem for path in (ROOT / "benchmarks" / "contenders").glob("[a-z]*.py"))
    found: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        file, _, variant = name.partition(":")
        if name != "all" and file not in there:
            raise names.unknown("contender", file, there)
        matching = [known for known in EVERYONE if known.partition(":")[0] == file]
        found += everyone if name == "all" else [name] if variant else matching
    return list(dict.fromkeys(found))


def _bytes_on_disk(converted: Path) -> dict[str, int]:
    """Of each form that the corpus was converted to."""
    return (
        {
            folder.name: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            for folder in sorted(converted.iterdir())
        }
        if converted.is_dir()
        else {}
    )


def _show(content: dict[str, Any]) -> None:
    from rich.table import Table

    from harness.cli import console

    terminal = console.out()
    table = Table(
        "contender",
        "images/s",
        "rounds",
        "first batch",
        "memory",
        title=f"load, {content['work']['workload']}",
    )
    for one in sorted(content["contenders"].values(), key=lambda one: -one["median"]):
        memory = max(detail["memory_bytes"] for detail in one["details"])
        table.add_row(
            one["what"],
            f"{one['median']:,.0f}",
            ", ".join(f"{rate:,.0f}" for rate in one["rates"]),
            f"{one['opened']['first_batch_s']:.1f} s",
            f"{memory / 2**20:,.0f} MiB",
        )
    terminal.print(table)
    for name, reason in content["absent"].items():
        terminal.print(f"absent: {name}: {reason}")
    if content["ratios"]:
        table = Table("ratio", "median", "rounds", "must", "aim", "")
        for ratio in content["ratios"]:
            goals = [f"{value:g}x" if value else "" for value in (ratio["must"], ratio["aim"])]
            table.add_row(
                ratio["title"],
                f"{ratio['median']:.2f}x",
                ", ".join(f"{r:.2f}" for r in ratio["rounds"]),
                *goals,
                ratio["verdict"],
            )
        terminal.print(table)


def _plot(measured: "dict[str, Measured]", file: Path) -> None:
    """Bars of medians, the rounds as dots."""
    from matplotlib.figure import Figure

    ordered = sorted(measured.items(), key=lambda item: item[1].median)
    figure = Figure(figsize=(9, 0.45 * len(ordered) + 1), layout="constrained")
    axes = figure.subplots()
    for place, (name, one) in enumerate(ordered):
        axes.barh(place, one.median, color="#2a6f97" if name.startswith("ours") else "#b0b7bf")
        axes.plot(one.rates, [place] * len(one.rates), "o", color="black", markersize=2.5)
        axes.annotate(
            f"{one.median:,.0f}",
            (max(one.rates), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(ordered)), [one.what for _, one in ordered])
    axes.set_xlabel("images/s: medians, and each round as a dot")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
