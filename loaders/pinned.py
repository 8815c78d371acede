"""Page-locked host memory, from which copies to a GPU do not block."""

import warnings

import numpy as np
import torch
from torch import Tensor


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on a device, without waiting for a GPU.

    On a CPU, the tensor and the array share memory. A copy from pageable memory to a GPU may wait
    until the GPU has ended all earlier work of the stream, so the values are copied into
    page-locked memory first.
    """
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor
    staged = pinned_empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)
    return staged.to(device, non_blocking=True)


def pinned_empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an uninitialized tensor in page-locked memory.

    If the memory cannot be page-locked, warn and return pageable memory. Copies from pageable
    memory are correct, but the thread that starts a copy waits until the copy has ended.
    """
    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        warnings.warn(
            f"Page-locked memory is not available, so copies to the GPU block: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return torch.empty(shape, dtype=dtype)
