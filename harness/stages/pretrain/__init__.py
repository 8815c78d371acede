"""Pretrain a model on a source subset."""
