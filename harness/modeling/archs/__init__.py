"""Catalog of architectures. A name is a file with `build`.

`build(num_classes, channels) -> (backbone, feature_dim)`; see `harness.modeling.classifier`.
"""
