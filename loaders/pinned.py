"""Allocate page-locked host memory, from which copies to a GPU do not block."""

import warnings

import torch
from torch import Tensor


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
