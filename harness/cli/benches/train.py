"""Training throughput of our step, eager, compiled or fed by our loader, against a plain loop."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._training_rounds import training_options
from harness.cli.number_types import FloatType
from harness.cli.options import data_option
from harness.cli.path_types import PathType

if TYPE_CHECKING:
    from harness.cli.benches._record import Goal
    from harness.cli.benches._rounds import Measured, RoundPlan

# Smallest acceptable ratios. MIN_FED: rate fed by our loader, relative to the rate on one batch.
MIN_FED = {"clean": 0.97, "robust": 0.99}
MIN_TIMED = 0.99  # rate with all spans timed, relative to the rate without
MIN_SPEEDUP_OVER_PLAIN = 1.15
OPTIONS_OF_FED = frozenset({"corpus", "fed_mode", "formats", "threads", "scratch"})  # need --fed


@click.command(
    short_help="Compare our training step with a plain loop; optionally feed it by the loader."
)
@training_options
@click.option(
    "--eps",
    type=FloatType(min=0),
    default=0.0,
    show_default=True,
    help="Radius of L2-PGD with 3 steps; 0 for clean training.",
)
@click.option(
    "--compile/--eager",
    "compiles",
    default=None,
    help="Also measure torch.compile. Default: only on a GPU.",
)
@click.option(
    "--fed/--not-fed",
    default=None,
    help="Also measure training fed by our loader. Default: only on a GPU.",
)
@click.option(
    "--augment",
    "augments",
    is_flag=True,
    help="Also measure our eager step with each augmentation.",
)
@click.option(
    "--timer",
    "timed",
    is_flag=True,
    help="Also measure our eager step with its spans timed, as training does.",
)
@click.option(
    "--corpus",
    type=PathType(exists=True, file=False),
    metavar="DIR",
    help="A folder of JPEG files for --fed. Default: photo tiles, made on first use.",
)
@click.option(
    "--fed-mode",
    default="eager",
    show_default=True,
    metavar="MODE",
    help="Compile mode of the steps for --fed: eager, compiled, cuda_graphs, ...",
)
@click.option(
    "--fed-from",
    "formats",
    default="jpeg",
    show_default=True,
    metavar="LIST",
    help="Formats of the betons for --fed: jpeg (with a restart index), dct, raw.",
)
@click.option(
    "--threads",
    metavar="LIST",
    help="Numbers of loader threads for --fed, such as 16,8,4. Default: all cores.",
)
@click.option(
    "--trace",
    "trace_folder",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Folder for a trace of a few steps of ours, for chrome://tracing.",
)
@click.option(
    "--scratch",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Folder that keeps the beton of the corpus. Default: bench_load in the data folder.",
)
@data_option
def command(
    arch: str,
    resolution: int,
    batch_size: int,
    device: str,
    num_rounds: int,
    num_steps: int,
    json_file: Path | None,
    time_limit_s: float | None,
    eps: float,
    compiles: bool | None,
    fed: bool | None,
    augments: bool,
    timed: bool,
    corpus: Path | None,
    fed_mode: str,
    formats: str,
    threads: str | None,
    trace_folder: Path | None,
    scratch: Path | None,
    data_dir: Path,
) -> None:
    """Measure training in images/s on one batch that is repeated. Contenders alternate in rounds.

    The plain loop is what scripts usually do: eager, channels-last, autocast, and the loss is read
    at every step. If --eps is above 0, its attack also computes the gradients of the weights.

    gpu_fed is the rate of our steps on batches from the loader, relative to our steps on one batch.
    Each of its rounds begins a new epoch; the corpus is repeated until an epoch is long enough.

    On a CPU, times are CPU times of this process, so that other work on the machine does not count.

    \b
    Example:
    harness bench train --arch resnet50 --device cuda:0 --fed --corpus photos
    """
    from harness.cli.benches._fed_steps import FED_WARM_UP_STEPS, FedBy, fed_steps
    from harness.cli.benches._record import compute_ratios, make_record
    from harness.cli.benches._rounds import RoundPlan, deadline_in
    from harness.cli.benches._training_rounds import (
        SIZING_STEPS,
        WARM_UP_STEPS,
        finish,
        measure_steps,
        saver,
    )
    from harness.cli.benches._training_steps import (
        AUGMENTATIONS,
        our_augmented_step,
        our_step,
        our_timed_step,
        plain_step,
        training_flops_of,
        write_trace,
    )
    from harness.cli.options import refuse_given
    from harness.system.gpu import select_gpu
    from harness.train.autotune import compile_modes

    deadline = deadline_in(time_limit_s)
    on_gpu = device.startswith("cuda")
    select_gpu(device)
    work = {
        "arch": arch,
        "resolution": resolution,
        "batch_size": batch_size,
        "eps": eps,
        "num_steps": num_steps,
        "clock": "wall" if on_gpu else "this process's CPU time",
    }
    steps: dict[str, tuple[str, Callable[[], None]]] = {
        "plain": ("a plain loop", plain_step(arch, resolution, batch_size, eps, device))
    }
    around: dict[str, Callable[[], AbstractContextManager[None]]] = {}
    absent: dict[str, str] = {}
    fed = on_gpu if fed is None else fed
    if not fed:
        refuse_given(OPTIONS_OF_FED, "without --fed", "Add --fed, or remove it.")
    variants = (
        compile_modes(on_gpu, eps > 0)
        if (on_gpu if compiles is None else compiles)
        else ["eager", *([fed_mode] if fed and fed_mode != "eager" else [])]
    )
    fed_by = FedBy.parse(fed_mode, formats, threads) if fed else None
    fed_names = list(fed_by.names()) if fed_by else []
    flops_per_image = training_flops_of(arch, resolution, eps)

    def record(measured: "dict[str, Measured]", plan: "RoundPlan") -> dict[str, Any]:
        return make_record(
            "train",
            work | {"num_steps": plan.num_steps},
            measured,
            compute_ratios(measured, _goals(on_gpu, eps, fed_names, fed_mode)),
            device=device,
            absent=absent,
            rounds_planned=plan.num_rounds,
            flops_per_image=flops_per_image,
        )

    with ExitStack() as stack:

        def add(name: str) -> None:
            step = our_step(arch, resolution, batch_size, eps, device, name)
            steps[f"ours:{name}"] = f"ours, {name}", step

        if fed_by is not None:
            add(fed_mode)  # first, because fed steps are compared with it
            longest = max(num_steps, WARM_UP_STEPS, 0 if deadline is None else 1 + SIZING_STEPS)
            num_images = batch_size * (FED_WARM_UP_STEPS + longest)
            folder = (scratch or data_dir / "bench_load").expanduser().resolve()
            for name, (what, step, round_) in fed_steps(
                fed_by,
                corpus,
                folder,
                num_images,
                stack,
                arch=arch,
                resolution=resolution,
                batch_size=batch_size,
                eps=eps,
                device=device,
            ).items():
                steps[name], around[name] = (what, step), round_
        if timed:
            add("eager")
            step, around["ours:timed"] = our_timed_step(arch, resolution, batch_size, eps, device)
            steps["ours:timed"] = "ours, eager, with timed spans", step
        for name in variants:  # last, because compiling may use up the time
            if f"ours:{name}" not in steps:
                add(name)
        for name in AUGMENTATIONS if augments else ():
            steps[f"augment:{name}"] = (
                f"ours, eager, with {name}",
                our_augmented_step(arch, resolution, batch_size, eps, device, name),
            )
        measured, rounds = measure_steps(
            steps,
            device,
            RoundPlan(num_rounds, num_steps),
            batch_size,
            absent,
            around,
            deadline=deadline,
            on_round=saver(record, json_file),
        )
    finish(record(measured, rounds), json_file)
    if trace_folder is not None:
        traced = next(name for name in (f"ours:{fed_mode}", "ours:eager", "plain") if name in steps)
        step = steps[traced][1]
        click.echo(f"Trace: {write_trace(step, trace_folder, device)}")


def _goals(on_gpu: bool, eps: float, fed_names: Sequence[str], fed_mode: str) -> "list[Goal]":
    """Goals apply to GPUs; on a CPU the ratios are only reported."""
    from harness.cli.benches._record import Goal
    from harness.cli.benches._training_steps import AUGMENTATIONS
    from harness.train.autotune import compile_modes

    kind = "robust" if eps > 0 else "clean"
    return [
        *(
            Goal(
                f"ours:{name}",
                ("plain",),
                MIN_SPEEDUP_OVER_PLAIN if on_gpu and not eps and name == "cuda_graphs" else None,
                title=f"ours:{name} / plain, {kind}",
            )
            for name in compile_modes(on_gpu, eps > 0)
        ),
        *(
            Goal(
                name,
                (f"ours:{fed_mode}",),
                MIN_FED[kind] if on_gpu else None,
                title=f"gpu_fed, {kind}{name.removeprefix('ours:fed').replace(':', ' ')}",
            )
            for name in fed_names
        ),
        Goal(
            "ours:timed",
            ("ours:eager",),
            MIN_TIMED if on_gpu else None,
            title=f"with timed spans, {kind}",
        ),
        *(
            Goal(f"augment:{name}", ("ours:eager",), None, title=f"with {name}, {kind}")
            for name in AUGMENTATIONS
        ),
    ]
