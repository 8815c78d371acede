"""The command line: commands, benchmarks, console output and the live table."""
