"""The cache of machine code is used again, but never after a change in one of its sources."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numba
import pytest

from loaders import kernel_numba
from loaders.compile_numba import source_version

PART = """
from loaders.compile_numba import helper

FACTOR = {factor}

@helper
def scaled(number):
    return FACTOR * number
"""
WHOLE = """
import part
from loaders.compile_numba import compiled

def _make(version):
    def doubled(number):
        return part.scaled(number) if version >= 0 else number
    return doubled

doubled = compiled(_make, [part])
"""


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def function_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Return a function that writes a module with a factor, and loads it as a new process would."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")  # the folder of the module
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "whole.py").write_text(WHOLE)

    def function_of(factor: int) -> Callable[[int], int]:
        (tmp_path / "part.py").write_text(PART.format(factor=factor))
        load(tmp_path / "part.py")
        return load(tmp_path / "whole.py").doubled

    yield function_of
    for name in ("part", "whole"):
        sys.modules.pop(name, None)


def test_machine_code_is_read_from_disk_until_a_part_changes(function_of):
    assert function_of(2)(21) == 42
    again = function_of(2)
    assert again(21) == 42 and sum(again.stats.cache_hits.values()) == 1
    changed = function_of(3)
    assert changed(21) == 63 and not changed.stats.cache_hits


def test_the_version_is_that_of_all_parts_in_their_order():
    parts = kernel_numba.PARTS
    assert 0 < source_version(parts) == source_version(list(parts)) < 2**63
    assert len({source_version(parts), source_version(parts[1:]), source_version(parts[::-1])}) == 3


def test_modules_without_source_text_have_no_version(tmp_path):
    frozen = ModuleType("frozen")
    frozen.__file__ = str(tmp_path / "frozen.pyc")
    assert source_version([frozen]) == 0


def test_the_kernel_names_every_module_of_its_functions():
    own = {module.__name__ for module in kernel_numba.PARTS} | {kernel_numba.__name__}
    for module in (kernel_numba, *kernel_numba.PARTS):
        for value in vars(module).values():
            if isinstance(value, numba.core.registry.CPUDispatcher):
                assert value.py_func.__module__ in own, value
