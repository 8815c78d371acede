"""Select the GPU of this process, and turn off TF32."""

from writers.errors import UserError
from writers.text_names import counted


def select_gpu(device: str) -> None:
    """Make `device` torch's current GPU, and turn TF32 off. Does nothing for a CPU.

    If no device is given for a stream, an event or a graph capture, it uses the current GPU. By
    default torch computes float32 convolutions in TF32, which has 10 bits of mantissa instead of
    23; use `precision: bf16` for speed.

    Raises:
        UserError: torch cannot use a GPU, or there is no GPU of this number.
    """
    if device.partition(":")[0] != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"This torch ({torch.__version__}) cannot use a GPU.",
            "Install a torch built for the driver's CUDA, or run with --device cpu.",
        )
    index, num_gpus = torch.device(device).index or 0, torch.cuda.device_count()
    if index >= num_gpus:
        raise UserError(
            f"There is no GPU {device}: this process sees {counted(num_gpus, 'GPU')}.",
            "Use a smaller number, or change CUDA_VISIBLE_DEVICES.",
        )
    torch.cuda.set_device(index)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
