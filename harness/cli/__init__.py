"""Command line: commands, benchmarks, and what they print."""
