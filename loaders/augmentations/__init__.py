"""Augment batches of uint8 images on the loader's device, as functions of (seed, epoch, sample id).

`settings.py` has the settings, `draws.py` the random parameters of each sample, and `loader.py` the
wrapper around a backend's loader. The operations work on whole batches in torch. None waits for the
GPU: parameters are copied from page-locked memory (`loaders.pinned.to_device`). They run after the
backend instead of in its kernel: one implementation then serves all backends, and a GPU does the
work instead of the decoding threads. Importing this package does not import torch.
"""

from loaders.augmentations.settings import (
    Augmentations,
    ColorJitter,
    RandAugment,
    RandomErasing,
)

__all__ = ["Augmentations", "ColorJitter", "RandAugment", "RandomErasing"]
