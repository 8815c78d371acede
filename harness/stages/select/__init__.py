"""Score classes or images of the source, for subsets."""
