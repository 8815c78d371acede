"""Options, warm-up, timing and records that `harness bench train` and `attack` share."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from harness.cli.benches._rounds import Measured, RoundPlan, plan_rounds, take_turns
from harness.cli.number_types import DeviceType, IntType
from harness.cli.options import json_option

# First steps of a contender (a variant of the training step). They are not part of its rate,
# because caches are filled, and kernels are chosen and compiled.
WARM_UP_STEPS = 3
# Steps that are timed before the rounds if there is a time limit, to choose the steps per round.
SIZING_STEPS = 3

Round = Callable[[], AbstractContextManager[None]]  # returns the context of a round; not timed

_OPTIONS = (
    click.option(
        "--arch",
        default="resnet18",
        show_default=True,
        metavar="NAME",
        help="Architecture; see harness ls models.",
    ),
    click.option(
        "--resolution",
        type=IntType(min=8),
        default=224,
        show_default=True,
        metavar="PIXELS",
        help="Side of the images.",
    ),
    click.option(
        "--batch-size",
        type=IntType(min=2),
        default=256,
        show_default=True,
        help="Images per batch.",
    ),
    click.option(
        "--device",
        type=DeviceType(),
        default="cpu",
        show_default=True,
        metavar="cpu|cuda:0",
        help="Device that trains.",
    ),
    click.option(
        "--rounds",
        "num_rounds",
        type=IntType(min=1),
        default=7,
        show_default=True,
        help="Number of rounds.",
    ),
    click.option(
        "--steps",
        "num_steps",
        type=IntType(min=1),
        default=20,
        show_default=True,
        help="Steps per round.",
    ),
    json_option,
)


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that all benchmarks of training have."""
    from harness.cli.benches._rounds import time_limit_option

    for option in reversed((*_OPTIONS, time_limit_option)):
        command = option(command)
    return command


def measure_steps(
    steps: dict[str, tuple[str, Callable[[], None]]],
    device: str,
    plan: RoundPlan,
    batch_size: int,
    absent: dict[str, str],
    around: Mapping[str, Round] | None = None,
    *,
    deadline: float | None = None,
    on_round: Callable[[dict[str, Measured], RoundPlan], None] | None = None,
) -> tuple[dict[str, Measured], RoundPlan]:
    """Time the steps of each contender, in turns.

    A contender is absent if its first steps fail, for example in a compiler or for lack of memory.

    If there is a deadline, a few steps of each contender are timed after its warm-up. These rates
    are passed to `on_round` at once, because compiling the next contender may take all of the time;
    rates of rounds replace them. After half of the time no other contender but `plain` is warmed
    up, so that there is time to measure. If time is left, steps are then timed again, to choose the
    length of the rounds.

    Args:
        steps: Contender -> description and function that takes one step. Contenders that turn out
            to be absent are removed from it. An error in the contender `plain` is raised.
        device: Device of the steps. On a CPU, rates are per second of this process's CPU time.
        plan: Rounds and steps to run. If there is a deadline, fewer may be run.
        batch_size: Images per step.
        absent: Receives the reason of each absent contender.
        around: Contender -> function that makes a context, which is entered around each of its
            rounds and is not timed.
        deadline: Value of `time.monotonic()` by which to finish.
        on_round: Called with the return values so far: after each round, and, if there is a
            deadline, after each warm-up.

    Returns:
        The measurements and the planned rounds. The field `opened` of a measurement has the seconds
        of the first steps, which include compiling; on a GPU, its `details` have memory and power
        of each round.
    """
    import torch

    from harness.cli import console
    from harness.modeling.module_modes import cudnn_benchmark
    from harness.profiling.gpu_monitor import GpuMonitor

    on_gpu = device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time

    def round_of(name: str, num_steps: int) -> Callable[[], float]:
        step = steps[name][1]

        def run() -> float:
            with (around or {}).get(name, nullcontext)():
                if on_gpu:
                    torch.cuda.synchronize()
                started = clock()
                for _ in range(num_steps):
                    step()
                if on_gpu:
                    torch.cuda.synchronize()
                return num_steps * batch_size / (clock() - started)

        return run

    def watched_round_of(name: str, num_steps: int) -> Callable[[], float]:
        def run() -> float:
            before = torch.cuda.memory_allocated(device)
            with GpuMonitor(device) as monitor:
                rate = round_of(name, num_steps)()
            about = monitor.summary() or {}
            measured[name].details.append({"allocated_before_bytes": before, **about})
            return rate

        return run if on_gpu else round_of(name, num_steps)

    def wall_s(name: str, num_steps: int) -> float:
        started = time.monotonic()
        round_of(name, num_steps)()
        return time.monotonic() - started

    started = time.monotonic()
    measured: dict[str, Measured] = {}
    with cudnn_benchmark(device):
        for name in list(steps):
            used_s = time.monotonic() - started
            if deadline is not None and name != "plain" and started + 2 * used_s > deadline:
                absent[name] = f"no time was left to warm it up, after {used_s:.0f} s"
                del steps[name]
                continue
            try:
                measured[name] = Measured(
                    steps[name][0], opened={"warm_up_s": wall_s(name, WARM_UP_STEPS)}
                )
                if deadline is not None:
                    measured[name].rates = [round_of(name, SIZING_STEPS)()]
            except Exception as error:  # compilers raise many classes
                if name == "plain":
                    raise
                lines = str(error).strip().splitlines()
                absent[name] = (lines or [type(error).__name__])[0][:200]
                del steps[name]
                measured.pop(name, None)
            if deadline is not None and on_round is not None:
                on_round(measured, plan)
        used_s = time.monotonic() - started
        if deadline is not None and started + 2 * used_s > deadline:
            plan = plan_rounds({}, {}, 0, plan)  # no time is left for sizing
        elif deadline is not None:
            short = {name: wall_s(name, 1) for name in steps}
            long = {name: wall_s(name, 1 + SIZING_STEPS) for name in steps}
            step_s = {name: max(long[name] - short[name], 0) / SIZING_STEPS for name in steps}
            overhead_s = {name: max(short[name] - step_s[name], 0) for name in steps}
            plan = plan_rounds(step_s, overhead_s, deadline - time.monotonic(), plan)

        def after_round(rates: dict[str, list[float]]) -> None:
            for name, rates_of_name in rates.items():
                measured[name].rates = rates_of_name
            if on_round is not None:
                on_round(measured, plan)

        with console.progress("rounds", "rounds") as report:
            take_turns(
                {name: watched_round_of(name, plan.num_steps) for name in steps},
                plan.num_rounds,
                report,
                on_round=after_round,
                deadline=deadline,
            )
    return measured, plan


def saver(
    make_record: Callable[[dict[str, Measured], RoundPlan], dict[str, Any]], json_file: Path | None
) -> Callable[[dict[str, Measured], RoundPlan], None]:
    """Return a function for `on_round` that saves the record, in case the run is killed later.

    If `json_file` is None, the function does nothing.
    """
    from harness.cli.benches._record import save

    def on_round(measured: dict[str, Measured], plan: RoundPlan) -> None:
        if json_file is not None:
            save(json_file, make_record(measured, plan))

    return on_round


def finish(record: dict[str, Any], json_file: Path | None) -> None:
    """Print the record as tables, and write it to json_file if that is not None."""
    from harness.cli.benches._record import markdown, save

    if json_file is not None:
        save(json_file, record)
    click.echo(markdown(record), nl=False)
