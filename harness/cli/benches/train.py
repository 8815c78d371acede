"""Training steps a second: ours, eager and compiled, against the loop that people write; and fed by our loader."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._common import time_limit_option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.cli.benches._common import Goal, Measured, RoundPlan
    from harness.config.attack import AttackSettings
    from harness.train.trainee import ModelTrainee
    from loaders.backend import Epoch, Loader

NUM_CLASSES = 1000
WARM_UP_STEPS = 3  # caches fill, kernels are chosen, code is compiled
SIZING_STEPS = 3  # timed under a time limit, to choose a round's steps
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
        help="Every round; saved after each.",
    ),
    time_limit_option,
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
    time_limit_s: float | None,
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
    from harness.cli.benches import _common as bench
    from harness.train.autotune import ways
    from loaders import open_loader
    from loaders.plan import LoaderPlan

    deadline = bench.deadline_in(time_limit_s)
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
        ways(on_gpu, attacked=eps > 0) if (on_gpu if compiles is None else compiles) else ["eager"]
    )

    def content(measured: "dict[str, Measured]", plan: "RoundPlan") -> dict[str, Any]:
        return bench.record(
            "train",
            work | {"num_steps": plan.num_steps},
            measured,
            bench.ratios(measured, _goals(on_gpu, eps)),
            device=device,
            absent=absent,
            rounds_planned=plan.num_rounds,
        )

    with ExitStack() as stack:
        if on_gpu if fed is None else fed:
            from harness.system import environment

            first_steps = (WARM_UP_STEPS, 0 if deadline is None else 1 + SIZING_STEPS)
            plan = LoaderPlan(
                _beton(
                    corpus,
                    (scratch or Path(data_dir) / "bench_load").expanduser().resolve(),
                    batch_size * (FED_STEPS_BEFORE + max(num_steps, *first_steps)),
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
            fed_by_loader = Fed(_trainee(arch, eps, device), loader)
            steps["ours:fed"] = "ours, eager, fed by our loader", fed_by_loader.step
            around["ours:fed"] = fed_by_loader.round
        for name in variants:  # after the fed one: compiling may take what time there is
            steps[f"ours:{name}"] = (
                f"ours, {name}",
                our_step(arch, resolution, batch_size, eps, device, name),
            )
        last = rounds(
            steps,
            device,
            num_rounds,
            num_steps,
            batch_size,
            absent,
            around,
            deadline=deadline,
            on_round=saving(content, json_file),
        )
    finish(content(*last), json_file)


def _goals(on_gpu: bool, eps: float) -> "list[Goal]":
    """The targets are a GPU's; on a CPU the ratios are only told."""
    from harness.cli.benches._common import Goal
    from harness.train.autotune import ways

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
    *,
    deadline: float | None = None,
    on_round: "Callable[[dict[str, Measured], RoundPlan], None] | None" = None,
) -> "tuple[dict[str, Measured], RoundPlan]":
    """Each contender's rounds, in turn. One whose first steps fail (a compiler, memory) is absent, and says why.

    Under a deadline a few steps of each contender are timed first, and the rounds are sized by them. No
    contender is warmed up after half of the time: the rest is for measuring those that are.

    Args:
        around: Of some contenders, what their rounds take place in, outside of the clock.
        deadline: `time.monotonic()` at which to be done.
        on_round: Called after each round with what was measured so far.

    Returns:
        What was measured, and the rounds that were planned.
    """
    import torch

    from harness.cli import console
    from harness.cli.benches import _common as bench
    from harness.cli.benches._common import Measured, RoundPlan
    from harness.modeling.module_modes import fixed_shapes

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

    def wall_s(name: str, num_steps: int) -> float:
        started = time.monotonic()
        round_of(name, num_steps)()
        return time.monotonic() - started

    started = time.monotonic()
    plan = RoundPlan(num_rounds, num_steps)
    with fixed_shapes(device):
        for name in list(steps):
            used_s = time.monotonic() - started
            if deadline is not None and name != "plain" and started + 2 * used_s > deadline:
                absent[name] = f"no time was left to warm it up, after {used_s:.0f} s"
                del steps[name]
                continue
            try:
                round_of(name, WARM_UP_STEPS)()
            except Exception as error:  # whatever a compiler raises
                if name == "plain":
                    raise
                absent[name] = next(iter(str(error).strip().splitlines()), type(error).__name__)[
                    :200
                ]
                del steps[name]
        used_s = time.monotonic() - started
        if deadline is not None and started + 2 * used_s > deadline:
            plan = bench.plan_rounds({}, {}, 0, plan)  # no time for sizing: the least
        elif deadline is not None:
            short = {name: wall_s(name, 1) for name in steps}
            long = {name: wall_s(name, 1 + SIZING_STEPS) for name in steps}
            step_s = {name: max(long[name] - short[name], 0) / SIZING_STEPS for name in steps}
            overhead_s = {name: max(short[name] - step_s[name], 0) for name in steps}
            plan = bench.plan_rounds(step_s, overhead_s, deadline - time.monotonic(), plan)
        measured = {name: Measured(what) for name, (what, _) in steps.items()}

        def after_round(rates: dict[str, list[float]]) -> None:
            for name, found in rates.items():
                measured[name].rates = found
            if on_round is not None:
                on_round(measured, plan)

        with console.progress("rounds", "rounds") as report:
            bench.take_turns(
                {name: round_of(name, plan.num_steps) for name in steps},
                plan.num_rounds,
                report,
                on_round=after_round,
                deadline=deadline,
            )
    return measured, plan


