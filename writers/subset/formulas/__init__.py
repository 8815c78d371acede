"""Formulas that score source classes or images for a selection, one file per method, in numpy."""
