"""A stage whose import initializes CUDA in torch's view; a forked copy finds it in use."""

import os
import sys
from types import SimpleNamespace

from tests.helpers.fake_stages.behavior import run

FIRST_PROCESS = os.getpid()
sys.modules["torch"] = SimpleNamespace(
    cuda=SimpleNamespace(
        _is_in_bad_fork=lambda: os.getpid() != FIRST_PROCESS, is_available=lambda: False
    ),
    get_num_threads=lambda: 1,
    set_num_threads=lambda number: None,
)

__all__ = ["run"]
