"""The fuzzers find no fault in the C sources, but one in each copy that lacks a check."""

import shutil
from pathlib import Path

import pytest

from tests.fuzz.cases import image_case
from tests.fuzz.run import TARGETS, fuzz
from tests.fuzz.sanitized import build, compiler
from tests.helpers import ROOT
from writers.jpeg import native

GCC = compiler() or ""
pytestmark = [
    pytest.mark.skipif(not GCC, reason="gcc has no AddressSanitizer here"),
    pytest.mark.skipif(native.library() is None, reason="the package's C parts were not built"),
    pytest.mark.timeout(3600),
]
# A C file, a check in it, the text that replaces the check, and the target that must find this.
FAULTS = [
    ("loaders/kernel_jpeg.c", "end < begin + 2 || end > table || ", "", "index"),
    ("loaders/kernel_jpeg.c", " || frame + 10 > scan", "", "index"),
    ("writers/dct/blob.c", " || end > row_end", "", "dct"),
    ("writers/dct/blob.c", "run->groups > DCT_GROUPS || ", "", "dct"),
    ("writers/dct/blob.c", "row < before || row > size", "0", "dct"),
    ("loaders/kernel_huffman.c", "escape == NULL || escape + 1 >= end", "escape == NULL", "jpeg"),
]


def test_a_case_depends_on_its_seed_and_number_only():
    for target in ("jpeg", "index", "dct"):
        cases = [image_case(target, 3, number) for number in (5, 6, 5)]
        assert cases[0] == cases[2] != cases[1]
        assert image_case(target, 4, 5) != cases[0]


@pytest.fixture
def num_cases(request: pytest.FixtureRequest) -> int:
    count = request.config.getoption("--fuzz")
    if count is None:
        pytest.skip("takes minutes; run with --fuzz N, as `make test-slow` does")
    return int(count)


@pytest.mark.parametrize("target", TARGETS)
def test_no_case_crashes_hangs_or_gives_other_pixels(target: str, num_cases: int):
    found = list(fuzz(GCC, build(GCC), target, seed=7, first=0, count=num_cases))
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(("file", "check", "rest", "target"), FAULTS)
def test_a_missing_check_is_found(
    tmp_path: Path, num_cases: int, file: str, check: str, rest: str, target: str
):
    for folder in ("loaders", "writers"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = (tmp_path / file).read_text()
    assert check in text, "the check is not in the file any more: choose another one"
    (tmp_path / file).write_text(text.replace(check, rest))
    found = fuzz(GCC, build(GCC, tmp_path), target, seed=7, first=0, count=4000)
    assert next(found, None) is not None
