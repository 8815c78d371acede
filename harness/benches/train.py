"""Training steps a second: ours, eager and compiled, against the loop that people write; and fed by our loader."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.attack_settings import AttackSettings
    from harness.bench import Goal, Measured
    from harness.train.trainee import ModelTrainee
    from loaders.backend import Epoch, Loader

NUM_CLASSES = 1000
WARM_UP_STEPS = 3  # caches fill, kernels are chosen, code is compiled
FED_STEPS_BEFORE = 4  # of a round, outside of the clock: each slot of the loader is used once
FED_MUST = {"clean": 0.97, "robust": 0.99}
AGAINST_PLAIN_MUST = 1.15

options = (  # of both benchmarks of training
    click.option(
        "--arch",
        default="resnet18",
        show_default=True,
        metavar="NAME",
        help="See harness ls models.",
    ),
    click.option(
        "--resolution", type=click.IntRange(min=8), default=224, show_default=True, metavar="PIXELS"
    ),
    click.option("--batch-size", type=click.IntRange(min=2), default=256, show_default=True),
    click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda:0"),
    click.option(
        "--rounds", "num_rounds", type=click.IntRange(min=1), default=7, show_default=True
    ),
    click.option(
        "--steps",
        "num_steps",
        type=click.IntRange(min=1),
        default=20,
        show_default=True,
        help="A round's.",
    ),
    click.option(
        "--json",
        "json_file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Every round.",
    ),
)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command


@click.command(short_help="Training steps: ours against a plain loop, and fed by the loader.")
@with_options
@click.option(
    "--eps",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Above 0: PGD-3, L2.",
)
@click.option(
    "--compile/--eager",
    "compiles",
    default=None,
    help="Whether torch.compile is measured. Default: on a GPU.",
)
@click.option(
    "--fed/--not-fed", default=None, help="Whether our loader feeds it, too. Default: on a GPU."
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Of --fed: a folder of JPEG files. Default: photo tiles, made on first use.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Of --fed: the loader's. Default: all cores."
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the corpus's beton is kept. Default: bench_load in the data folder.",
)
@click.option(
    "--data-dir", envvar="HARNESS_DATA", default="./data", metavar="DIR", show_envvar=True
)
def command(
    arch: str,
    resolution: int,
    batch_size: int,
    device: str,
    num_rounds: int,
    num_steps: int,
    json_file: Path | None,
    eps: float,
    compiles: bool | None,
    fed: bool | None,
    corpus: Path | None,
    threads: int | None,
    scratch: Path | None,
    data_dir: str,
) -> None:
    """Images a second of training on one batch over and over, every contender in turn, round after round.

    The plain loop is what scripts do: eager, channels-last, autocast, the loss read at every step; robust, an attack that
    computes the gradients of the weights, too. gpu_fed is ours with batches from the loader over ours on one batch; each of its
    rounds lies within one epoch, for which the corpus is written as many times over as it takes.
    On a CPU times are of this process alone, so that other work on the machine does not count.
    """
    from harness.train.trial import ways
    from loaders import open_loader
    from loaders.plan import LoaderPlan

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
    absent: dict[str, str] = {}
    variants = (
        ways(on_gpu, attacked=eps > 0) if (on_gpu if compiles is None else compiles) else ["eager"]
    )
    for name in variants:
        steps[f"ours:{name}"] = (
            f"ours, {name}",
            our_step(arch, resolution, batch_size, eps, device, name),
        )
    if on_gpu if fed is None else fed:
        from harness import environment

        plan = LoaderPlan(
            _beton(
                corpus,
                (scratch or Path(data_dir) / "bench_load").expanduser().resolve(),
                batch_size * (num_steps + FED_STEPS_BEFORE),
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
        with open_loader(plan) as loader:
            fed_by_loader = Fed(_trainee(arch, eps, device), loader)
            steps["ours:fed"] = "ours, eager, fed by our loader", fed_by_loader.step
            measured = rounds(
                steps,
                device,
                num_rounds,
                num_steps,
                batch_size,
                absent,
                {"ours:fed": fed_by_loader.round},
            )
    else:
        measured = rounds(steps, device, num_rounds, num_steps, batch_size, absent)
    finish("train", work, measured, _goals(on_gpu, eps), device, absent, json_file)


def _goals(on_gpu: bool, eps: float) -> "list[Goal]":
    """The targets are a GPU's; on a CPU the ratios are only told."""
    from harness.bench import Goal
    from harness.train.trial import ways

    kind = "robust" if eps > 0 else "clean"
    return [
        *(
            Goal(
                f"ours:{name}",
                ("plain",),
                AGAINST_PLAIN_MUST if on_gpu and not eps and name == "cuda_graphs" else None,
                title=f"ours:{name} / plain, {kind}",
            )
            for name in ways(on_gpu, attacked=eps > 0)
        ),
        Goal(
            "ours:fed",
            ("ours:eager",),
            FED_MUST[kind] if on_gpu else None,
            title=f"gpu_fed, {kind}",
        ),
    ]


