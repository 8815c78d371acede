"""Rank the source's classes by difficulty."""