def our_step(
    arch: str,
    resolution: int,
    batch_size: int,
    eps: float,
    device: str,
    compiled: str = "eager",
) -> Callable[[], None]:
    """One of our training steps on one batch."""
    from harness.train.autotune import noise_batch

    batch = noise_batch(batch_size, resolution, NUM_CLASSES, device)
    trainee = _trainee(arch, eps, device)
    trainee.batch_size = batch_size
    trainee.compile(compiled)
    trainee.set_rate(1.0)
    return lambda: trainee.train_batch(*batch)


def _trainee(arch: str, eps: float, device: str) -> "ModelTrainee":
    import torch

    from harness.config.train import ScheduleSettings
    from harness.modeling import classifier as models
    from harness.modeling.precision import choose
    from harness.profiling.timer import Timer
    from harness.train.trainee import ModelTrainee

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

    from harness.modeling import classifier as models
    from harness.modeling.precision import autocast, choose
    from harness.train.autotune import noise_batch

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
    from harness.config.attack import AttackSettings

    return AttackSettings(steps=3)


def _beton(corpus: Path | None, scratch: Path, num_images: int) -> Path:
    """The corpus with its own JPEGs and a restart index, as many times over as makes `num_images`; made once."""
    from harness.cli.benches._corpus import linked, many_times, photo_tiles
    from harness.system import environment
    from writers.beton.encoding import Encoding
    from writers.beton.store import open_beton
    from writers.beton.write import write_split
    from writers.dataset import SplitSettings, open_dataset
    from writers.errors import UserError
    from writers.subset.spec import everything

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


def saving(
    content: "Callable[[dict[str, Measured], RoundPlan], dict[str, Any]]", json_file: Path | None
) -> "Callable[[dict[str, Measured], RoundPlan], None]":
    """For `on_round` of `rounds`: writes the record, where one is asked for, so that a killed run leaves it."""
    from harness.cli.benches import _common as bench

    def save(measured: "dict[str, Measured]", plan: "RoundPlan") -> None:
        if json_file is not None:
            bench.save(json_file, content(measured, plan))

    return save


def finish(content: dict[str, Any], json_file: Path | None) -> None:
    """Tables, and the record where one is asked for."""
    from harness.cli.benches import _common as bench

    if json_file is not None:
        bench.save(json_file, content)
    click.echo(bench.markdown(content), nl=False)
