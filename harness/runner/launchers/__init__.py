"""Launchers: each starts `python -m harness.worker` somewhere and reports how it ended."""
