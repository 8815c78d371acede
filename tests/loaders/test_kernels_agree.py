"""Writer, verification and both kernels accept the same images."""

import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loaders import kernel, open_loader
from loaders.ffcv_parts import LIBRARY
from loaders.plan import LoaderPlan
from tests.helpers.sampled_jpegs import legal_factors, sampled_jpeg
from tests.helpers.tiny_betons import jpeg, photo, write_beton
from writers.beton.encode import UnreadableError, check_image, encode
from writers.beton.encoding import JPEG, Encoding
from writers.beton.verify import verify
from writers.errors import UserError
from writers.jpeg import native
from writers.jpeg.restart_index import add_restart_index

needs_c = pytest.mark.skipif(
    native.library() is None or kernel.best_kernel() != "c",
    reason="the package's C parts were not built",
)
R = 24
pytestmark = pytest.mark.usefixtures("numba_is_compiled")


@functools.cache
def opened(name: str) -> Callable[..., None]:
    return kernel.open_kernel(LIBRARY, name)


def decoded(name: str, blob: bytes, size: tuple[int, int], box: list[int]) -> np.ndarray | None:
    """Decode a box, uint8 [R, R, 3]; None if the kernel refuses the image."""
    output, has_error = np.zeros((1, R, R, 3), np.uint8), np.zeros(1, bool)
    opened(name)(
        np.frombuffer(blob, np.uint8),
        np.array([0]),
        np.array([len(blob)]),
        np.array([JPEG], np.uint8),
        np.array([size[0]]),
        np.array([size[1]]),
        np.array([box]),
        np.array([False]),
        output,
        has_error,
        np.empty((0, 256), np.float16),
    )
    return None if has_error[0] else output[0]


@functools.cache
def originals() -> list[tuple[bytes, tuple[int, int]]]:
    """Return JPEGs, each with its (width, height).

    Some have a restart index, and some have a rare chroma subsampling.
    """
    found = []
    for number, (width, height) in enumerate([(90, 70), (97, 61), (64, 64), (115, 128)]):
        image = Image.fromarray(photo(width, height, seed=number))
        for options in ({"subsampling": number % 3}, {"progressive": True}, {"mode": "L"}):
            buffer = io.BytesIO()
            settings = {"quality": 85} | options
            image.convert(settings.pop("mode", "RGB")).save(buffer, "JPEG", **settings)
            found.append((buffer.getvalue(), image.size))
    found += [(sampled_jpeg(90, 70, factors), (90, 70)) for factors in legal_factors()[2:14:3]]
    indexed = [(add_restart_index(blob), size) for blob, size in found]
    return [*indexed, *indexed, *found]


def mutated(blob: bytes, draws: np.random.Generator) -> bytes:
    """Change a few bytes, mostly in the coded data, or insert or remove bytes, or cut the end."""
    data = bytearray(blob)
    first = data.index(b"\xff\xda") + 14 if draws.random() < 0.85 else 2
    for _ in range(int(draws.integers(1, 4))):
        place, kind = int(draws.integers(min(first, len(data) - 1), len(data))), draws.random()
        if kind < 0.4:
            data[place] ^= 1 << int(draws.integers(8))
        elif kind < 0.7:
            data[place] = int(draws.integers(256))
        elif kind < 0.8:
            data[place : place + 2] = bytes([255, int(draws.choice([0, 208, 211, 217, 255]))])
        elif kind < 0.87:
            data.insert(place, int(draws.integers(256)))
        elif kind < 0.94:
            del data[place : place + int(draws.integers(1, 4))]
        else:
            other = int(draws.integers(first, max(first + 1, len(data))))
            data[place : place + 20] = data[other : other + 20]
        if len(data) < 40:
            break
    return bytes(data)


def disagreements(seed: int, count: int) -> list[str]:
    """Describe mutated streams that the kernels check or decode differently."""
    draws, found = np.random.default_rng(seed), []
    for number in range(count):
        blob, (width, height) = originals()[int(draws.integers(len(originals())))]
        broken = mutated(blob, draws)
        left, top = int(draws.integers(width - 1)), int(draws.integers(height - 1))
        box = [
            left,
            top,
            int(draws.integers(1, width - left)),
            int(draws.integers(1, height - top)),
        ]
        first, second = (decoded(name, broken, (width, height), box) for name in ("c", "numba"))
        if (first is None) != (second is None):
            found.append(f"{seed}/{number}: c {'refuses' if first is None else 'accepts'}")
        elif first is not None and not np.array_equal(first, second):
            found.append(f"{seed}/{number}: other pixels")
    return found


