"""Run each contender (a loader under test) in a process that is stopped while others run."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from harness.cli import console
from harness.cli.benches._checkout import ROOT, checkout_environment
from harness.cli.benches._rounds import Measured, RoundPlan, plan_rounds, take_turns
from writers.errors import UserError

# Long, because a contender first converts the corpus, for example to `.beton` files or shards.
OPENING_TIMEOUT_S = 900


class Contender:
    """The process of one contender (`benchmarks/contender.py`)."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", log: Path) -> None:
        self.name, self._process, self._log = name, process, log

    def read(self, timeout_s: float = OPENING_TIMEOUT_S) -> dict[str, Any]:
        """Wait until the process prints a line, and return the JSON object in it.

        Raises:
            UserError: The process ended, or printed nothing within `timeout_s`. The message has the
                end of its log.
        """
        assert self._process.stdout is not None
        # If the process hangs, killing it closes its output, so that `readline` returns.
        alarm = Timer(timeout_s, self.kill)
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if not line:
            log = self._log.read_text(errors="replace").strip().splitlines()[-3:]
            raise UserError(
                f"The contender {self.name} failed: " + " / ".join(log),
                "Leave it out of --against.",
            )
        message: dict[str, Any] = json.loads(line)
        return message

    def round(self, num_images: int | None = None) -> dict[str, Any]:
        """Run one round and return its measurements.

        Args:
            num_images: The round reads whole epochs until it has read at least this many images.
                None means the `images_per_round` with which the contender was started.
        """
        os.killpg(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write("round\n" if num_images is None else f"round {num_images}\n")
        self._process.stdin.flush()
        detail = self.read()
        self.stop()
        return detail

    def stop(self) -> None:
        """Stop the process and its workers (SIGSTOP), so that other contenders get the cores."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        """Kill the process and its workers."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def start_contender(name: str, work: Mapping[str, Any]) -> Iterator[Contender]:
    """Start the process of a contender (file:variant); kill it at the end of the block.

    work: fields of `benchmarks.contender.Work`, such as the corpus, batch size and threads.
    """
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
                env=checkout_environment(),
            )
        contender = Contender(name, process, log)
        try:
            yield contender
        finally:
            contender.kill()
            process.communicate()


def measure_contenders(
    names: list[str],
    work: Mapping[str, Any],
    num_rounds: int,
    *,
    deadline: float | None = None,
    on_round: Callable[[dict[str, Measured], dict[str, str], RoundPlan], object] | None = None,
) -> tuple[dict[str, Measured], dict[str, str], RoundPlan]:
    """Measure contenders (file:variant) on the same work, in turns.

    If there is a deadline, one epoch of each contender is timed first, to choose the length of the
    rounds; `num_steps` of the plan is then a number of epochs. A contender that reports that it
    cannot run is absent, and the others continue. With a deadline, so is one that fails to open,
    and, once one is open, each whose turn to open comes after half of the time.

    Args:
        names: Contenders.
        work: Fields of `benchmarks.contender.Work`, such as the corpus, batch size and threads.
        num_rounds: Number of rounds without a deadline.
        deadline: Value of `time.monotonic()` by which to finish.
        on_round: Called after each round with the return values so far.

    Returns:
        The measurements, the reason of each absent contender, and the planned rounds.

    Raises:
        UserError: A contender fails to open and there is no deadline, none can be opened, or one
            fails in a round.
    """
    measured: dict[str, Measured] = {}
    absent: dict[str, str] = {}
    started_at = time.monotonic()
    with ExitStack() as stack:
        processes: dict[str, Contender] = {}
        with console.progress("open contenders", "contenders") as report:
            for number, name in enumerate(names):
                report(number, len(names))
                used_s = time.monotonic() - started_at
                timeout_s: float = OPENING_TIMEOUT_S
                if deadline is not None:
                    if measured and started_at + 2 * used_s > deadline:
                        absent[name] = f"no time was left to open it, after {used_s:.0f} s"
                        continue
                    timeout_s = min(timeout_s, max(deadline - time.monotonic(), 1))
                contender = stack.enter_context(start_contender(name, work))
                try:
                    opened = contender.read(timeout_s)
                except UserError as error:
                    if deadline is None:
                        raise
                    opened = {"absent": str(error)}
                if "absent" in opened:
                    absent[name] = opened["absent"]
                    continue
                contender.stop()
                processes[name] = contender
                measured[name] = Measured(opened.pop("what"), opened=opened)
        if not measured:
            raise UserError(
                "No contender could be opened: "
                + "; ".join(f"{name}: {why}" for name, why in absent.items()),
                "Fix one of these problems, or name other contenders with --against.",
            )
        plan, images_per_round = RoundPlan(num_rounds, 1), None
        if deadline is not None:
            epochs = {name: process.round(1) for name, process in processes.items()}
            num_images = max(epoch["num_images"] for epoch in epochs.values())
            plan = plan_rounds(
                {name: epoch["wall_s"] for name, epoch in epochs.items()},
                {},
                deadline - time.monotonic(),
                RoundPlan(num_rounds, -(-work["images_per_round"] // num_images)),
            )
            images_per_round = plan.num_steps * num_images

        def round_of(name: str) -> Callable[[], float]:
            def run() -> float:
                detail = processes[name].round(images_per_round)
                measured[name].details.append(detail)
                return float(detail["img_per_s"])

            return run

        def after_round(rates: dict[str, list[float]]) -> None:
            for name, rates_of_name in rates.items():
                measured[name].rates = rates_of_name
            if on_round is not None:
                on_round(measured, absent, plan)

        with console.progress("rounds", "rounds") as report:
            take_turns(
                {name: round_of(name) for name in processes},
                plan.num_rounds,
                report,
                on_round=after_round,
                deadline=deadline,
            )
    return measured, absent, plan
