"""Evaluate a pretrained model on the validation split."""
