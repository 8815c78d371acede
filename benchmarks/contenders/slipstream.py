"""slipstream (harvard-visionlab): its loader, on its own cache of the same folder.

It is not on PyPI, so `harness bench load` reports it as absent unless it is installed. Its images
have no flip here, and its pixels differ from libjpeg-turbo's. Written from slipstream's
documentation, and not run yet.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.contender import AbsentError, Pipeline, Work, on_cpu_only

VARIANTS = {"jpeg": "slipstream, the source's JPEG bytes"}


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Open slipstream's loader. Raises AbsentError if it is not installed."""
    on_cpu_only(work)
    try:
        from slipstream import SlipstreamDataset, SlipstreamLoader
        from slipstream.decoders import DecodeCenterCrop, DecodeRandomResizedCrop
    except ImportError as error:
        raise AbsentError("not installed; its source is harvard-visionlab/slipstream") from error
    options = {"num_threads": work.num_threads, "to_tensor": True, "permute": True}
    random = work.augment != "center_crop"
    decoder = (
        DecodeRandomResizedCrop(work.resolution, scale=work.crop_scale, seed=0, **options)
        if random
        else DecodeCenterCrop(work.resolution, **options)
    )
    loader = SlipstreamLoader(
        SlipstreamDataset(work.corpus, decode_images=False),
        batch_size=work.batch_size,
        shuffle=random,
        seed=0,
        drop_last=False,
        pipelines={"image": [decoder]},
    )

    def epoch(number: int) -> Iterator[tuple[Any, Any]]:
        for batch in loader:
            yield batch["image"], batch["label"]

    return epoch
