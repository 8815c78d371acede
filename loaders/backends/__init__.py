"""One file per way to turn a plan into batches; each has `open_loader(plan) -> Loader`."""
