"""What a source model sees in a target's images: features from before its head, and probabilities of its own classes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.model import Classifier
from harness.train.modes import eval_mode
from harness.train.precision import Precision, autocast
from loaders.backend import Loader

FILE = "features.npz"


@dataclass(frozen=True)
class Features:
    """Of N images, in the order of the loader."""

    features: np.ndarray        # float32 [N, D]
    probs: np.ndarray           # float32 [N, C] over the source's classes
    labels: np.ndarray          # int64 [N] of the target; int8 [N, K] where an image has many labels
    ids: np.ndarray             # uint64 [N]

    def save(self, file: Path) -> None:
        with file.open("wb") as handle:
            np.savez(handle, features=self.features, probs=self.probs, labels=self.labels, ids=self.ids)

    @classmethod
    def load(cls, file: Path) -> "Features":
        with np.load(file) as arrays:
            return cls(arrays["features"], arrays["probs"], arrays["labels"], arrays["ids"])


def extract(model: Classifier, loader: Loader, *, device: str, precision: Precision) -> Features:
    """One pass over the loader's epoch 0, in evaluation mode. The softmax is of float32 logits: half precision gives zeros."""
    features, probs, labels = [], [], []
    with eval_mode(model), torch.no_grad(), loader.epoch(0) as batches:
        for images, batch_labels in batches:
            with autocast(precision, device):
                seen = model.features(images)
                logits = model.head(seen)
            features.append(seen.float().cpu())
            probs.append(logits.float().softmax(dim=1).cpu())
            labels.append(batch_labels.cpu().clone())
    ids = loader.samples.ids[loader.samples.order(loader.plan, 0)]
    return Features(torch.cat(features).numpy(), torch.cat(probs).numpy(), torch.cat(labels).numpy(), ids)
