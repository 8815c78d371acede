"""Build the augmentation of `Work` from torchvision transforms on Pillow images."""

from typing import TYPE_CHECKING, Any

from benchmarks.contender import Work

if TYPE_CHECKING:
    from torchvision.transforms import v2


def pil_transform(work: Work) -> "v2.Compose":
    """Return a transform from a Pillow image to a uint8 tensor [3, R, R]."""
    from torchvision.transforms import v2

    if work.augment == "center_crop":
        steps: list[Any] = [v2.Resize(work.resolution * 256 // 224), v2.CenterCrop(work.resolution)]
    else:
        steps = [
            v2.RandomResizedCrop(work.resolution, scale=work.crop_scale),
            v2.RandomHorizontalFlip(),
        ]
    return v2.Compose([*steps, v2.PILToTensor()])
