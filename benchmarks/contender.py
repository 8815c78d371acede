"""A loader under test in `harness bench load`, in a process of its own: opened once, then one round at a time on request.

    python -m benchmarks.contender ffcv:jpeg '{"corpus": ...}'

A contender is a file of `benchmarks/contenders/`: `VARIANTS`, what each is in words, and `open_pipeline(variant, work)`,
which returns a function from the number of an epoch to its batches. A process each, because several of these libraries set
thread counts, signal handlers or multiprocessing start methods for the whole of theirs. The parent writes `round` or `round NUM_IMAGES`
to stdin for each round and stops the process (SIGSTOP) in between.
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
from typing import Any, TextIO

FOLDER = Path(__file__).parent / "contenders"
Pipeline = Callable[[int], Iterable[tuple[Any, Any]]]  # epoch -> (images, labels) batches


@dataclass(frozen=True)
class Work:
    """What every contender does: the same images, the same augmentation, uint8 out, in the same cores."""

    corpus: str  # a folder of class folders of JPEG files
    scratch: str  # betons, shards and the like, made here once
    resolution: int = 224
    augment: str = "random_resized_crop"  # with a flip; or center_crop, of 224 / 256 of the shorter side, without
    crop_scale: tuple[float, float] = (0.08, 1.0)
    batch_size: int = 256
    num_threads: int = 2
    images_per_round: int = 6144
    device: str = "cpu"

    def __post_init__(self) -> None:
        # JSON makes a list of it, which stock FFCV does not compile: its thread dies, and the consumer waits for ever.
        object.__setattr__(self, "crop_scale", tuple(self.crop_scale))

    def files(self) -> list[tuple[str, int]]:
        """Every image and its label."""
        folders = sorted(path for path in Path(self.corpus).iterdir() if path.is_dir())
        return [
            (str(path), label)
            for label, folder in enumerate(folders)
            for path in sorted(folder.glob("*.jp*g"))
        ]


class Absent(Exception):
    """The contender cannot run here; the message says why."""


def on_cpu_only(work: Work) -> None:
    """For a contender that leaves its batches in the CPU's memory. Raises Absent where they are wanted on a GPU."""
    if work.device != "cpu":
        raise Absent("CPU only: what it gives would still have to be copied to the GPU")


def serve(name: str, work: Work, answers: TextIO) -> None:
    """Open the contender `file:variant`, say so, and run a round for each line of stdin. Answers are lines of JSON."""

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    file, _, variant = name.partition(":")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: work.num_threads])
    importing = time.perf_counter()
    try:
        contender = importlib.import_module(f"benchmarks.contenders.{file}")
        started = time.perf_counter()
        pipeline: Pipeline = contender.open_pipeline(variant, work)
    except (Absent, ImportError) as error:
        answer({"absent": str(error)})
        return
    opened = None
    for images, labels in pipeline(
        0
    ):  # to its end: some of these do not survive an epoch that is left early
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
    answer(opened)
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
        answer(
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
    """What this process and its workers hold of memory, shared pages once and the pages of files not at all."""
    held = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == os.getpgid(0):
                lines = dict(
                    line.split(":")
                    for line in (folder / "smaps_rollup").read_text().splitlines()[1:]
                )
                held += 1024 * sum(
                    int(lines[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem")
                )
        except OSError:  # it has ended, or is somebody else's
            continue
    return held


def _cpu_s() -> float:
    """CPU time of this process and of those of its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (
            resource.getrusage(resource.RUSAGE_SELF),
            resource.getrusage(resource.RUSAGE_CHILDREN),
        )
    )


if __name__ == "__main__":
    from benchmarks import contender  # by its own name, so that there is one class Absent

    # Stopped, it would outlive a parent that was killed, and keep its memory: 1 is PR_SET_PDEATHSIG.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    # Libraries print to stdout; the answers keep the real one to themselves.
    real_stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    contender.serve(sys.argv[1], contender.Work(**json.loads(sys.argv[2])), real_stdout)
