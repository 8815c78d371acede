"""A write stage that waits to be told to stop: for the test of Ctrl-C at `harness run`."""
