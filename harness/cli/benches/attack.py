"""What a PGD training step costs over a clean one: ours, and in a plain loop that computes weight gradients on the way."""

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches.train import with_options

if TYPE_CHECKING:
    from harness.cli.benches._common import Measured

EPS = 3.0
MOST = 3.3  # times a clean step: 3 gradients of pixels, of two thirds of a pass each, and a whole pass, make 3.0


@click.command(short_help="PGD steps over clean ones: ours against a plain loop.")
@with_options
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
    """Images a second of clean and of PGD-3 steps (L2) on one batch, by turns; and what the second cost over the first."""
    from harness.cli.benches import _common as bench
    from harness.cli.benches._common import Goal, RoundPlan
    from harness.cli.benches.train import (
        check_device,
        finish,
        our_step,
        plain_step,
        rounds,
        saving,
    )

    deadline = bench.deadline_in(time_limit_s)
    check_device(device)
    on_gpu = device.startswith("cuda")
    absent: dict[str, str] = {}
    steps = {
        f"{who}:{kind}": (
            f"{'ours' if who == 'ours' else 'a plain loop'}, {kind}",
            make(arch, resolution, batch_size, eps, device),
        )
        for who, make in (("ours", our_step), ("plain", plain_step))
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
            1 / MOST if on_gpu else None,
            title=f"ours, PGD-3 / clean (1 / {MOST} = {1 / MOST:.3f})",
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

    def content(measured: "dict[str, Measured]", plan: RoundPlan) -> dict[str, Any]:
        return bench.record(
            "attack",
            work | {"num_steps": plan.num_steps},
            measured,
            bench.ratios(measured, goals),
            device=device,
            absent=absent,
            rounds_planned=plan.num_rounds,
            cost_over_clean={
                who: {"median": statistics.median(found), "rounds": found}
                for who, found in _costs(measured).items()
            },
        )

    measured, plan = rounds(
        steps,
        device,
        num_rounds,
        num_steps,
        batch_size,
        absent,
        deadline=deadline,
        on_round=saving(content, json_file),
    )
    finish(content(measured, plan), json_file)
    for who, found in _costs(measured).items():
        click.echo(f"{who}: a PGD-3 step costs {statistics.median(found):.2f} clean steps")


def _costs(measured: "dict[str, Measured]") -> dict[str, list[float]]:
    """Whose -> the cost of a PGD-3 step over a clean one, round by round."""
    return {
        who: [
            clean / attacked
            for clean, attacked in zip(
                measured[f"{who}:clean"].rates, measured[f"{who}:pgd3"].rates, strict=True
            )
        ]
        for who in ("ours", "plain")
        if {f"{who}:clean", f"{who}:pgd3"} <= measured.keys()
    }
