"""Catalog of architectures. Each file defines the architecture of its name.

`build(num_classes, channels) -> (backbone, feature_dim)` builds the network without its head (see
`harness.modeling.classifier`). A file may also have `published()`, which returns a model with
published weights, and its metadata.
"""
