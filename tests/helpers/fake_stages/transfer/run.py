"""A fake stage; see behaviour.py."""

from tests.helpers.fake_stages.behaviour import run

__all__ = ["run"]
