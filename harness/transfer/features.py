"""Compute a pretrained model's features and class probabilities for the images of a dataset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.modeling.classifier import Classifier
from harness.modeling.module_modes import cudnn_benchmark, eval_mode
from harness.modeling.precision import Precision, autocast
from harness.system.array_files import Form, read_arrays, write_arrays
from loaders.backend import Loader
from loaders.pinned import pinned_empty

FORMS = {
    "features": Form("f", ndims=(2,)),
    "probs": Form("f", ndims=(2,), needed=False),
    "labels": Form("iu", ndims=(1, 2)),
    "ids": Form("u"),
}


@dataclass(frozen=True)
class Features:
    """Outputs of a model for N images, in the loader's order."""

    features: np.ndarray  # float32 [N, D]
    probs: np.ndarray | None  # float32 [N, C] over the pretraining classes; None without a head
    labels: np.ndarray  # labels of the dataset: int64 [N], or int8 [N, K] if multi-label
    ids: np.ndarray  # image ids, uint64 [N]

    def save(self, file: Path) -> None:
        """Write a file atomically. Equal arrays give equal bytes."""
        arrays = {"features": self.features, "labels": self.labels, "ids": self.ids}
        arrays |= {} if self.probs is None else {"probs": self.probs}
        write_arrays(file, arrays)

    @classmethod
    def load(cls, file: Path) -> "Features":
        """Read a file of features.

        Raises:
            UserError: the file is missing or damaged.
        """
        arrays = read_arrays(file, "features", FORMS)
        return cls(arrays["features"], arrays.get("probs"), arrays["labels"], arrays["ids"])


def file_of(folder: Path, split: str) -> Path:
    """Return the path of a split's features in the folder of a `features` stage."""
    return folder / f"{split}.npz"


def extract(
    model: Classifier,
    loader: Loader,
    *,
    device: str,
    precision: Precision,
    has_head: bool = True,
    after_batch: Callable[[int], None] = lambda num_images: None,
) -> Features:
    """Run the model over the loader's epoch 0 in evaluation mode.

    The softmax is computed in float32: in half precision, small probabilities would become 0.

    Args:
        model: pretrained model on the device.
        loader: loader of the images.
        device: device of the model.
        precision: number format of the forward passes.
        has_head: False skips the head, for example because it was never trained; `probs` is then
            None.
        after_batch: called after each batch with the number of finished images.
    """
    collected: list[list[Tensor]] = []
    pending: Callable[[], list[Tensor]] | None = None
    num_images = 0
    with (
        eval_mode(model),
        cudnn_benchmark(device),
        torch.no_grad(),
        loader.epoch(0) as batches,
    ):
        for images, batch_labels in batches:
            with autocast(precision, device, model):
                seen = model.features(images)
                logits = model.head(seen) if has_head else None
            outputs = [batch_labels, seen.float()]
            if logits is not None:
                outputs.append(logits.float().softmax(dim=1))
            # Wait only for the copies of the previous batch, while the GPU computes this one.
            previous, pending = pending, _start_copy(outputs, device)
            if previous is not None:
                collected.append(previous())
            num_images += len(batch_labels)
            after_batch(num_images)
        if pending is not None:
            collected.append(pending())
    labels, features, *probs = (torch.cat(parts).numpy() for parts in zip(*collected, strict=True))
    ids = loader.samples.ids[loader.samples.order(loader.plan, 0)]
    return Features(features, probs[0] if has_head else None, labels, ids)


def _start_copy(tensors: Sequence[Tensor], device: str) -> Callable[[], list[Tensor]]:
    """Start to copy tensors to the CPU; return a function that waits for and returns the copies.

    The caller may overwrite the tensors after the call: the GPU runs work of one stream in order,
    so the copies are first.
    """
    if torch.device(device).type != "cuda":
        copies = [tensor.clone() for tensor in tensors]
        return lambda: copies
    staged = [
        pinned_empty(tuple(tensor.shape), tensor.dtype).copy_(tensor, non_blocking=True)
        for tensor in tensors
    ]
    copied = torch.cuda.current_stream(device).record_event(torch.cuda.Event(blocking=True))

    def wait() -> list[Tensor]:
        copied.synchronize()
        return [tensor.clone() for tensor in staged]  # to free the page-locked memory

    return wait
