"""Subsets: which classes and images to keep, with which labels."""
