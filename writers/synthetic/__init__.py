"""Generated image sets: one file per set of `writers/datasets/`, with its `CLASSES`."""
