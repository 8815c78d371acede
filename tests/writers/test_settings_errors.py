"""Errors in files of subsets, which have the same words as errors in recipes."""

from pathlib import Path

import pytest

from writers.errors import UserError
from writers.subset.spec import named

SUBSETS = {
    "steps:\n  - classes: [1, 2]\n": r":2: steps\.0\.classes\.0: must be a string, not 1\. "
    r"Put it in quotes\.$",
    "steps:\n  - classes: a\n": r":2: steps\.0\.classes: must be a list, not 'a'\.$",
    "steps:\n  - budget: 0\n": r":2: steps\.0\.budget: must be a mapping, not 0\.$",
    "steps:\n  - budget: {images: 0}\n": r"images: must be greater than or equal to 1, not 0\.$",
    "steps:\n  - per_class: 1\n  - fraction: 2\n": r":3: steps\.1\.fraction\.of: must be less",
    "steps: 5\n": r":1: steps: must be a list, not 5\.$",
}


@pytest.mark.parametrize("text", SUBSETS)
def test_errors_in_a_subset_are_in_plain_english(tmp_path: Path, text: str):
    (tmp_path / "few.yaml").write_text(text)
    with pytest.raises(UserError, match=SUBSETS[text]):
        named(str(tmp_path / "few.yaml"))


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_list_of_classes_is_refused(tmp_path: Path, text: str):
    (tmp_path / "few.txt").write_text(text)
    with pytest.raises(UserError, match=r"one per line: must have at least 1 entry, not \[\]\."):
        named(str(tmp_path / "few.txt"))
