"""Compute transferability scores from features."""
