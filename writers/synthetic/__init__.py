"""Generated image sets. Each set of `writers/datasets/` has a file here with its `CLASSES`."""
