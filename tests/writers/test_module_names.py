"""Modules are found by name."""

from importlib import import_module

import pytest

from writers import names
from writers.errors import UserError


def test_an_imported_module_is_found_without_listing_its_folder(monkeypatch: pytest.MonkeyPatch):
    found = names.find("writers.datasets", "pets", "dataset")
    import_module("writers.datasets._vtab")
    with pytest.raises(UserError, match="no dataset named '_vtab'"):
        names.find("writers.datasets", "_vtab", "dataset")
    monkeypatch.setattr(names, "names", lambda package: pytest.fail("it is listed"))
    assert names.find("writers.datasets", "Pets", "dataset") is found
