"""Recognize errors that mean that memory ran out, on the host or on a GPU."""

import errno
import sys


def is_out_of_memory(error: BaseException) -> bool:
    """Of the host or of the GPU. cuBLAS and cuDNN say it in words of their own."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
    ):
        return True
    if isinstance(error, OSError):  # of mmap and fork
        return error.errno == errno.ENOMEM
    words = (
        "out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "can't allocate memory",
    )
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
