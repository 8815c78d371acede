"""Training steps on batches from our loader: formats, numbers of threads, and compile modes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from writers.errors import UserError

if TYPE_CHECKING:
    from harness.train.step import TrainStep
    from loaders.backend import Epoch, Loader
    from writers.beton.encoding import Encoding

# Untimed steps at the start of a round: enough to use each batch buffer of the loader once.
FED_WARM_UP_STEPS = 4
FORMATS = ("jpeg", "dct", "raw")


@dataclass(frozen=True)
class FedBy:
    """Options of the loaders that feed our training steps.

    Attributes:
        mode: Compile mode of the steps, a key of `compilation.MODES`.
        formats: Formats of the `.beton` files, from FORMATS.
        threads: Numbers of loader threads.
    """

    mode: str
    formats: tuple[str, ...]
    threads: tuple[int, ...]

    @classmethod
    def parse(cls, mode: str, formats: str, threads: str | None) -> Self:
        """Read options of the command line.

        Args:
            mode: Key of `compilation.MODES`.
            formats: FORMATS, separated by commas.
            threads: Numbers separated by commas; None takes all cores.

        Raises:
            UserError: A value is unknown.
        """
        from harness.system import environment
        from harness.train.compilation import MODES

        if mode not in MODES:
            raise UserError(f"There is no compile mode '{mode}'.", f"Use {', '.join(MODES)}.")
        for name in formats.split(","):
            if name not in FORMATS:
                raise UserError(
                    f"There is no format '{name}' for --fed-from.", f"Use {', '.join(FORMATS)}."
                )
        numbers = threads.split(",") if threads else [str(environment.num_cores())]
        if not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise UserError(
                f"--threads {threads} is not a list of numbers.", "Use, for example, 8,4."
            )
        return cls(mode, tuple(formats.split(",")), tuple(map(int, numbers)))

    def names(self) -> dict[str, tuple[str, int]]:
        """Map each contender's name to its format and threads; a lone contender is `ours:fed`."""
        pairs = [(name, number) for name in self.formats for number in self.threads]
        if len(pairs) == 1:
            return {"ours:fed": pairs[0]}
        return {f"ours:fed:{name}:{number}": (name, number) for name, number in pairs}


class FedByLoader:
    """Train on batches from our loader. A round opens a new epoch and closes it at its end.

    The loader therefore does no work while other contenders are measured, and every batch after the
    warm-up is decoded while the clock runs. If the loader filled its queue between rounds, a round
    would not show that the loader is too slow.
    """

    def __init__(self, learner: "TrainStep", loader: "Loader") -> None:
        assert loader.plan.batches_ahead + 2 == FED_WARM_UP_STEPS
        learner.set_rate(1.0)
        self._learner, self._loader, self._number = learner, loader, 0
        self._epoch: Epoch | None = None

    def step(self) -> None:
        """Train on the next batch. Call it only inside `round`."""
        assert self._epoch is not None, "step() must be called inside round()"
        self._learner.train_batch(*next(self._epoch))

    @contextmanager
    def round(self) -> Iterator[None]:
        """Open an epoch and take the warm-up steps; close the epoch at the end of the block."""
        with self._loader.epoch(self._number) as self._epoch:
            self._number += 1
            for _ in range(FED_WARM_UP_STEPS):
                self.step()
            yield
        self._epoch = None


Fed = tuple[str, Callable[[], None], Callable[[], AbstractContextManager[None]]]


def fed_steps(
    fed_by: FedBy,
    corpus: Path | None,
    scratch: Path,
    num_images: int,
    stack: ExitStack,
    *,
    arch: str,
    resolution: int,
    batch_size: int,
    eps: float,
    device: str,
) -> dict[str, Fed]:
    """Open the loaders; return the description, step and round of each contender.

    All contenders train one network, which is compiled once.

    Args:
        fed_by: Compile mode, formats and numbers of threads.
        corpus: Folder of JPEG files; None cuts tiles from photos (`benchmarks/photo_tiles.py`).
        scratch: Folder of the betons.
        num_images: Smallest number of images in a beton; the corpus is repeated to reach it.
        stack: Closes the loaders.
        arch: Name of the network.
        resolution: Side of the crops in pixels.
        batch_size: Images per batch.
        eps: Radius of the attack in training; 0 trains without one.
        device: Device of the training.
    """
    from harness.cli.benches._training_steps import make_learner
    from loaders import open_loader
    from loaders.plan import LoaderPlan

    learner = make_learner(arch, eps, device)
    learner.compile(fed_by.mode, batch_size)
    betons = {name: _write_corpus(corpus, scratch, num_images, name) for name in fed_by.formats}
    steps: dict[str, Fed] = {}
    for name, (kind, num_threads) in fed_by.names().items():
        plan = LoaderPlan(
            betons[kind],
            batch_size,
            resolution,
            augment="random_resized_crop",
            horizontal_flip=True,
            order="random",
            drop_last=True,
            num_threads=num_threads,
            device=device,
        )
        fed = FedByLoader(learner, stack.enter_context(open_loader(plan)))
        what = f"ours, {fed_by.mode}, fed by our loader: {kind}, {num_threads} threads"
        steps[name] = what, fed.step, fed.round
    return steps


def _write_corpus(corpus: Path | None, scratch: Path, num_images: int, kind: str) -> Path:
    """Return a beton of the corpus in one of FORMATS; write it if it does not exist.

    The corpus is repeated until there are at least num_images.
    """
    from harness.cli.benches._corpus import link_corpus, make_photo_tiles, repeat_source
    from harness.system import environment
    from writers.beton.store import open_beton
    from writers.beton.write import write_split
    from writers.dataset import SplitSettings, open_dataset
    from writers.subset.spec import everything

    photos = link_corpus(corpus.resolve() if corpus else make_photo_tiles(scratch), scratch)
    source = open_dataset("folder", photos, SplitSettings(val=0))
    num_copies = -(-num_images // len(source.splits["train"]))
    path = scratch / f"train_{photos.name}_x{num_copies}_{kind}.beton"
    try:
        open_beton(path)
    except UserError:
        source = repeat_source(source, num_copies)
        write_split(
            source,
            "train",
            everything(source.classes),
            _encoding(kind),
            path,
            num_threads=environment.num_cores(),
        )
    return path


def _encoding(kind: str) -> "Encoding":
    from writers.beton.encoding import Encoding

    if kind == "jpeg":
        return Encoding(format="passthrough", restart_index=True)
    return Encoding.model_validate({"format": kind})
