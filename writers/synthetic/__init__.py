"""What the classes of the synthetic sets look like: a file a set of `writers/datasets/`, with its `CLASSES`."""
