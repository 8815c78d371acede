"""Lay out a report as HTML, Markdown and CSV."""
