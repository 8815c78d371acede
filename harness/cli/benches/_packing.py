"""Compare the throughput of small stages that share a GPU with running one after another."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from harness.cli.benches._mps import mps_daemon, variables
from harness.cli.benches._record import Goal
from harness.cli.benches._rounds import Measured, take_turns
from harness.matrix.expand import Matrix
from harness.matrix.stage import Stage
from harness.runner.executor import Run
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.runner.slots import make_slots
from harness.system.folders import Folders
from writers.errors import UserError

NUM_PACKED = 12  # fine-tunes that share the GPU
MIN_SPEEDUP = 2.0
GOALS = (
    Goal(
        "together",
        ("alone",),
        MIN_SPEEDUP,
        title=f"{NUM_PACKED} fine-tunes together / one after another",
    ),
    Goal("together:mps", ("together",), title="with MPS / without"),
)
# Changes to the recipe that make its fine-tunes small.
SETTINGS = ["pretrain.epochs=1", "pretrain.optimizer.warmup_epochs=0", "methods.full.epochs=30"]


def measure_packing(
    plan: Matrix,
    folders: Folders,
    num_rounds: int,
    deadline: float | None,
    on_round: Callable[[dict[str, Measured]], object],
    absent: dict[str, str],
) -> dict[str, Measured]:
    """Measure fine-tunes per second, by workers that share the first GPU, and by one worker.

    Each worker process first runs a stage that is not timed, so that it has imported all code.

    Sharing is measured a second time under NVIDIA's multi-process service, if that starts.

    Args:
        plan: All stages of the recipe, with SETTINGS. The first fine-tune with method `full` is run
            repeatedly, each time with a new seed.
        folders: Scratch folders.
        num_rounds: Number of rounds without a deadline.
        deadline: Value of `time.monotonic()` by which to finish.
        on_round: Called after each round with the measurements so far.
        absent: Receives the reason if the multi-process service does not start or refuses clients.

    Raises:
        UserError: A stage fails.
    """
    tune = next(
        stage
        for stage in plan.stages
        if stage.kind == "transfer" and stage.axes["method"] == "full"
    )

    def run(launcher: local.LocalLauncher, stages: Sequence[Stage]) -> None:
        matrix_run = Run(Matrix(plan.recipe, tuple(stages)), folders, launcher)
        for _ in matrix_run.events():
            pass
        if matrix_run.failed:
            raise UserError(f"A stage failed: {next(iter(matrix_run.failed.values()))}")

    def tunes(first_seed: int) -> list[Stage]:
        needs = [tune.needs["model"].needs["data"], tune.needs["model"], tune.needs["data"]]
        return [
            *needs,
            *(
                replace(
                    tune,
                    config={**tune.config, "seed": first_seed + number},
                    name=f"{tune.name}/{number}",
                )
                for number in range(NUM_PACKED)
            ),
        ]

    measured = {
        "together": Measured(f"{NUM_PACKED} side by side", "stages"),
        "together:mps": Measured(f"{NUM_PACKED} side by side, with MPS", "stages"),
        "alone": Measured("one after another", "stages"),
    }
    seeds = iter(range(1000, 10**9, NUM_PACKED))
    with ExitStack() as stack:
        launchers = {}
        for name in list(measured):
            per_gpu, places = 1 if name == "alone" else NUM_PACKED, {}
            if name == "together:mps":
                try:
                    places = stack.enter_context(mps_daemon(folders.runs / "mps"))
                except UserError as error:
                    absent[name] = error.message
                    del measured[name]
                    continue
            settings = LauncherSettings(folders, per_gpu, "cuda", jobs_per_gpu=per_gpu)
            slots = make_slots(settings)
            slots = [
                slot if slot.low_priority else replace(slot, gpu=slots[0].gpu) for slot in slots
            ]
            with variables(places):  # environment of the workers that start here
                launchers[name] = stack.enter_context(local.LocalLauncher(settings, slots))
                # In the first of two untimed runs, the first stage of a kind runs alone, to measure
                # its use of the GPU. In the second run all workers import their code.
                try:
                    for _ in range(2):
                        run(launchers[name], tunes(next(seeds)))
                except UserError as error:
                    if name != "together:mps":  # the service may start, and then refuse clients
                        raise
                    absent[name] = error.message
                    del measured[name]

        def round_of(name: str) -> Callable[[], float]:
            def measure() -> float:
                stages = tunes(next(seeds))
                started = time.perf_counter()
                run(launchers[name], stages)
                wall_s = time.perf_counter() - started
                measured[name].details.append({"wall_s": wall_s})
                return NUM_PACKED / wall_s

            return measure

        def after_round(rates: dict[str, list[float]]) -> None:
            for name, rates_of_name in rates.items():
                measured[name].rates = rates_of_name
            on_round(measured)

        take_turns(
            {name: round_of(name) for name in measured},
            num_rounds,
            on_round=after_round,
            deadline=deadline,
        )
    return measured
