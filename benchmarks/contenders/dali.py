"""NVIDIA DALI: decode, random crop, resize and flip, on the CPU or with nvJPEG on a GPU.

`cpu` is DALI at its fastest: crop fused into the decode, fast inverse DCT, no fancy upsampling, no
antialiasing.
"""

from collections.abc import Iterator
from typing import Any

from nvidia.dali import fn, pipeline_def, types

from benchmarks.contender import AbsentError, Pipeline, Work, on_cpu_only

VARIANTS = {
    "cpu": "DALI, CPU, fastest settings",
    "cpu_careful": "DALI, CPU, defaults, antialiased",
    "gpu": "DALI, nvJPEG on the GPU",
}


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Build DALI's pipeline. Raises AbsentError if the variant does not fit the device."""
    on_gpu = variant == "gpu"
    if on_gpu and work.device == "cpu":
        raise AbsentError("no GPU")
    if not on_gpu:
        on_cpu_only(work)
    files, labels = zip(*work.files(), strict=True)
    random, fast = work.augment != "center_crop", variant != "cpu_careful"
    options: dict[str, Any] = {"device": "mixed" if on_gpu else "cpu", "output_type": types.RGB}
    if fast and not on_gpu:
        options |= {"use_fast_idct": True, "jpeg_fancy_upsampling": False}

    @pipeline_def(
        batch_size=work.batch_size,
        num_threads=work.num_threads,
        device_id=0 if on_gpu else None,
        seed=0,
    )
    def steps() -> Any:
        encoded, label = fn.readers.file(
            files=list(files), labels=list(labels), random_shuffle=random, name="Reader"
        )
        if random:
            images = fn.decoders.image_random_crop(
                encoded,
                random_area=list(work.crop_scale),
                random_aspect_ratio=[3 / 4, 4 / 3],
                **options,
            )
            images = fn.resize(
                images,
                size=[work.resolution] * 2,
                interp_type=types.INTERP_LINEAR,
                antialias=not fast,
            )
            return fn.flip(images, horizontal=fn.random.coin_flip()), label
        images = fn.resize(
            fn.decoders.image(encoded, **options),
            resize_shorter=work.resolution * 256 // 224,
            interp_type=types.INTERP_LINEAR,
            antialias=not fast,
        )
        return fn.crop(images, crop=[work.resolution] * 2, dtype=types.UINT8), label

    pipeline = steps()
    pipeline.build()
    num_batches = -(-len(files) // work.batch_size)

    def epoch(number: int) -> Iterator[Any]:
        import torch
        from torch.utils.dlpack import from_dlpack

        for _ in range(num_batches):
            images, label = pipeline.run()
            tensor = images.as_tensor()
            if on_gpu:
                yield from_dlpack(tensor), label
            else:
                import numpy as np

                yield torch.from_numpy(np.asarray(tensor)), label

    return epoch
