"""torchvision in a DataLoader: with Pillow, as its reference scripts do, or torchvision.io."""

from benchmarks.contender import Pipeline, Work
from benchmarks.pictures import pil_transform

VARIANTS = {
    "pil": "torchvision, Pillow, DataLoader",
    "io": "torchvision.io, DataLoader",
}


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Open a DataLoader on the JPEG files."""
    import torch
    from torchvision import io
    from torchvision.transforms import v2

    # The transforms also accept tensors; only PILToTensor is dropped for them.
    transform = pil_transform(work)
    if variant == "io":
        transform = v2.Compose(transform.transforms[:-1])
    torch.set_num_threads(1)

    class Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __init__(self) -> None:
            self.files = work.files()

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            path, label = self.files[index]
            if variant == "io":
                return transform(
                    io.decode_jpeg(io.read_file(path), mode=io.ImageReadMode.RGB)
                ), label
            from PIL import Image

            with Image.open(path) as image:
                return transform(image.convert("RGB")), label

    loader = torch.utils.data.DataLoader(
        Images(),
        work.batch_size,
        shuffle=work.augment != "center_crop",
        num_workers=work.num_threads,
        persistent_workers=True,
        pin_memory=work.device != "cpu",
    )
    return lambda epoch: (
        (images.to(work.device, non_blocking=True), labels.to(work.device, non_blocking=True))
        for images, labels in loader
    )
