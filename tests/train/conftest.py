"""One thread: these models are so small that threads cost more than they give, most of all where tests run side by side."""

import pytest
import torch
from tiny_stages import root  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)
