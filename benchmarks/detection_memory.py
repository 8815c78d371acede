"""Estimate the memory of training a detector in bf16, from the tensors that a step keeps.

`python benchmarks/detection_memory.py` runs one image on the CPU per line of the table, and counts
the tensors that autograd saves for the backward pass. They have the same sizes on a GPU, and grow
in proportion to the batch; weights, gradients and momentum do not. Temporary memory of kernels and
the CUDA context are not counted.
"""

import torch
from torch import Tensor

from harness.modeling import classifier
from harness.transfer.methods.detection.network import Detector
from harness.transfer.methods.detection.settings import DetectionSettings

BATCH_SIZE = 16
NUM_CLASSES = 20
# (architecture, neck, height and width of the image in pixels)
CASES = (
    ("resnet18", "c4", 800, 800),
    ("resnet50", "c4", 600, 800),
    ("resnet50", "c4", 800, 800),
    ("resnet50", "c4", 1000, 1000),
    ("resnet50", "fpn", 800, 800),
)


def main() -> None:
    """Print a line for each case."""
    print(
        "| network | padded image | saved per image | batch 16, with weights |\n|---|---|---|---|"
    )
    for arch, neck, height, width in CASES:
        saved, state = count_bytes(arch, neck, height, width)
        total = BATCH_SIZE * saved + state
        print(
            f"| {arch}, {neck} | {width} x {height} | {saved / 2**20:.0f} MiB | "
            f"{total / 2**30:.1f} GiB |",
            flush=True,
        )


def count_bytes(arch: str, neck: str, height: int, width: int) -> tuple[int, int]:
    """Count bytes saved per image, and bytes of weights, bf16 copies, gradients and momentum."""
    torch.manual_seed(0)
    settings = DetectionSettings.model_validate(
        {"neck": neck, "short_side": min(height, width), "long_side": max(height, width)}
    )
    model = Detector(classifier.build(arch, 10), NUM_CLASSES, settings).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            saved[place] = tensor  # keep the tensor alive, so that no address is used twice
        return tensor

    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    boxes = torch.tensor([[50.0, 50, 300, 300], [200, 100, 500, 400]])
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        losses = model([image], [{"boxes": boxes, "labels": torch.tensor([1, 2])}])
    num_bytes = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert losses
    weights = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return num_bytes, (4 + 2) * weights + (4 + 4) * trained


if __name__ == "__main__":
    main()
