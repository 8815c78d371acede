"""Trackers, by name (`harness run --tracker NAME`); see `harness.runner.tracker`."""
