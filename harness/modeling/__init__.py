"""Networks and their weights: architectures, pretrained models, checkpoints."""
