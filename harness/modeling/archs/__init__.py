"""Catalog of architectures. Each file defines the architecture of its name.

It has `build(num_classes, channels) -> (backbone, feature_dim)`; see `harness.modeling.classifier`.
"""
