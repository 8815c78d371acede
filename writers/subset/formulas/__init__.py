"""Formulas that score source classes or images for a selection. One file per method, in numpy."""
