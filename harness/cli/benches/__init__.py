"""The benchmarks of `harness bench`, one a file; `harness/cli/benches/_common.py` has what they share."""
