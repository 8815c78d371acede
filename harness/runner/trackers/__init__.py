"""Trackers, by name (`harness run --tracker NAME`). `harness.runner.tracker` is the contract."""
