"""The C library equals, byte for byte, the Python code that replaces it if it is missing."""

import importlib.util
import io
import re
import zlib
from importlib.machinery import EXTENSION_SUFFIXES

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import kernel_c
from tests.helpers import ROOT
from tests.helpers.pictures import picture
from writers.beton import encode
from writers.beton.encoding import Encoding
from writers.errors import UserError
from writers.jpeg import markers, native, resize, resize_numba
from writers.jpeg.restart_index import DamagedJpegError, read_frame

built = pytest.mark.skipif(
    importlib.util.find_spec("writers._kernel") is None,
    reason="the package's C parts were not built",
)
telling = st.sampled_from(
    [0x00, 0x01, 0xC4, 0xD0, 0xD1, 0xD2, 0xD7, 0xD9, 0xDA, 0xDD, 0xE0, 0xFE, 0xFF, 0xFF, 0xFF]
)


@pytest.fixture
def nothing_built(monkeypatch):
    native.library.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    yield
    native.library.cache_clear()


@built
@settings(max_examples=500, deadline=None)
@given(st.lists(telling, max_size=40).map(bytes), st.integers(0, 45))
def test_c_and_python_find_the_same_markers(jpeg, position):
    library = native.library()
    assert library is not None
    assert library.harness_check_markers(jpeg, len(jpeg), position) == markers.check_slowly(
        jpeg, position
    )


@built
@pytest.mark.parametrize("channels", [1, 3])
def test_c_and_numba_shrink_equally(channels):
    rng = np.random.default_rng(channels)
    for number in range(60):
        height, width = rng.integers(1, 130, 2).tolist()
        new_height, new_width = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        padded = rng.choice(
            np.array([0, 1, 128, 254, 255], np.uint8), (height, width + 5, channels)
        )
        pixels = (
            np.full((height, width, channels), 255, np.uint8)
            if number % 5 == 0
            else padded[:, :width]
        )
        # A chroma plane whose last column covers half a pixel.
        odd = int(2 * width - 1 >= 2 * new_width)
        steps = (2 * width - odd, 2 * new_width), (height, new_height)
        fast, slow = (np.zeros((new_height, new_width, channels), np.uint8) for _ in range(2))
        resize.shrink_into(fast, pixels, *steps)
        resize_numba.shrink_into(slow, pixels, *steps)
        assert np.array_equal(fast, slow), (pixels.shape, fast.shape)


@built
def test_a_library_of_another_version_is_not_called(monkeypatch):
    native.library.cache_clear()
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    assert native.library() is None and native.is_outdated(native.MODULE, native.VERSION)
    with pytest.raises(UserError, match=r"another version[\s\S]*reinstall"):
        encode.encode(photo(), Encoding())
    monkeypatch.undo()
    native.library.cache_clear()


ARGUMENTS = {"loaders": "6: 9635e264", "writers": "2: a7004c7e"}


@pytest.mark.parametrize("package", ARGUMENTS)
def test_changed_arguments_require_a_new_version(package):
    """On failure, raise VERSION in C and Python, and update version and checksum here."""
    folders = {"loaders": ("loaders", "loaders/native"), "writers": ("writers/jpeg", "writers/dct")}
    declarations = {
        re.sub(r"\s+", " ", declaration)
        for folder in folders[package]
        for file in sorted((ROOT / folder).rglob("*.c"))
        for declaration in re.findall(
            r"^\w.*\bharness_\w+\([^{;]*\) {", file.read_text(), re.MULTILINE
        )
    }
    assert len(declarations) > 2
    version = {"loaders": kernel_c.VERSION, "writers": native.VERSION}[package]
    assert (
        f"{version}: {zlib.crc32(' '.join(sorted(declarations)).encode()):08x}"
        == ARGUMENTS[package]
    )


def photo() -> bytes:
    buffer = io.BytesIO()
    picture(0, 150, 111).save(buffer, "JPEG")
    return buffer.getvalue()


def test_images_are_stored_equally_without_the_c_library(request):
    source = photo()
    smaller, kept = (
        Encoding(max_resolution=100, restart_index=False),
        Encoding(format="passthrough"),
    )
    built_blobs = encode.encode(source, smaller), encode.encode(source, kept)
    request.getfixturevalue("nothing_built")
    assert native.library() is None
    assert (encode.encode(source, smaller), encode.encode(source, kept)) == built_blobs
    frame = read_frame(source)
    assert frame is not None
    with pytest.raises(DamagedJpegError, match="cut short"):
        markers.check_markers(source[:-2], frame.scan)


@pytest.mark.parametrize(
    "present, is_found", [((), False), (("old",), False), (("old", "new"), True)]
)
def test_a_build_for_one_python_version_does_not_shadow_the_stable_one(
    monkeypatch, tmp_path, present, is_found
):
    # A unique name, because imports are cached by name.
    package = tmp_path / f"package_{len(present)}"
    package.mkdir()
    (package / "__init__.py").touch()
    names = {"old": f"_kernel{EXTENSION_SUFFIXES[0]}", "new": "_kernel.abi3.so"}
    for name in present:
        (package / names[name]).write_bytes(b"no shared object")
    monkeypatch.syspath_prepend(tmp_path)
    expected = package / "_kernel.abi3.so" if is_found else None
    assert native.library_file(f"{package.name}._kernel") == expected
    assert native.open_library(f"{package.name}._kernel", 1) is None
    assert native.is_outdated(f"{package.name}._kernel", 1) == bool(present)


@built
def test_the_c_library_uses_no_version_specific_python_symbol():
    """Python 3.11 to 3.13 find `.abi3.so` and open it by ctypes."""
    for module in (native.MODULE, kernel_c.MODULE):
        file = native.library_file(module)
        assert file is not None and file.name == "_kernel.abi3.so"
        assert b"PyModule_" not in file.read_bytes() and b"PyObject_" not in file.read_bytes()
