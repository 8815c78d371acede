"""Catalog of architectures. Each file defines the architecture of its name.

The function is `build(num_classes, channels) -> (backbone, feature_dim)`; see
`harness.modeling.classifier`. A file may also have `published()`, which returns a model with
published weights, and its metadata.
"""
