"""A stage whose import begins to use CUDA, as far as torch can tell. In its own process only: a copy finds it used."""

import os
import sys
from types import SimpleNamespace

from tests.helpers.fake_stages.behaviour import run

FIRST_PROCESS = os.getpid()
sys.modules["torch"] = SimpleNamespace(
    cuda=SimpleNamespace(
        _is_in_bad_fork=lambda: os.getpid() != FIRST_PROCESS, is_available=lambda: False
    ),
    get_num_threads=lambda: 1,
    set_num_threads=lambda number: None,
)

__all__ = ["run"]
