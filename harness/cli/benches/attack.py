"""Cost of a PGD training step relative to a clean step: in our code, and in a plain loop."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._training_rounds import training_options

if TYPE_CHECKING:
    from harness.cli.benches._rounds import Measured, RoundPlan

EPS = 3.0
# Largest acceptable ratio of the times of a PGD-3 step and a clean step. The ideal ratio is 3.0: a
# clean step, and three gradients of the input, each of which costs two thirds of a clean step.
MAX_COST = 3.3


@click.command(
    short_help="Compare the cost of steps with PGD and clean steps: ours and a plain loop's."
)
@training_options
def command(
    arch: str,
    resolution: int,
    batch_size: int,
    device: str,
    num_rounds: int,
    num_steps: int,
    json_file: Path | None,
    time_limit_s: float | None,
) -> None:
    """Compare clean steps and steps with L2-PGD-3 on one batch, in images/s.

    The plain loop is what scripts usually do: its attack also computes the gradients of the
    weights.

    \b
    Example:
    harness bench attack --arch resnet10 --resolution 48 --batch-size 32
    """
    from harness.cli.benches._record import Goal, compute_ratios, make_record
    from harness.cli.benches._rounds import RoundPlan, deadline_in
    from harness.cli.benches._training_rounds import finish, measure_steps, saver
    from harness.cli.benches._training_steps import our_step, plain_step
    from harness.system.gpu import select_gpu

    deadline = deadline_in(time_limit_s)
    select_gpu(device)
    on_gpu = device.startswith("cuda")
    absent: dict[str, str] = {}
    steps = {
        f"{name}:{kind}": (
            f"{'ours' if name == 'ours' else 'a plain loop'}, {kind}",
            make_step(arch, resolution, batch_size, eps, device),
        )
        for name, make_step in (("ours", our_step), ("plain", plain_step))
        for kind, eps in (("clean", 0.0), ("pgd3", EPS))
    }
    if on_gpu:
        steps["ours:pgd3:captured"] = (
            "ours, pgd3, its attack one CUDA graph",
            our_step(arch, resolution, batch_size, EPS, device, "captured_attack"),
        )
    goals = [
        Goal(
            "ours:pgd3",
            ("ours:clean",),
            1 / MAX_COST if on_gpu else None,
            title=f"ours, PGD-3 / clean (1 / {MAX_COST} = {1 / MAX_COST:.3f})",
        ),
        Goal("ours:pgd3:captured", ("ours:clean",), title="ours, PGD-3 in one CUDA graph / clean"),
        Goal("plain:pgd3", ("plain:clean",), title="plain, PGD-3 / clean"),
        Goal("ours:pgd3", ("plain:pgd3",), title="PGD-3, ours / plain"),
        Goal("ours:clean", ("plain:clean",), title="clean, ours / plain"),
    ]
    work = {
        "arch": arch,
        "resolution": resolution,
        "batch_size": batch_size,
        "eps": EPS,
        "num_steps": num_steps,
        "clock": "wall" if on_gpu else "this process's CPU time",
    }

    def record(measured: "dict[str, Measured]", plan: "RoundPlan") -> dict[str, Any]:
        return make_record(
            "attack",
            work | {"num_steps": plan.num_steps},
            measured,
            compute_ratios(measured, goals),
            device=device,
            absent=absent,
            rounds_planned=plan.num_rounds,
            cost_over_clean={
                name: {"median": statistics.median(costs), "rounds": costs}
                for name, costs in _costs(measured).items()
            },
        )

    measured, plan = measure_steps(
        steps,
        device,
        RoundPlan(num_rounds, num_steps),
        batch_size,
        absent,
        deadline=deadline,
        on_round=saver(record, json_file),
    )
    finish(record(measured, plan), json_file)
    for name, costs in _costs(measured).items():
        click.echo(f"{name}: a PGD-3 step costs {statistics.median(costs):.2f} clean steps")


def _costs(measured: "dict[str, Measured]") -> dict[str, list[float]]:
    """Time of a PGD-3 step / time of a clean step in each round, for ours and the plain loop."""
    return {
        name: [
            clean / attacked
            for clean, attacked in zip(
                measured[f"{name}:clean"].rates, measured[f"{name}:pgd3"].rates, strict=True
            )
        ]
        for name in ("ours", "plain")
        if {f"{name}:clean", f"{name}:pgd3"} <= measured.keys()
    }
