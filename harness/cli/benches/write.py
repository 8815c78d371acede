"""Writer throughput: ours against FFCV's DatasetWriter and `cp`, on the same images and cores."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._rounds import time_limit_option
from harness.cli.number_types import IntType
from harness.cli.options import data_option, json_option
from harness.cli.path_types import PathType

if TYPE_CHECKING:
    from harness.cli.benches._record import Goal
    from harness.cli.benches._rounds import Measured

FFCV_CONTENDERS = ("ffcv:jpeg", "ffcv:jpeg400")
# Encoding -> when to use it, for the table of encodings.
WHEN = {
    "passthrough": "the first choice for storage: nothing is lost, and writing is fastest",
    "passthrough+index": "the first choice for training: same pixels; only the crop is decoded",
    "jpeg": "sources that are not JPEG, or of very high quality",
    "jpeg400": "the least disk and memory, for readers without support for the index",
    "jpeg400+index": "the least disk and memory; training at 224 px and less",
    "500_0.50_90": "ffcv-imagenet's default: to compare with published FFCV numbers",
    "400_0.10_90": "few cores for a fast GPU, if the file fits into memory",
    "raw400": "the fewest cores: no decoding, but memory or a fast disk for all of it",
    "raw": "small images (up to 96 px), which are always stored raw; checks of exact pixels",
}


@click.command(short_help="Compare our writer with FFCV's, and copies of betons with cp.")
@click.option(
    "--corpus",
    type=PathType(exists=True, file=False),
    metavar="DIR",
    help="A folder of JPEG files. Default: photo tiles, made by benchmarks/photo_tiles.py.",
)
@click.option(
    "--against",
    type=click.Choice(["ffcv", "none"]),
    default="ffcv",
    show_default=True,
    help="Other writers to measure.",
)
@click.option(
    "--rounds",
    "num_rounds",
    type=IntType(min=1),
    default=5,
    show_default=True,
    help="Number of rounds.",
)
@click.option(
    "--threads",
    type=IntType(min=1),
    help="Number of threads, or of FFCV's processes. Default: number of cores.",
)
@click.option(
    "--copies",
    type=IntType(min=1),
    default=6,
    show_default=True,
    help="Repetitions of the corpus in the beton to copy from; small files do not measure a disk.",
)
@click.option(
    "--scratch",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Folder on the disk to measure. Default: bench_write in the data folder.",
)
@json_option
@time_limit_option
@data_option
def command(
    corpus: Path | None,
    against: str,
    num_rounds: int,
    threads: int | None,
    copies: int,
    scratch: Path | None,
    json_file: Path | None,
    time_limit_s: float | None,
    data_dir: Path,
) -> None:
    """Write the corpus as a beton in every encoding, and copy classes from a larger beton.

    Prints Markdown. Our times include computing digests and waiting for the disk. FFCV's writer and
    cp do neither, so each of them is measured twice: unchanged, and with the same wait.

    Example: harness bench write --corpus photos --json write.json
    """
    from harness.cli import console
    from harness.cli.benches._corpus import describe_corpus, link_corpus, make_photo_tiles
    from harness.cli.benches._record import compute_ratios, make_record, markdown, save
    from harness.cli.benches._rounds import Measured, deadline_in, take_turns
    from harness.cli.benches._write_rounds import ENCODINGS, WriteRounds
    from harness.system import environment
    from writers.jpeg import native

    deadline = deadline_in(time_limit_s)
    scratch = (scratch or data_dir / "bench_write").expanduser().resolve()
    folder = corpus.resolve() if corpus else make_photo_tiles(scratch)
    work = WriteRounds(
        link_corpus(folder, scratch), scratch, threads or environment.num_cores(), copies
    )
    absent = (
        {}
        if native.library()
        else {
            name: "the package's C part was not built"
            for name in ENCODINGS
            if name.endswith("+index")
        }
    )
    measured = {
        f"ours:{name}": Measured(f"ours, {description}")
        for name, (description, _) in ENCODINGS.items()
        if name not in absent
    }
    if against == "ffcv":
        measured |= {
            name: Measured(
                "FFCV's DatasetWriter, and sync of its file, "
                + ENCODINGS[name.partition(":")[2]][0]
            )
            for name in FFCV_CONTENDERS
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
        """Build the record of the rounds so far, and save it if --json is given."""
        rows = measured | {
            f"{name}:unsynced": _without_sync(measured[name])
            for name in FFCV_CONTENDERS
            if name in measured
        }
        content = make_record(
            "write",
            work.describe() | {"corpus": describe_corpus(folder)},
            rows,
            compute_ratios(rows, _goals()),
            device="cpu",
            absent=absent,
            rounds_planned=num_rounds,
            encodings=_encodings(rows, work.num_images),
        )
        if json_file is not None:
            save(json_file, content)
        return content

    def after_round(rates: dict[str, list[float]]) -> None:
        for name, rates_of_name in rates.items():
            measured[name].rates = rates_of_name
        record()

    work.warm_up()
    with console.progress("rounds", "rounds") as report:
        take_turns(
            {name: round_of(name) for name in measured},
            num_rounds,
            report,
            on_round=after_round,
            deadline=deadline,
        )
    content = record()
    click.echo(f"{markdown(content)}\n{encodings_table(content)}")


def encodings_table(record: dict[str, Any]) -> str:
    """Format the measured size and speed of every encoding as Markdown."""
    lines = [
        "| encoding | KB/image | of the source | images/s written | when |",
        "|---|---|---|---|---|",
    ]
    for name, row in record["encodings"].items():
        lines.append(
            f"| `{name}` | {row['bytes_per_image'] / 1e3:,.0f} | {row['of_source']:.2f}x | "
            f"{row['img_per_s']:,.0f} | {WHEN[name]} |"
        )
    return "\n".join(lines) + "\n"


def _goals() -> "list[Goal]":
    from harness.cli.benches._record import Goal

    synced, unsynced = "both waiting for the disk", "which does not wait for the disk"
    return [
        Goal(
            "ours:passthrough",
            ("ffcv:jpeg",),
            10.0,
            title=f"passthrough / FFCV's writer, original size, {synced}",
        ),
        Goal(
            "ours:passthrough",
            ("ffcv:jpeg:unsynced",),
            10.0,
            title=f"passthrough / FFCV's writer, original size, {unsynced}",
        ),
        Goal(
            "ours:jpeg400",
            ("ffcv:jpeg400",),
            1.5,
            title=f"re-encoding to 400 px / FFCV's writer, {synced}",
        ),
        Goal(
            "ours:jpeg400",
            ("ffcv:jpeg400:unsynced",),
            1.5,
            title=f"re-encoding to 400 px / FFCV's writer, {unsynced}",
        ),
        Goal(
            "ours:jpeg400+index",
            ("ffcv:jpeg400",),
            title=f"re-encoding to 400 px with a restart index / FFCV's writer, {synced}",
        ),
        Goal(
            "ours:jpeg",
            ("ffcv:jpeg",),
            title=f"re-encoding at the original size / FFCV's writer, {synced}",
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
    ]


def _without_sync(synced: "Measured") -> "Measured":
    """Return the same rounds with times that end when the writer ends, before the sync."""
    from harness.cli.benches._rounds import Measured

    return Measured(
        synced.what.replace(", and sync of its file", ""),
        rates=[detail["img_per_s_unsynced"] for detail in synced.details],
        details=synced.details,
    )


def _encodings(measured: "dict[str, Measured]", num_images: int) -> dict[str, dict[str, float]]:
    from harness.cli.benches._write_rounds import ENCODINGS

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