@needs_c
def test_the_kernels_accept_the_same_mutated_streams():
    assert disagreements(seed=5, count=1500) == []


@needs_c
def test_every_check_accepts_all_legal_samplings(tmp_path: Path):
    for number, factors in enumerate(legal_factors()):
        blob = sampled_jpeg(120, 100, factors, seed=number)
        with Image.open(io.BytesIO(blob)) as image:
            oracle = np.asarray(image.convert("RGB")).astype(int)
        assert oracle.std() > 5, "the image has something to compare"
        check_image(blob)
        assert encode(blob, Encoding(format="jpeg", restart_index=False)).mode == JPEG
        raw = encode(blob, Encoding(format="raw")).data
        pixels = np.frombuffer(raw, np.uint8).reshape(oracle.shape)
        assert abs(pixels - oracle).max() <= 1, factors
        stored = encode(blob, Encoding(format="passthrough"), check=True).data
        assert stored == blob
        box = [10, 20, R, R]
        for kind in (blob, add_restart_index(blob)):
            for name in ("c", "numba"):
                crop = decoded(name, kind, (120, 100), box)
                assert crop is not None, (factors, name)
                assert abs(crop - oracle[20 : 20 + R, 10 : 10 + R]).max() <= 1, (factors, name)
    image = photo(120, 100, seed=0)
    path = write_beton(tmp_path / "one.beton", [image], [0], raw=[False], blobs=[blob])
    assert verify(path) == []


def huge(width: int = 65500, height: int = 65500) -> bytes:
    """Return a JPEG of a few hundred bytes whose header states these sides."""
    small = bytearray(jpeg(photo(16, 16, seed=1)))
    frame = small.index(b"\xff\xc0")
    small[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(small)


@pytest.mark.parametrize("format_", ["jpeg", "raw", "passthrough", "dct"])
@pytest.mark.parametrize("sides", [(65500, 65500), (65500, 2800)])
def test_too_many_pixels_are_refused_in_every_format(format_, sides):
    with pytest.raises(UnreadableError, match="an image may have 178,956,970"):
        encode(huge(*sides), Encoding(format=format_))
    with pytest.raises(UnreadableError, match="an image may have 178,956,970"):
        check_image(huge(*sides))


def test_too_many_pixels_are_refused_in_other_containers(monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(buffer, "PNG")
    check_image(buffer.getvalue())
    monkeypatch.setattr("writers.jpeg.turbojpeg.MAX_PIXELS", 1999)
    with pytest.raises(UnreadableError, match="it is 50 x 40 pixels"):
        check_image(buffer.getvalue())


@needs_c
@pytest.mark.parametrize("name", ["c", "numba"])
def test_kernels_refuse_too_many_pixels_without_allocating_them(name):
    blobs = [huge(), add_restart_index(jpeg(photo(16, 16, seed=1)))]
    for blob in blobs:
        assert decoded(name, blob, (65500, 65500), [0, 0, 65500, 65500]) is None


def test_a_loader_names_the_sample_with_too_many_pixels(tmp_path: Path):
    images = [photo(32, 32, seed=number) for number in range(4)]
    blobs = [jpeg(image) for image in images]
    path = write_beton(tmp_path / "a.beton", images, [0] * 4, raw=[False] * 4, blobs=blobs)
    with open_loader(LoaderPlan(path, batch_size=4, resolution=16)) as loader:
        assert len(list(loader.epoch(0))) == 1
    assert verify(path) == []
    blobs[2] = huge()
    path = write_beton(tmp_path / "b.beton", images, [0] * 4, raw=[False] * 4, blobs=blobs)
    assert "may have" in verify(path)[0]
    with (
        open_loader(LoaderPlan(path, batch_size=4, resolution=16)) as loader,
        pytest.raises(UserError, match="Sample 2"),
    ):
        list(loader.epoch(0))
