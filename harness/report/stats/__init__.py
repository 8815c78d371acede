"""Compute intervals, tests and rankings from the rows."""
