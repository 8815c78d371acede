"""Rounds of `harness bench write`: time each writer of `.beton` files on the corpus, and copies."""

import io
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from harness.cli.benches._corpus import repeat_source
from writers.beton.copy import copy_subset
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.subset.spec import Subset, everything

# Name -> description, and settings of the encoding. `+index` adds a restart index (table of offsets
# in each JPEG, for decoding only a crop), which FFCV's writer cannot write.
ENCODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "passthrough": ("passthrough: the source's JPEG bytes", {"format": "passthrough"}),
    "passthrough+index": (
        "the source's JPEGs, indexed",
        {"format": "passthrough", "restart_index": True},
    ),
    "jpeg": ("JPEG of quality 90", {"restart_index": False}),
    "jpeg400": ("JPEG of quality 90, 400 px", {"max_resolution": 400, "restart_index": False}),
    "jpeg400+index": (
        "JPEG of quality 90, 400 px, indexed",
        {"max_resolution": 400, "restart_index": True},
    ),
    "500_0.50_90": (
        "500 px, half JPEG, half raw",
        {
            "format": "mixed",
            "max_resolution": 500,
            "compress_probability": 0.5,
            "restart_index": False,
        },
    ),
    "400_0.10_90": (
        "400 px, a tenth JPEG",
        {
            "format": "mixed",
            "max_resolution": 400,
            "compress_probability": 0.1,
            "restart_index": False,
        },
    ),
    "raw400": ("raw pixels, 400 px", {"format": "raw", "max_resolution": 400}),
    "raw": ("raw pixels", {"format": "raw"}),
}


class WriteRounds:
    """Runs single rounds of each writer on an opened corpus.

    Attributes:
        num_images: Number of images in the corpus.
    """

    def __init__(self, corpus: Path, scratch: Path, num_threads: int, num_copies: int) -> None:
        self._scratch, self._num_threads, self._num_copies = scratch, num_threads, num_copies
        self._corpus = corpus
        self._source = open_dataset("folder", corpus, SplitSettings(val=0))
        examples = self._source.splits["train"]
        self.num_images = len(examples)
        self._source_bytes = sum(len(self._source.read(example)) for example in examples)
        self._large = scratch / "large.beton"

    def describe(self) -> dict[str, Any]:
        """Return what the rounds work on, for the JSON record of the benchmark."""
        return {
            "num_images": self.num_images,
            "mean_jpeg_bytes": self._source_bytes / self.num_images,
            "num_threads": self._num_threads,
            "copied_bytes": self._large.stat().st_size,
            "cache": "warm",
        }

    def warm_up(self) -> None:
        """Read all images once, compile the kernels, and write the beton to copy from."""
        self.round("ours:jpeg400")
        large = repeat_source(self._source, self._num_copies)
        write_split(
            large,
            "train",
            everything(large.classes),
            _encoding("passthrough"),
            self._large,
            num_threads=self._num_threads,
        )

    def round(self, name: str) -> dict[str, Any]:
        """Run one round of a contender (`ours:jpeg`, `copy:0.9`), and remove the files it wrote."""
        kind, _, argument = name.partition(":")
        out = self._scratch / "round.beton"
        run = {
            "ours": self._write,
            "ffcv": self._write_with_ffcv,
            "copy": self._copy,
            "cp": self._cp,
        }[kind]
        try:
            return run(argument, out)
        finally:
            for path in (out, out.with_name(out.name + ".json")):
                path.unlink(missing_ok=True)

    def _write(self, encoding: str, out: Path) -> dict[str, Any]:
        with _timed() as times:
            manifest = write_split(
                self._source,
                "train",
                everything(self._source.classes),
                _encoding(encoding),
                out,
                num_threads=self._num_threads,
            )
        image_bytes = int(open_beton(out).sizes.sum())
        return {
            **times,
            "img_per_s": self.num_images / times["wall_s"],
            "mb_per_s": image_bytes / times["wall_s"] / 1e6,
            "bytes": manifest.bytes,
            "image_bytes": image_bytes,
            "source_bytes": self._source_bytes,
        }

    def _write_with_ffcv(self, encoding: str, out: Path) -> dict[str, Any]:
        """Write with ImageFolder and processes, as ffcv-imagenet's write_dataset.py does."""
        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter
        from torchvision.datasets import ImageFolder

        images = ImageFolder(str(self._corpus))
        image = RGBImageField(
            write_mode="jpg", max_resolution=400 if encoding == "jpeg400" else None, jpeg_quality=90
        )
        # DatasetWriter always shows a progress bar.
        with redirect_stderr(io.StringIO()), _timed() as times:
            started = time.perf_counter()
            writer = DatasetWriter(
                str(out), {"image": image, "label": IntField()}, num_workers=self._num_threads
            )
            writer.from_indexed_dataset(images)
            written_s = time.perf_counter() - started
            subprocess.run(["sync", "--data", out], check=True)
        return {
            **times,
            "img_per_s": len(images) / times["wall_s"],
            "mb_per_s": out.stat().st_size / times["wall_s"] / 1e6,
            "bytes": out.stat().st_size,
            "img_per_s_unsynced": len(images) / written_s,
        }

    def _copy(self, fraction: str, out: Path) -> dict[str, Any]:
        classes = open_beton(self._large).manifest.classes
        subset = Subset("fraction", tuple(classes[: round(float(fraction) * len(classes))]))
        with _timed() as times:
            manifest = copy_subset(self._large, subset, out)
        return {
            **times,
            "img_per_s": manifest.num_samples / times["wall_s"],
            "mb_per_s": manifest.bytes / times["wall_s"] / 1e6,
            "bytes": manifest.bytes,
        }

    def _cp(self, mode: str, out: Path) -> dict[str, Any]:
        with _timed() as times:
            subprocess.run(["cp", "--reflink=never", self._large, out], check=True)
            if mode == "durable":
                subprocess.run(["sync", "--data", out], check=True)
        return {
            **times,
            "mb_per_s": out.stat().st_size / times["wall_s"] / 1e6,
            "bytes": out.stat().st_size,
        }


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Yield a dict that gets the block's wall and CPU seconds, ended child processes included."""
    times: dict[str, float] = {}
    started, cpu_started = time.perf_counter(), sum(os.times()[:4])
    yield times
    times |= {"wall_s": time.perf_counter() - started, "cpu_s": sum(os.times()[:4]) - cpu_started}


def _encoding(name: str) -> Encoding:
    return Encoding(**ENCODINGS[name][1])
