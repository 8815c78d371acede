"""Rank the classes of the source dataset by difficulty."""
