"""Score classes or images of the source dataset, for subsets."""
