"""Benchmarks of `harness bench`: each module without a leading underscore is one benchmark."""
