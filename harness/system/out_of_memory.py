"""Recognize errors for exhausted memory, on the host or on a GPU."""

import errno
import sys


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the error means that host or GPU memory ran out.

    cuBLAS and cuDNN report it with their own messages.
    """
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
    ):
        return True
    if isinstance(error, OSError):  # mmap and fork
        return error.errno == errno.ENOMEM
    messages = (
        "out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "can't allocate memory",
    )
    return isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
