"""Stock FFCV: its Loader, decoders and flip, on `.beton` files in its own format."""

import torch
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToDevice, ToTensor, ToTorchImage

from benchmarks.betons import beton
from benchmarks.contender import Pipeline, Work

VARIANTS = {
    "jpeg": "stock FFCV, the source's JPEG bytes",
    "jpeg400": "stock FFCV, JPEG of quality 90 at 400 px",
    "raw": "stock FFCV, raw pixels",
    "raw400": "stock FFCV, raw pixels at 400 px",
}


def prepare(variant: str, work: Work) -> None:
    """Write the `.beton` file if it is missing."""
    beton(work, variant)


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Open stock FFCV's Loader."""
    size = (work.resolution, work.resolution)
    if work.augment == "center_crop":
        image = [CenterCropRGBImageDecoder(size, 224 / 256)]
    else:
        image = [
            RandomResizedCropRGBImageDecoder(size, scale=work.crop_scale),
            RandomHorizontalFlip(),
        ]
    to_device = [] if work.device == "cpu" else [ToDevice(torch.device(work.device))]
    loader = Loader(
        str(beton(work, variant)),
        batch_size=work.batch_size,
        num_workers=work.num_threads,
        seed=0,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        recompile=False,
        pipelines={
            "image": [*image, ToTensor(), *to_device, ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), *to_device, Squeeze()],
        },
    )
    return lambda epoch: loader
