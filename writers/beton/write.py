"""Write one split of a dataset as a `.beton` file, with a manifest.

The same images, settings and library versions give the same bytes.

Threads read and encode a few images at a time (Pillow and libjpeg-turbo release the GIL). The
calling thread appends them in order, so that the bytes do not depend on the number of threads.

Memory: up to 48 encoded images and one decoded image per thread, and 96 bytes per sample.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from writers.beton.atomic_file import NewBeton, new_beton
from writers.beton.boxes import BoxError, blob_of
from writers.beton.encode import Blob, UnreadableError, encode
from writers.beton.encoding import Encoding
from writers.beton.layout import Layout, digest_of, write_at
from writers.beton.manifest_fields import file_fields, manifest_of
from writers.beton.selection import SplitSelection, select_images
from writers.beton.store import Manifest, Progress
from writers.beton.unreadable import unreadable, unreadable_list
from writers.beton.writeback import DiskWriter
from writers.errors import UserError
from writers.jpeg.orientation import UPRIGHT, orientation
from writers.map_ahead import map_ahead
from writers.omissions import OmissionLog
from writers.random_streams import random_bits, uniform
from writers.source import Example, Source
from writers.subset.spec import Subset
from writers.text_names import counted

IMAGES_AT_ONCE = 16  # images per task of a thread
AHEAD_PER_THREAD = 3  # tasks per thread that may be encoded ahead of the writing
SCALED = "images with values outside the usual ranges, scaled each by its own range"
TURNED = "images with an EXIF orientation, which is not applied"


def write_split(
    source: Source,
    split: str,
    subset: Subset,
    encoding: Encoding,
    out_file: Path,
    *,
    seed: int = 0,
    num_threads: int | None = None,
    progress: Progress | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    check: bool = True,
    warn: Callable[[str], None] | None = None,
) -> Manifest:
    """Write the images of a split that belong to `subset` to `out_file`, with a manifest.

    Args:
        source: images of the dataset.
        split: train, val or test.
        subset: classes, labels and images to write.
        encoding: how images are stored.
        out_file: the beton; the manifest is written next to it.
        seed: seed of the order in the file, and of the draw of each image between JPEG and raw in
            the format `mixed`.
        num_threads: None uses all cores.
        progress: called with the number of samples done and in total.
        on_error: "skip" skips unreadable images and lists them in the manifest.
        check: if JPEGs are stored byte for byte, read all their coded data. False checks only their
            markers.
        warn: called with a line for each of these, if there are any: classes without images in this
            split; images whose values were scaled by their own range; images with an EXIF
            orientation, which is not applied.

    Raises:
        UserError: images are unreadable and `on_error` is "fail", or no image is readable; a
            training class has no images; the folder is not writable; another process is writing
            `out_file`; or the disk is full. No new file remains, except a list of the unreadable
            images if there are many.
    """
    out_file = Path(out_file)
    selection = select_images(source, split, subset, seed)
    with new_beton(out_file) as new:
        if unreadable_list(out_file).exists():  # left by an earlier attempt
            unreadable_list(out_file).unlink()
        with DiskWriter(new.handle) as disk:
            layout, skipped, remarks = _write_samples(
                new,
                disk,
                selection,
                encoding,
                num_threads=num_threads or _num_cores(),
                progress=progress,
                on_error=on_error,
                check=check,
            )
            layout.write_tables(new.handle)
            disk.finish()
        manifest = manifest_of(selection, encoding, skipped, file_fields(layout, new))
        new.publish(manifest)
    if warn is not None:
        if absent := selection.absent_classes():
            warn(f"{split} has no image of {absent}")
        for remark in remarks.omissions():
            warn(f"{split}: {remark}")
    return manifest


def _write_samples(
    new: NewBeton,
    disk: DiskWriter,
    selection: SplitSelection,
    encoding: Encoding,
    *,
    num_threads: int,
    progress: Progress | None,
    on_error: str,
    check: bool,
) -> tuple[Layout, list[dict[str, str]], OmissionLog]:
    """Write the encoded images; return the layout, the skipped images, and remarks for `warn`.

    Raises UserError if images are unreadable and are not skipped, or if all are unreadable.
    """
    source, examples = selection.source, selection.examples
    num_labels = len(source.classes) if source.multi_label else None
    layout = Layout(len(examples), num_labels, has_boxes=source.has_boxes)
    skipped: list[dict[str, str]] = []
    offenders: list[str] = []
    remarks = OmissionLog()
    for begin, blobs in _encoded(selection, encoding, num_threads, check=check):
        pieces: list[tuple[int, bytes]] = []
        for number, blob in enumerate(blobs, start=begin):
            if progress is not None:
                progress(number, len(examples))
            example = examples[number]
            if isinstance(blob, UnreadableError):
                skipped.append(selection.skipped(example, str(blob)))
                if example.key not in source.damaged:
                    offenders.append(f"{source.where(example)}: {blob}")
                continue
            if blob.is_scaled:
                remarks.add(SCALED, example.name)
            if blob.is_turned:
                remarks.add(TURNED, example.name)
            pieces += _place(layout, blob, example, int(selection.ids[number]))
        # After an unreadable image the file is useless: read the other images only to list all
        # that are unreadable.
        if on_error == "skip" or not offenders:
            _write_pieces(new.handle, pieces)
            disk.advance(layout.end)
    if offenders and on_error == "fail":
        raise unreadable(offenders, new.out_file)
    if not layout.num_samples:
        raise UserError(
            f"None of the {counted(len(examples), 'image')} of {source.name} can be read.",
            skipped[0]["reason"],
        )
    if progress is not None:
        progress(len(examples), len(examples))
    return layout, skipped, remarks


def _place(
    layout: Layout, blob: "_Ready", example: Example, sample_id: int
) -> Iterable[tuple[int, bytes]]:
    """Add a sample to the layout; return the offsets and bytes of its blobs."""
    offsets = [layout.place(len(data)) for data in blob.stored]
    layout.add(
        blob.mode,
        blob.width,
        blob.height,
        offsets[0],
        example.label if example.labels is None else offsets[1],
        sample_id,
        blob.digest,
        (offsets[-1], len(blob.stored[-1])) if layout.has_boxes else None,
    )
    return zip(offsets, blob.stored, strict=True)


def _write_pieces(handle: int, pieces: Sequence[tuple[int, bytes]]) -> None:
    """Write pieces at their offsets. Adjacent pieces are written in one call."""
    first = 0
    for index, (offset, data) in enumerate(pieces, start=1):
        if index == len(pieces) or pieces[index][0] != offset + len(data):
            _write_all(handle, [piece for _, piece in pieces[first:index]], pieces[first][0])
            first = index


def _write_all(handle: int, pieces: list[bytes], offset: int) -> None:
    num_written = os.pwritev(handle, pieces, offset)
    # the system may write less, for example on an almost full disk
    if num_written < sum(map(len, pieces)):
        write_at(handle, b"".join(pieces)[num_written:], offset + num_written)


def _encoded(
    selection: SplitSelection, encoding: Encoding, num_threads: int, *, check: bool
) -> Iterator[tuple[int, list["_Ready | UnreadableError"]]]:
    """Return groups of encoded images in order, each with the index of its first image.

    Threads encode ahead.
    """
    source, examples = selection.source, selection.examples
    chances = uniform(random_bits(selection.seed, "encode", selection.ids))

    def work(example: Example, chance: float) -> _Ready | UnreadableError:
        if reason := source.damaged.get(example.key):
            return UnreadableError(reason)
        try:
            lenient = example.key in source.lenient
            data = source.read(example)
            blob = encode(data, encoding, chance, check=check, lenient=lenient)
            return _ready(blob, example, data, encoding)
        except UnreadableError as error:
            return error
        except BoxError as error:
            return UnreadableError(str(error))
        except OSError as error:
            return UnreadableError(f"it cannot be read: {error.strerror or error}")
        except Exception as error:  # a bug, or memory is exhausted
            error.add_note(f"While {source.where(example)} was read and encoded.")
            raise

    def work_through(begin: int) -> tuple[int, list[_Ready | UnreadableError]]:
        run = slice(begin, begin + IMAGES_AT_ONCE)
        return begin, list(map(work, examples[run], chances[run].tolist()))

    return map_ahead(
        work_through,
        range(0, len(examples), IMAGES_AT_ONCE),
        num_threads=num_threads,
        max_pending=num_threads * AHEAD_PER_THREAD - 1,
        name="harness-encode",
    )


@dataclass(frozen=True, slots=True)
class _Ready:
    """A sample with an encoded image, ready to be written."""

    mode: int
    width: int
    height: int
    stored: tuple[bytes, ...]  # blobs: the image, its labels if it has several, its boxes if any
    digest: bytes  # `digest_of` of `stored`
    is_scaled: bool  # pixel values were scaled by the image's own range
    is_turned: bool  # the image file has an EXIF orientation


def _ready(blob: Blob, example: Example, data: bytes, encoding: Encoding) -> _Ready:
    """Combine an encoded image with its labels and boxes. Raises BoxError."""
    stored = [blob.data]
    if example.labels is not None:
        stored.append(np.array(example.labels, np.int8).tobytes())
    if example.boxes is not None:
        size, is_resized = (blob.width, blob.height), encoding.max_resolution is not None
        stored.append(
            blob_of(
                example.boxes,
                data,
                size,
                is_resized=is_resized,
                annotated_size=example.annotated_size,
            )
        )
    digest, is_turned = digest_of(*stored), orientation(data) != UPRIGHT
    return _Ready(
        blob.mode, blob.width, blob.height, tuple(stored), digest, blob.is_scaled, is_turned
    )


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
