"""A fake stage; see behavior.py."""

from tests.helpers.fake_stages.behavior import run

__all__ = ["run"]
