"""Recognize errors that mean that memory of the host or of a GPU is exhausted."""

import errno
import sys


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if the error means that host or GPU memory ran out.

    Recognizes the messages of cuBLAS and cuDNN, too, because these have no exception class.
    """
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
    ):
        return True
    if isinstance(error, OSError):  # from mmap and fork
        return error.errno == errno.ENOMEM
    messages = (
        "out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "can't allocate memory",
    )
    return isinstance(error, RuntimeError) and any(message in str(error) for message in messages)
