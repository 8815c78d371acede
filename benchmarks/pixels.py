"""Compare decoded pixels with libjpeg-turbo's, value by value, before any resize.

    python -m benchmarks.pixels FOLDER_OR_TAR ... [--json FILE]

Each JPEG is stored in every possible form: unchanged, with a restart index, as dct, and raw. It is
decoded with every instruction set of this processor and with numba. All pixels are compared, and
also crops at random places, for which only the part under the crop is decoded. The reference is
Pillow, which has its own copy of libjpeg-turbo.
"""

import argparse
import functools
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from loaders import kernel, kernel_c
from loaders.ffcv_parts import LIBRARY
from writers.beton.encoding import DCT, JPEG, RAW
from writers.dct.blob import from_jpeg
from writers.jpeg.restart_index import add_restart_index

MODES = {"jpeg": JPEG, "indexed": JPEG, "dct": DCT, "raw": RAW}
NUM_CROPS = 4
PADDING = bytes(512)  # bytes after an image; in a `.beton` file, other images follow


@dataclass
class Compared:
    """Counts over all images.

    Attributes:
        images: JPEGs that were compared.
        values: "form, kernel" -> number of compared values of pixels.
        different: "form, kernel" -> number of these values that differ from libjpeg-turbo's.
        refused: "form, kernel" -> number of images that the kernel did not decode.
        not_stored: form -> number of images that cannot be stored in this form.
    """

    images: int = 0
    values: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    not_stored: Counter[str] = field(default_factory=Counter)


def kernels_of(form: str) -> tuple[str, ...]:
    """Return the names of the code paths that decode a form on this processor."""
    return kernel_c.instruction_sets() + (() if form == "dct" else ("numba",))


def stored_forms(jpeg: bytes, pixels: np.ndarray) -> dict[str, bytes | None]:
    """Return form -> bytes of an image; None if the image cannot be stored in this form.

    Args:
        jpeg: the image file.
        pixels: its pixels, uint8 [H, W, 3].
    """
    indexed = add_restart_index(jpeg)
    return {
        "jpeg": jpeg,
        "indexed": None if indexed == jpeg else indexed,
        "dct": from_jpeg(jpeg),
        "raw": pixels.tobytes(),
    }


def compare(jpegs: Iterable[bytes], seed: int = 0) -> Compared:
    """Decode each JPEG in all forms and kernels, and count values that differ from Pillow's."""
    draws, result = np.random.default_rng(seed), Compared()
    for jpeg in jpegs:
        with Image.open(io.BytesIO(jpeg)) as image:
            pixels = np.asarray(image.convert("RGB"))
        result.images += 1
        groups = [_squares(*pixels.shape[:2]), *_random_squares(draws, *pixels.shape[:2])]
        for form, blob in stored_forms(jpeg, pixels).items():
            if blob is None:
                result.not_stored[form] += 1
                continue
            for name in kernels_of(form):
                key = f"{form}, {name}"
                for boxes in groups:
                    decoded = _decoded(name, blob, MODES[form], pixels.shape[:2], boxes)
                    if decoded is None:
                        result.refused[key] += 1
                        break
                    for (left, top, side, _), found in zip(boxes.tolist(), decoded, strict=True):
                        expected = pixels[top : top + side, left : left + side]
                        result.values[key] += expected.size
                        result.different[key] += int((found != expected).sum())
    return result


def _squares(height: int, width: int) -> np.ndarray:
    """Return squares that cover an image, int64 [n, 4], because kernels only make squares."""
    side = min(height, width)
    starts = sorted({*range(0, max(height, width) - side, side), max(height, width) - side})
    corners = [(start, 0) if width > height else (0, start) for start in starts]
    return np.array([[left, top, side, side] for left, top in corners])


def _random_squares(draws: np.random.Generator, height: int, width: int) -> Iterator[np.ndarray]:
    for _ in range(NUM_CROPS):
        side = int(draws.integers(1, min(height, width) + 1))
        corner = draws.integers(0, (width - side + 1, height - side + 1))
        yield np.array([[*corner, side, side]])


@functools.cache
def _opened(name: str) -> kernel.Kernel:
    return kernel.open_kernel(LIBRARY, "numba") if name == "numba" else kernel_c.open_kernel(name)


def _decoded(
    name: str, blob: bytes, mode: int, shape: tuple[int, ...], boxes: np.ndarray
) -> np.ndarray | None:
    """Return the pixels of square boxes, uint8 [n, side, side, 3]; None if the image is refused."""
    n, side = len(boxes), int(boxes[0, 2])
    output, has_error = np.full((n, side, side, 3), 99, np.uint8), np.zeros(n, bool)
    _opened(name)(
        np.frombuffer(blob + PADDING, np.uint8),
        np.zeros(n, np.int64),
        np.full(n, len(blob)),
        np.full(n, mode, np.uint8),
        np.full(n, shape[1]),
        np.full(n, shape[0]),
        boxes,
        np.zeros(n, bool),
        output,
        has_error,
        np.empty((0, 256), np.float16),
    )
    return None if has_error.any() else output


def jpegs_of(path: Path) -> Iterator[bytes]:
    """Read every JPEG below a folder or in a tar."""
    extensions = (".jpg", ".jpeg")
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in extensions:
                yield file.read_bytes()
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.lower().endswith(extensions):
                opened = archive.extractfile(member)
                assert opened is not None
                yield opened.read()


def main() -> None:
    """Compare the JPEGs on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for path in arguments.paths:
        found = compare(jpegs_of(path))
        results[path.name] = vars(found)  # not asdict, which damages Counters
        print(f"{path.name}: {found.images} images; not stored: {dict(found.not_stored)}")
        for key, count in found.values.items():
            refused = f", {found.refused[key]} images refused" if found.refused[key] else ""
            print(f"  {key}: {found.different[key]:,} of {count:,} values differ{refused}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
