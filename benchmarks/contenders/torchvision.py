"""torchvision in a DataLoader: with Pillow, as its reference scripts do, or torchvision.io.

The variant `nvjpeg` reads files in threads and decodes whole batches on the GPU.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.contender import AbsentError, Pipeline, Work
from benchmarks.pictures import pil_transform

VARIANTS = {
    "pil": "torchvision, Pillow, DataLoader",
    "io": "torchvision.io, DataLoader",
    "nvjpeg": "torchvision.io, nvJPEG on the GPU",
}


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Open a DataLoader on the JPEG files. Raises AbsentError for `nvjpeg` without a GPU."""
    if variant == "nvjpeg":
        return _nvjpeg(work)
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


def _nvjpeg(work: Work) -> Pipeline:
    """Decode batches on the GPU, then transform image by image there.

    Raises AbsentError if there is no GPU.
    """
    if work.device == "cpu":
        raise AbsentError("no GPU")
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from torchvision import io
    from torchvision.transforms import v2

    transform = v2.Compose(pil_transform(work).transforms[:-1])
    files = work.files()

    def epoch(number: int) -> Iterator[tuple[Any, Any]]:
        generator = torch.Generator().manual_seed(number)
        is_random = work.augment != "center_crop"
        order = torch.randperm(len(files), generator=generator) if is_random else range(len(files))
        chosen = [files[int(index)] for index in order]
        batches = [
            chosen[first : first + work.batch_size]
            for first in range(0, len(chosen), work.batch_size)
        ]

        def read(batch: list[tuple[str, int]]) -> list[torch.Tensor]:
            return list(readers.map(lambda file: io.read_file(file[0]), batch))

        with ThreadPoolExecutor(work.num_threads) as readers, ThreadPoolExecutor(1) as ahead:
            following = ahead.submit(read, batches[0])
            for index, batch in enumerate(batches):
                encoded = following.result()
                if index + 1 < len(batches):
                    following = ahead.submit(read, batches[index + 1])
                images = io.decode_jpeg(encoded, mode=io.ImageReadMode.RGB, device=work.device)
                labels = torch.tensor([label for _, label in batch], device=work.device)
                yield torch.stack([transform(image) for image in images]), labels

    return epoch