def check_device(device: str) -> None:
    """Raises UserError for a GPU that is not there."""
    import torch

    from writers.errors import UserError

    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(
                f"This torch ({torch.__version__}) cannot use a GPU.", "Say --device cpu."
            )
        torch.cuda.set_device(
            torch.device(device).index or 0
        )  # it is this one whose work is waited for


def rounds(
    steps: "dict[str, tuple[str, Callable[[], None]]]",
    device: str,
    num_rounds: int,
    num_steps: int,
    batch_size: int,
    absent: dict[str, str],
    around: Mapping[str, Callable[[], AbstractContextManager[None]]] | None = None,
) -> "dict[str, Measured]":
    """Each contender's rounds, in turn. One whose first steps fail (a compiler, memory) is absent, and says why.

    `around`: of some contenders, what their rounds take place in, outside of the clock.
    """
    import torch

    from harness import bench, console
    from harness.bench import Measured
    from harness.train.modes import fixed_shapes

    on_gpu = device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time

    def round_of(
        name: str, step: Callable[[], None], num_steps: int = num_steps
    ) -> Callable[[], float]:
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

    with fixed_shapes(device):
        for name, (_, step) in list(steps.items()):
            try:
                round_of(name, step, WARM_UP_STEPS)()
            except Exception as error:  # whatever a compiler raises
                if name == "plain":
                    raise
                absent[name] = next(iter(str(error).strip().splitlines()), type(error).__name__)[
                    :200
                ]
                del steps[name]
        with console.progress("rounds", "rounds") as report:
            rates = bench.take_turns(
                {name: round_of(name, step) for name, (_, step) in steps.items()},
                num_rounds,
                report,
            )
    return {name: Measured(what, rates=rates[name]) for name, (what, _) in steps.items()}


def our_step(
    arch: str,
    resolution: int,
    batch_size: int,
    eps: float,
    device: str,
    compiled: str = "eager",
) -> Callable[[], None]:
    """One of our training steps on one batch."""
    from harness.train.trial import noise_batch

    batch = noise_batch(batch_size, resolution, NUM_CLASSES, device)
    trainee = _trainee(arch, eps, device)
    trainee.batch_size = batch_size
    trainee.compile(compiled)
    trainee.set_rate(1.0)
    return lambda: trainee.train_batch(*batch)


def _trainee(arch: str, eps: float, device: str) -> "ModelTrainee":
    import torch

    from harness import model as models
    from harness.timer import Timer
    from harness.train.precision import choose
    from harness.train.trainee import ModelTrainee
    from harness.train_settings import ScheduleSettings

    torch.manual_seed(0)
    model = models.build(arch, NUM_CLASSES).to(device)
    return ModelTrainee(
        model,
        ScheduleSettings(),
        1e-3,
        device=device,
        precision=choose("auto", device),
        label_smoothing=0.0,
        timer=Timer(device, enabled=False),
        train_mode=model.train,
        attack=pgd3() if eps else None,
        eps=eps,
    )


