"""Transferability scores, one a file: what a source model is worth for a target, without fine-tuning it."""
