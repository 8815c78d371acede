"""Images a second into betons: ours against FFCV's own DatasetWriter and against `cp`, on the same images and cores."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._common import time_limit_option

if TYPE_CHECKING:
    from harness.cli.benches._common import Measured
    from writers.beton.encoding import Encoding

# Name -> what it is in words, and the settings; `+index`: with a restart index, which FFCV's writer has no counterpart of.
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
CONTENDERS = ("ffcv:jpeg", "ffcv:jpeg400")
SAME, NO = "both waiting for the disk", "which does not wait for the disk"


@click.command(short_help="Writers: ours against FFCV's own, and copies against cp.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Any folder of JPEG files. Default: photo tiles, made on first use by benchmarks/photo_tiles.py.",
)
@click.option("--against", type=click.Choice(["ffcv", "nobody"]), default="ffcv", show_default=True)
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads, or FFCV's processes. Default: the machine's cores.",
)
@click.option(
    "--copies",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="How often the corpus lies in the beton that is copied: small files say little about a disk.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="On the disk to be measured. Default: bench_write in the data folder.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Every round; saved after each.",
)
@time_limit_option
@click.option(
    "--data-dir", envvar="HARNESS_DATA", default="./data", metavar="DIR", show_envvar=True
)
def command(
    corpus: Path | None,
    against: str,
    num_rounds: int,
    threads: int | None,
    copies: int,
    scratch: Path | None,
    json_file: Path | None,
    time_limit_s: float | None,
    data_dir: str,
) -> None:
    """Write the corpus as a beton in every encoding, and copy classes out of a larger one. Prints Markdown.

    Our times include the digests, and waiting until everything is on the disk; FFCV's writer and cp do neither. Both are
    therefore measured twice: by themselves, and with the same wait.
    """

    from harness.cli import console
    from harness.cli.benches import _common as bench
    from harness.cli.benches._common import Goal, Measured
    from harness.cli.benches._corpus import described, linked, photo_tiles
    from harness.system import environment
    from writers.jpeg import native as kernel

    deadline = bench.deadline_in(time_limit_s)
    scratch = (scratch or Path(data_dir) / "bench_write").expanduser().resolve()
    folder = corpus.resolve() if corpus else photo_tiles(scratch)
    photos = linked(folder, scratch)
    num_threads = threads or environment.num_cores()
    work = Work(photos, scratch, num_threads, copies)
    absent = (
        {}
        if kernel.library()
        else {
            name: "the package's C part was not built"
            for name in ENCODINGS
            if name.endswith("+index")
        }
    )
    measured = {
        f"ours:{name}": Measured(f"ours, {what}")
        for name, (what, _) in ENCODINGS.items()
        if name not in absent
    }
    if against == "ffcv":
        measured |= {
            name: Measured(
                f"FFCV's DatasetWriter, and sync of its file, {ENCODINGS[name.partition(':')[2]][0]}"
            )
            for name in CONTENDERS
        }
    measured |= {
        "copy:0.9": Measured("our copy of 9 of 10 classes", "MB"),
        "copy:0.5": Measured("our copy of 5 of 10", "MB"),
        "cp": Measured("cp", "MB"),
        "cp:durable": Measured("cp, and sync of that file", "MB"),
    }

    def round_of(name: str) -> Callable[[], float]:
        def run() -> float:
            detail = work.round(name)
            measured[name].details.append(detail)
            return float(detail["mb_per_s" if measured[name].unit == "MB" else "img_per_s"])

        return run

    def record() -> dict[str, Any]:
        """Of the rounds so far; saved where a file is asked for."""
        found = measured | {
            f"{name}:unsynced": _without_the_wait(measured[name])
            for name in CONTENDERS
            if name in measured
        }
        content = bench.record(
            "write",
            work.about() | {"corpus": described(folder)},
            found,
            bench.ratios(
                found,
                [
                    Goal(
                        "ours:passthrough",
                        ("ffcv:jpeg",),
                        10.0,
                        title=f"passthrough / FFCV's writer, original size, {SAME}",
                    ),
                    Goal(
                        "ours:passthrough",
                        ("ffcv:jpeg:unsynced",),
                        10.0,
                        title=f"passthrough / FFCV's writer, original size, {NO}",
                    ),
                    Goal(
                        "ours:jpeg400",
                        ("ffcv:jpeg400",),
                        1.5,
                        title=f"re-encoding to 400 px / FFCV's writer, {SAME}",
                    ),
                    Goal(
                        "ours:jpeg400",
                        ("ffcv:jpeg400:unsynced",),
                        1.5,
                        title=f"re-encoding to 400 px / FFCV's writer, {NO}",
                    ),
                    Goal(
                        "ours:jpeg400+index",
                        ("ffcv:jpeg400",),
                        title=f"re-encoding to 400 px with a restart index / FFCV's writer, {SAME}",
                    ),
                    Goal(
                        "ours:jpeg",
                        ("ffcv:jpeg",),
                        title=f"re-encoding at the original size / FFCV's writer, {SAME}",
                    ),
                    Goal(
                        "copy:0.9",
                        ("cp:durable",),
                        0.7,
                        title="copy of 9 of 10 classes / cp with the same wait for the disk",
                    ),
                    Goal(
                        "copy:0.5",
                        ("cp:durable",),
                        0.7,
                        title="copy of 5 of 10 classes / cp with the same wait for the disk",
                    ),
                    Goal("copy:0.9", ("cp",), title="copy of 9 of 10 classes / cp without waiting"),
                ],
            ),
            device="cpu",
            absent=absent,
            rounds_planned=num_rounds,
            encodings=_encodings(found, work.num_images),
        )
        if json_file is not None:
            bench.save(json_file, content)
        return content

    def after_round(rates: dict[str, list[float]]) -> None:
        for name, found in rates.items():
            measured[name].rates = found
        record()

    work.warm_up()
    with console.progress("rounds", "rounds") as report:
        bench.take_turns(
            {name: round_of(name) for name in measured},
            num_rounds,
            report,
            on_round=after_round,
            deadline=deadline,
        )
    content = record()
    click.echo(f"{bench.markdown(content)}\n{which_encoding(content)}")


def which_encoding(content: dict[str, Any]) -> str:
    """Markdown: sizes and speeds of every encoding, as they were measured."""
    lines = [
        "| encoding | KB/image | of the source | images/s written | when |",
        "|---|---|---|---|---|",
    ]
    for name, one in content["encodings"].items():
        lines.append(
            f"| `{name}` | {one['bytes_per_image'] / 1e3:,.0f} | {one['of_source']:.2f}x | {one['img_per_s']:,.0f} | "
            f"{WHEN[name]} |"
        )
    return "\n".join(lines) + "\n"


WHEN = {
    "passthrough": "the first choice for a file: nothing is lost, and nothing is written faster",
    "passthrough+index": "the first choice for training: the same pixels, and loaders decode only what they show",
    "jpeg": "sources that are not JPEG, or of very high quality",
    "jpeg400": "the least disk and memory, for readers that know no index",
    "jpeg400+index": "the least disk and memory; training at 224 px and less",
    "500_0.50_90": "ffcv-imagenet's default: to compare with published FFCV numbers",
    "400_0.10_90": "few cores for a fast GPU, and the file fits into memory",
    "raw400": "the fewest cores: no decoding at all; memory or a fast disk for all of it",
    "raw": "small images (up to 96 px), which are stored so in any case; checks of exact pixels",
}


def _without_the_wait(synced: "Measured") -> "Measured":
    """The same rounds up to where the writer said that it was done."""
    from harness.cli.benches._common import Measured

    return Measured(
        synced.what.replace(", and sync of its file", ""),
        rates=[detail["img_per_s_unsynced"] for detail in synced.details],
        details=synced.details,
    )


def _encodings(measured: "dict[str, Measured]", num_images: int) -> dict[str, dict[str, float]]:
    source = measured["ours:passthrough"].details[0]["source_bytes"]
    return {
        name: {
            "bytes_per_image": (detail := measured[f"ours:{name}"].details[0])["image_bytes"]
            / num_images,
            "of_source": detail["image_bytes"] / source,
            "img_per_s": measured[f"ours:{name}"].median,
        }
        for name in ENCODINGS
        if f"ours:{name}" in measured
    }


class Work:
    """The corpus, opened; what a round of each contender does with it."""

    def __init__(self, corpus: Path, scratch: Path, num_threads: int, copies: int) -> None:
        from writers.dataset import SplitSettings, open_dataset

        self._scratch, self._num_threads, self._copies = scratch, num_threads, copies
        self._corpus = corpus
        self._source = open_dataset("folder", corpus, SplitSettings(val=0))
        examples = self._source.splits["train"]
        self.num_images = len(examples)
        self._source_bytes = sum(len(self._source.read(example)) for example in examples)
        self._large = scratch / "large.beton"

    def about(self) -> dict[str, Any]:
        return {
            "num_images": self.num_images,
            "mean_jpeg_bytes": self._source_bytes / self.num_images,
            "num_threads": self._num_threads,
            "copied_bytes": self._large.stat().st_size,
            "cache": "warm",
        }

    def warm_up(self) -> None:
        """Read everything once, compile what is compiled, and write the beton that is copied."""
        from harness.cli.benches._corpus import many_times
        from writers.beton.write import write_split
        from writers.subset.spec import everything

        self.round("ours:jpeg400")
        large = many_times(self._source, self._copies)
        write_split(
            large,
            "train",
            everything(large.classes),
            _encoding("passthrough"),
            self._large,
            num_threads=self._num_threads,
        )

    def round(self, name: str) -> dict[str, Any]:
        """One round; what it wrote is removed, outside of the time."""
        kind, _, what = name.partition(":")
        out = self._scratch / "round.beton"
        run = {
            "ours": self._write,
            "ffcv": self._write_with_ffcv,
            "copy": self._copy,
            "cp": self._cp,
        }[kind]
        try:
            return run(what, out)
        finally:
            for path in (out, out.with_name(out.name + ".json")):
                path.unlink(missing_ok=True)

    def _write(self, what: str, out: Path) -> dict[str, Any]:
        from writers.beton.store import open_beton
        from writers.beton.write import write_split
        from writers.subset.spec import everything

        with _timed() as took:
            manifest = write_split(
                self._source,
                "train",
                everything(self._source.classes),
                _encoding(what),
                out,
                num_threads=self._num_threads,
            )
        image_bytes = int(open_beton(out).sizes.sum())
        return {
            **took,
            "img_per_s": self.num_images / took["wall_s"],
            "mb_per_s": image_bytes / took["wall_s"] / 1e6,
            "bytes": manifest.bytes,
            "image_bytes": image_bytes,
            "source_bytes": self._source_bytes,
        }

    def _write_with_ffcv(self, what: str, out: Path) -> dict[str, Any]:
        """As ffcv-imagenet's write_dataset.py does it: torchvision's ImageFolder, and a process for each core."""
        import io
        import subprocess
        import time
        from contextlib import redirect_stderr

        from ffcv.fields import IntField, RGBImageField
        from ffcv.writer import DatasetWriter
        from torchvision.datasets import ImageFolder

        images = ImageFolder(str(self._corpus))
        image = RGBImageField(
            write_mode="jpg", max_resolution=400 if what == "jpeg400" else None, jpeg_quality=90
        )
        with redirect_stderr(io.StringIO()), _timed() as took:  # it shows a bar, whatever one wants
            started = time.perf_counter()
            writer = DatasetWriter(
                str(out), {"image": image, "label": IntField()}, num_workers=self._num_threads
            )
            writer.from_indexed_dataset(images)
            written_s = time.perf_counter() - started
            subprocess.run(["sync", "--data", out], check=True)
        return {
            **took,
            "img_per_s": len(images) / took["wall_s"],
            "mb_per_s": out.stat().st_size / took["wall_s"] / 1e6,
            "bytes": out.stat().st_size,
            "img_per_s_unsynced": len(images) / written_s,
        }

    def _copy(self, share: str, out: Path) -> dict[str, Any]:
        from writers.beton.copy import copy_subset
        from writers.beton.store import open_beton
        from writers.subset.spec import Subset

        classes = open_beton(self._large).manifest.classes
        subset = Subset("share", tuple(classes[: round(float(share) * len(classes))]))
        with _timed() as took:
            manifest = copy_subset(self._large, subset, out)
        return {
            **took,
            "img_per_s": manifest.num_samples / took["wall_s"],
            "mb_per_s": manifest.bytes / took["wall_s"] / 1e6,
            "bytes": manifest.bytes,
        }

    def _cp(self, what: str, out: Path) -> dict[str, Any]:
        import subprocess

        with _timed() as took:
            subprocess.run(["cp", "--reflink=never", self._large, out], check=True)
            if what == "durable":
                subprocess.run(["sync", "--data", out], check=True)
        return {
            **took,
            "mb_per_s": out.stat().st_size / took["wall_s"] / 1e6,
            "bytes": out.stat().st_size,
        }


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Fills in seconds on the clock, and of CPU: those of this process and of its children that have ended."""
    import os
    import time

    took: dict[str, float] = {}
    started, cpu_started = time.perf_counter(), sum(os.times()[:4])
    yield took
    took |= {"wall_s": time.perf_counter() - started, "cpu_s": sum(os.times()[:4]) - cpu_started}


def _encoding(name: str) -> "Encoding":
    from writers.beton.encoding import Encoding

    return Encoding(**ENCODINGS[name][1])