class Fed:
    """The same on a loader's batches. Each round is a new epoch, which ends with it.

    So the loader stands still while others are measured, and every batch of a round but those of the first steps is decoded in
    its time: a queue filled in between would hide that a loader is too slow, and a first batch that it is fast enough.
    """

    def __init__(self, trainee: "ModelTrainee", loader: "Loader") -> None:
        assert loader.plan.batches_ahead + 2 == FED_STEPS_BEFORE
        trainee.set_rate(1.0)
        self._trainee, self._loader, self._number = trainee, loader, 0
        self._epoch: Epoch | None = None

    def step(self) -> None:
        assert self._epoch is not None, "steps are taken in a round"
        self._trainee.train_batch(*next(self._epoch))

    @contextmanager
    def round(self) -> Iterator[None]:
        with self._loader.epoch(self._number) as self._epoch:
            self._number += 1
            for _ in range(FED_STEPS_BEFORE):
                self.step()
            yield
        self._epoch = None


def plain_step(
    arch: str, resolution: int, batch_size: int, eps: float, device: str
) -> Callable[[], None]:
    """A step as scripts have it: eager, channels-last, autocast, `.item()` for the log."""
    import torch
    from torch.nn import functional

    from harness import model as models
    from harness.train.precision import autocast, choose
    from harness.train.trial import noise_batch

    torch.manual_seed(0)
    model = models.build(arch, NUM_CLASSES).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=5e-5)
    images, labels = noise_batch(batch_size, resolution, NUM_CLASSES, device)
    precision = choose("auto", device)
    attack = pgd3()

    def step() -> None:
        pixels = images.float() / 255
        if eps:
            pixels = _plain_attack(
                model, pixels, labels, eps, attack, lambda: autocast(precision, device, model)
            )
        model.train()
        optimizer.zero_grad()
        with autocast(precision, device, model):
            logits = model(pixels)
            loss = functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        loss.item()
        (logits.argmax(1) == labels).float().mean().item()

    return step


def _plain_attack(
    model: "nn.Module",
    pixels: "Tensor",
    labels: "Tensor",
    eps: float,
    settings: "AttackSettings",
    context: Callable[[], Any],
) -> "Tensor":
    """L2-PGD by `loss.backward()`, which computes the gradients of the weights and throws them away."""
    import torch
    from torch.nn import functional

    model.eval()
    adversarial = pixels.clone()
    for _ in range(settings.steps):
        adversarial = adversarial.detach().requires_grad_()
        with context():
            loss = functional.cross_entropy(model(adversarial), labels)
        loss.backward()
        assert adversarial.grad is not None
        with torch.no_grad():
            gradient = adversarial.grad
            gradient = gradient / (gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-10)
            delta = adversarial + settings.step_length(eps) * gradient - pixels
            length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            adversarial = (pixels + delta * (eps / length.clamp(min=eps))).clamp(0, 1)
        loss.item()
    return adversarial.detach()


def pgd3() -> "AttackSettings":
    from harness.attack_settings import AttackSettings

    return AttackSettings(steps=3)


def _beton(corpus: Path | None, scratch: Path, num_images: int) -> Path:
    """The corpus with its own JPEGs and a restart index, as many times over as makes `num_images`; made once."""
    from harness import environment
    from harness.corpus import linked, many_times, photo_tiles
    from writers.dataset import SplitSettings, open_dataset
    from writers.encoding import Encoding
    from writers.errors import UserError
    from writers.store import open_beton
    from writers.subset import everything
    from writers.write import write_split

    photos = linked(corpus.resolve() if corpus else photo_tiles(scratch), scratch)
    source = open_dataset("folder", photos, SplitSettings(val=0))
    copies = -(-num_images // len(source.splits["train"]))
    path = scratch / f"train_{photos.name}_x{copies}.beton"
    try:
        open_beton(path)
    except UserError:
        source = many_times(source, copies)
        write_split(
            source,
            "train",
            everything(source.classes),
            Encoding(format="passthrough", restart_index=True),
            path,
            num_threads=environment.num_cores(),
        )
    return path


def finish(
    name: str,
    work: dict[str, Any],
    measured: "dict[str, Measured]",
    goals: "list[Goal]",
    device: str,
    absent: dict[str, str],
    json_file: Path | None,
    **more: Any,
) -> None:
    """Tables, and the record where one is asked for."""
    from harness import bench

    content = bench.record(
        name, work, measured, bench.ratios(measured, goals), device=device, absent=absent, **more
    )
    if json_file is not None:
        bench.save(json_file, content)
    click.echo(bench.markdown(content), nl=False)
