"""Options and fixtures that tests of several packages share."""

# Import hypothesis before any test. Otherwise its pytest plugin imports it at the end of a run. If
# FFCV has generated code by then, Python 3.11's ast module fails in this import (SystemError: AST
# constructor recursion depth mismatch).
import functools
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from threadpoolctl import ThreadpoolController

# Shells start background jobs so that they ignore SIGINT. Tests that send it need its default handler.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# A busy machine must not fail a test: neither a slow example nor slow generation is an error.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


# Files that take a minute or more. They start first, so that pytest-xdist does not wait for one of
# them at the end.
LONGEST = (
    "recipes/test_tiny.py",
    "runner/launchers/test_real_slurm.py",
    "recipes/test_demo.py",
    "runner/test_torchrun.py",
    "rehearsal/test_commands.py",
    "rehearsal/test_recipes.py",
    "runner/test_end_to_end.py",
    "runner/launchers/test_ray.py",
    "runner/test_kill.py",
    "docs/test_code_blocks.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kill-demo",
        type=int,
        metavar="N",
        help="runner/test_end_to_end.py: interrupt the demo at N points, not a tiny recipe at 4",
    )
    parser.addoption(
        "--kill-nodes",
        type=int,
        metavar="N",
        help="runner/launchers/test_ray.py: kill N nodes of a Ray cluster, one after another",
    )
    parser.addoption(
        "--demo-effects",
        action="store_true",
        help="run recipes/test_demo.py: the clean half of the demo with three seeds, in minutes",
    )
    parser.addoption(
        "--compiler",
        action="store_true",
        help="run train/test_compile_cache.py, which calls torch.compile",
    )
    parser.addoption(
        "--fuzz",
        type=int,
        metavar="N",
        help="run fuzz/test_fuzz.py: N mutated inputs of each kind through sanitized C code",
    )


@pytest.fixture(scope="module", autouse=True)
def restored_process() -> Iterator[None]:
    """Restore the environment, the handler of SIGTERM and the logger of harness after each file.

    `ray.init` and the commands of harness change them for the rest of the process.
    """
    environment, on_sigterm = dict(os.environ), signal.getsignal(signal.SIGTERM)
    logger = logging.getLogger("harness")
    level, propagate, handlers = logger.level, logger.propagate, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.propagate, logger.handlers[:] = propagate, handlers
    if on_sigterm is not None:  # None: a library in C has set it
        signal.signal(signal.SIGTERM, on_sigterm)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


@functools.lru_cache(maxsize=1)
def thread_pools(num_modules: int) -> ThreadpoolController:
    """Return the thread pools of this process.

    Finding them takes milliseconds, so the result is cached until `num_modules` changes: only an
    import can add a pool.
    """
    return ThreadpoolController()


@pytest.fixture(scope="module", autouse=True)
def one_thread_in_fixtures() -> None:
    """Limit torch to one thread in module-scoped fixtures, which run before `one_thread`.

    On a busy machine, a fixture with two threads took 300 s instead of 11 s.
    """
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Limit numerical libraries to one thread: test models are too small to gain from more."""
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    with thread_pools(len(sys.modules)).limit(limits=1, user_api="blas"):
        yield


@pytest.fixture(scope="module", autouse=True)
def random_numbers_of_fixtures() -> None:
    """Seed torch for module-scoped fixtures, as `random_numbers` does for tests."""
    seed_torch()


@pytest.fixture(autouse=True)
def random_numbers() -> None:
    """Seed torch before each test. Otherwise a test has other random numbers in each process."""
    seed_torch()


def seed_torch() -> None:
    """Seed torch's generator of the CPU, if torch is imported."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove COLUMNS, so that the width of printed tables does not depend on the terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for the stages of one test module, with an empty `data/` inside."""
    root = tmp_path_factory.mktemp("stages")
    (root / "data").mkdir()
    return root
