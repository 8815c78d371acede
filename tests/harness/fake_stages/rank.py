"""A fake stage; see behaviour.py."""

from fake_stages.behaviour import run

__all__ = ["run"]
