"""Architectures: a name is a file, with `build(num_classes, channels) -> (backbone, feature_dim)`; see `harness.modeling.classifier`."""
