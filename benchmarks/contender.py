"""Run one loader under test in a process of `harness bench load`.

    python -m benchmarks.contender ffcv:jpeg '{"corpus": ...}'

A contender (loader under test) is a file of `benchmarks/contenders/`. It has `VARIANTS` (variant ->
description) and `open_pipeline(variant, work)`, which returns a function from the number of an
epoch to its batches. An optional `prepare(variant, work)` converts the corpus first, outside of all
measured times.

Each contender runs in its own process, because several libraries set thread counts, signal handlers
or start methods for the whole process. The parent writes `round` or `round NUM_IMAGES` to stdin for
each round, and stops the process (SIGSTOP) between rounds.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

FOLDER = Path(__file__).parent / "contenders"
# Function from the number of an epoch to its batches of images and labels.
Pipeline = Callable[[int], Iterable[tuple[Any, Any]]]


@dataclass(frozen=True)
class Work:
    """Work that is the same for every contender. The batches are uint8.

    Attributes:
        corpus: Folder of class folders of JPEG files.
        scratch: Folder that keeps converted forms of the corpus, such as `.beton` files and shards.
        resolution: Side of the output in pixels.
        augment: random_resized_crop with a flip; or center_crop of 224 / 256 of the shorter side,
            without a flip.
        crop_scale: Smallest and largest fraction of the image's area in a random crop.
        batch_size: Images per batch.
        num_threads: Number of threads, and of cores.
        images_per_round: Smallest number of images in a round.
        device: Device that receives the batches.
        instructions: Instruction set of our C kernel, by its name in `harness doctor`. None means
            the fastest.
    """

    corpus: str
    scratch: str
    resolution: int = 224
    augment: Literal["random_resized_crop", "center_crop"] = "random_resized_crop"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    batch_size: int = 256
    num_threads: int = 2
    images_per_round: int = 6144
    device: str = "cpu"
    instructions: str | None = None

    def __post_init__(self) -> None:
        """Convert `crop_scale`, a list in JSON, to a tuple.

        Stock FFCV cannot compile a list: its thread dies, and the consumer waits forever.
        """
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))

    def files(self) -> list[tuple[str, int]]:
        """List every image with its label."""
        folders = sorted(path for path in Path(self.corpus).iterdir() if path.is_dir())
        return [
            (str(path), label)
            for label, folder in enumerate(folders)
            for path in sorted(folder.glob("*.jp*g"))
        ]


class AbsentError(Exception):
    """Raised if a contender cannot run here; the message gives the reason."""


def on_cpu_only(work: Work) -> None:
    """Raise AbsentError if the device is a GPU, for contenders that cannot copy batches to it."""
    if work.device != "cpu":
        raise AbsentError("CPU only: its batches would still have to be copied to the GPU")


def serve(name: str, work: Work, output: TextIO) -> None:
    """Open a contender, then run a round for each line of stdin.

    Args:
        name: File and variant of the contender, such as ffcv:jpeg.
        work: Work that all contenders get.
        output: Receives a line of JSON after opening and after each round.
    """

    def send(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=output, flush=True)

    file, _, variant = name.partition(":")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: work.num_threads])
    importing = time.perf_counter()
    try:
        contender = importlib.import_module(f"benchmarks.contenders.{file}")
        if (prepare := getattr(contender, "prepare", None)) is not None:
            prepare(variant, work)
        started = time.perf_counter()
        pipeline: Pipeline = contender.open_pipeline(variant, work)
    except (AbsentError, ImportError) as error:
        send({"absent": str(error)})
        return
    opened = None
    # Read the epoch to its end, because some loaders fail after an epoch that was left early.
    for images, labels in pipeline(0):
        if opened is None:
            opened = {
                "name": name,
                "what": contender.VARIANTS[variant],
                "import_s": started - importing,
                "first_batch_s": time.perf_counter() - started,
                "shape": list(images.shape),
                "dtype": str(images.dtype),
                "mean_pixel": float(_host(images).mean()),
                "num_labels": len(labels),
            }
    assert opened is not None
    send(opened)
    epoch = 1
    for line in sys.stdin:
        wanted = int((line.split()[1:] or [work.images_per_round])[0])
        started, cpu_started, num_images, first_batch_s = time.perf_counter(), _cpu_s(), 0, None
        while num_images < wanted:
            for images, _ in pipeline(epoch):
                num_images += len(images)
                if first_batch_s is None:
                    first_batch_s = time.perf_counter() - started
            epoch += 1
        if work.device != "cpu":
            import torch

            torch.cuda.synchronize()
        wall_s = time.perf_counter() - started
        send(
            {
                "num_images": num_images,
                "wall_s": wall_s,
                "img_per_s": num_images / wall_s,
                "first_batch_s": first_batch_s,
                "cpu_s": _cpu_s() - cpu_started,
                "memory_bytes": memory_bytes(),
            }
        )


def _host(images: Any) -> Any:
    return images.cpu().float() if hasattr(images, "cpu") else images


def memory_bytes() -> int:
    """Return the bytes of memory of this process and its workers, without mapped files.

    Pages that several processes share count once.
    """
    num_bytes = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == os.getpgid(0):
                lines = dict(
                    line.split(":")
                    for line in (folder / "smaps_rollup").read_text().splitlines()[1:]
                )
                num_bytes += 1024 * sum(
                    int(lines[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem")
                )
        except OSError:  # the process has ended or belongs to another user
            continue
    return num_bytes


def _cpu_s() -> float:
    """Return the CPU time of this process and of its finished children, in seconds."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (
            resource.getrusage(resource.RUSAGE_SELF),
            resource.getrusage(resource.RUSAGE_CHILDREN),
        )
    )


if __name__ == "__main__":
    # Import this module by its name, so that there is only one class AbsentError.
    from benchmarks import contender

    # A stopped process would outlive a killed parent and keep its memory; 1 is PR_SET_PDEATHSIG.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    # Libraries print to stdout: redirect them to stderr and keep the real stdout for messages.
    real_stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    contender.serve(sys.argv[1], contender.Work(**json.loads(sys.argv[2])), real_stdout)
