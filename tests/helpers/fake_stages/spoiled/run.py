"""A stage whose import makes torch believe that CUDA is initialized, which breaks forked copies."""

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
