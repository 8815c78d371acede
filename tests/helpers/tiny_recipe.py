"""A small valid recipe as text, and the mistakes that reading an edited one reports."""

from pathlib import Path

import pytest

from harness.config import load as recipe
from writers.errors import UserError

GOOD = """\
name: tiny
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
eps: [0, 0.5]
pretrain:
  epochs: 2
  optimizer:
    lr: 1e-3
targets:
  - {dataset: synthetic_patterns}
methods:
  fixed: {epochs: 2}
"""


def mistakes(path: Path | str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        recipe.read(path, overrides)
    return caught.value.message.splitlines()


def edited(path: Path, old: str, new: str) -> Path:
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    return path
