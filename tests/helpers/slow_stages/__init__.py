"""A write stage that waits for a stop request, to test Ctrl-C in `harness run`."""
