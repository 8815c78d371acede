"""Choose the best models by one score."""
