"""Select the GPU of this process, and the number format of its float32 convolutions."""


def select_gpu(device: str) -> None:
    """Make `device` torch's current GPU, and compute float32 in float32; nothing for a CPU.

    Streams, events and captures that name no device use the current GPU. torch computes float32
    convolutions in TF32 by default, which has 10 bits of mantissa instead of 23. Use
    `precision: bf16` for speed.
    """
    if device.partition(":")[0] != "cuda":
        return
    import torch

    torch.cuda.set_device(torch.device(device).index or 0)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
