"""Page-locked host memory, from which copies to a GPU do not block."""

import warnings

import torch
from torch import Tensor


def pinned_empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return an uninitialized tensor in page-locked memory.

    If there is none, warn and return pageable memory. A copy from it is correct, but the thread
    that submits it waits until it has ended.
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
