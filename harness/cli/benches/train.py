"""Training throughput: ours, eager and compiled, against a plain loop, and fed by our loader."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._training_rounds import training_options

if TYPE_CHECKING:
    from harness.cli.benches._record import Goal
    from harness.cli.benches._rounds import Measured, RoundPlan

MIN_FED = {"clean": 0.97, "robust": 0.99}
MIN_SPEEDUP_OVER_PLAIN = 1.15


@click.command(short_help="Training steps: ours against a plain loop, and fed by the loader.")
@training_options
@click.option(
    "--eps",
    type=click.FloatRange(min=0),
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
    "--corpus",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="A folder of JPEG files for --fed. Default: photo tiles, made on first use.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Number of loader threads for --fed. Default: all cores.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder that keeps the beton of the corpus. Default: bench_load in the data folder.",
)
@click.option(
    "--data-dir",
    envvar="HARNESS_DATA",
    default="./data",
    metavar="DIR",
    show_envvar=True,
    help="Folder of betons.",
)
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
    corpus: Path | None,
    threads: int | None,
    scratch: Path | None,
    data_dir: str,
) -> None:
    """Train on one batch over and over, every contender in turn, round after round; in images/s.

    The plain loop is what scripts usually do: eager, channels-last, autocast, and the loss is read
    at every step. If --eps is above 0, its attack also computes the gradients of the weights.

    gpu_fed is the rate of our steps on batches from the loader, relative to our steps on one batch.
    Each of its rounds is part of one epoch, for which the corpus is repeated as often as necessary.

    On a CPU, times are CPU times of this process, so that other work on the machine does not count.

    Example: harness bench train --arch resnet50 --device cuda:0 --fed --corpus photos
    """
    from harness.cli.benches._record import compute_ratios, make_record
    from harness.cli.benches._rounds import RoundPlan, deadline_in
    from harness.cli.benches._training_rounds import (
        SIZING_STEPS,
        WARM_UP_STEPS,
        check_device,
        finish,
        measure_steps,
        saver,
    )
    from harness.cli.benches._training_steps import (
        AUGMENTATIONS,
        FED_WARM_UP_STEPS,
        FedByLoader,
        make_learner,
        our_augmented_step,
        our_step,
        plain_step,
    )
    from harness.train.autotune import compile_modes
    from loaders import open_loader
    from loaders.plan import LoaderPlan

    deadline = deadline_in(time_limit_s)
    on_gpu = device.startswith("cuda")
    check_device(device)
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
    variants = (
        compile_modes(on_gpu, eps > 0) if (on_gpu if compiles is None else compiles) else ["eager"]
    )

    def record(measured: "dict[str, Measured]", plan: "RoundPlan") -> dict[str, Any]:
        return make_record(
            "train",
            work | {"num_steps": plan.num_steps},
            measured,
            compute_ratios(measured, _goals(on_gpu, eps)),
            device=device,
            absent=absent,
            rounds_planned=plan.num_rounds,
        )

    with ExitStack() as stack:
        if on_gpu if fed is None else fed:
            from harness.system import environment

            longest = max(num_steps, WARM_UP_STEPS, 0 if deadline is None else 1 + SIZING_STEPS)
            plan = LoaderPlan(
                _write_corpus(
                    corpus,
                    (scratch or Path(data_dir) / "bench_load").expanduser().resolve(),
                    batch_size * (FED_WARM_UP_STEPS + longest),
                ),
                batch_size,
                resolution,
                augment="random_resized_crop",
                horizontal_flip=True,
                order="random",
                drop_last=True,
                num_threads=threads or environment.num_cores(),
                device=device,
            )
            loader = stack.enter_context(open_loader(plan))
            fed_by_loader = FedByLoader(make_learner(arch, eps, device), loader)
            steps["ours:fed"] = "ours, eager, fed by our loader", fed_by_loader.step
            around["ours:fed"] = fed_by_loader.round
        for name in variants:  # last, because compiling may use up the time
            steps[f"ours:{name}"] = (
                f"ours, {name}",
                our_step(arch, resolution, batch_size, eps, device, name),
            )
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


def _goals(on_gpu: bool, eps: float) -> "list[Goal]":
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
        Goal(
            "ours:fed",
            ("ours:eager",),
            MIN_FED[kind] if on_gpu else None,
            title=f"gpu_fed, {kind}",
        ),
        *(
            Goal(f"augment:{name}", ("ours:eager",), None, title=f"with {name}, {kind}")
            for name in AUGMENTATIONS
        ),
    ]


def _write_corpus(corpus: Path | None, scratch: Path, num_images: int) -> Path:
    """Return a beton of the corpus with a restart index; write it if it does not exist.

    The corpus is repeated until there are at least num_images.
    """
    from harness.cli.benches._corpus import link_corpus, make_photo_tiles, repeat_source
    from harness.system import environment
    from writers.beton.encoding import Encoding
    from writers.beton.store import open_beton
    from writers.beton.write import write_split
    from writers.dataset import SplitSettings, open_dataset
    from writers.errors import UserError
    from writers.subset.spec import everything

    photos = link_corpus(corpus.resolve() if corpus else make_photo_tiles(scratch), scratch)
    source = open_dataset("folder", photos, SplitSettings(val=0))
    num_copies = -(-num_images // len(source.splits["train"]))
    path = scratch / f"train_{photos.name}_x{num_copies}.beton"
    try:
        open_beton(path)
    except UserError:
        source = repeat_source(source, num_copies)
        write_split(
            source,
            "train",
            everything(source.classes),
            Encoding(format="passthrough", restart_index=True),
            path,
            num_threads=environment.num_cores(),
        )
    return path
