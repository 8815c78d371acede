"""Catalog of transferability scores: one file per score (contract: `../score.py`)."""
