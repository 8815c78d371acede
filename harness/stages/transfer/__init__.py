"""Transfer a model to a target by one method."""
