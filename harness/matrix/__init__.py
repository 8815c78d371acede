"""Expand a recipe into its stages: a directed acyclic graph whose nodes are keyed by content."""
