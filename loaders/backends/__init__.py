"""Loader backends, one per module; each defines `open_loader(plan) -> Loader`."""
