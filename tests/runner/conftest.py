"""Fixtures of the runner's tests."""

from tests.helpers.execution import fake_stages_on_path, folders, journal, make

__all__ = ["fake_stages_on_path", "folders", "journal", "make"]
