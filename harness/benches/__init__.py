"""The benchmarks of `harness bench`, one a file; `harness/bench.py` has what they share."""
