"""SPDL: decode, crop and scale with FFmpeg filters in threads."""

import random
from collections.abc import Iterator
from typing import Any

import spdl.io
from spdl.pipeline import PipelineBuilder

from benchmarks.contender import AbsentError, Pipeline, Work, on_cpu_only

VARIANTS = {"ffmpeg": "SPDL, FFmpeg"}


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Return SPDL's pipeline. Raises AbsentError without FFmpeg."""
    import torch
    from PIL import Image
    from torchvision.transforms import RandomResizedCrop

    on_cpu_only(work)
    try:
        spdl.io.demux_image(work.files()[0][0])
    except RuntimeError as error:  # FFmpeg's libraries are loaded on first use
        raise AbsentError(
            "SPDL finds no FFmpeg: install libavdevice59 or a later FFmpeg"
        ) from error
    shuffled = work.augment != "center_crop"

    def decode(item: tuple[str, int]) -> tuple[Any, int]:
        path, label = item
        with Image.open(path) as image:
            width, height = image.size
        if shuffled:
            top, left, box_height, box_width = RandomResizedCrop.get_params(
                torch.empty(3, height, width), list(work.crop_scale), [3 / 4, 4 / 3]
            )
        else:
            box_height = box_width = int(min(width, height) * 224 / 256)
            top, left = (height - box_height) // 2, (width - box_width) // 2
        steps = [
            f"crop={box_width}:{box_height}:{left}:{top}",
            f"scale={work.resolution}:{work.resolution}",
        ]
        if shuffled and random.random() < 0.5:
            steps.append("hflip")
        packets = spdl.io.demux_image(path)
        frames = spdl.io.decode_packets(
            packets, filter_desc=",".join([*steps, "format=pix_fmts=rgb24"])
        )
        return frames, label

    def batch(items: list[tuple[Any, int]]) -> tuple[Any, list[int]]:
        buffer = spdl.io.convert_frames([frames for frames, _ in items])
        return spdl.io.to_torch(buffer), [label for _, label in items]

    def epoch(number: int) -> Iterator[Any]:
        files = work.files()
        if shuffled:
            random.Random(number).shuffle(files)
        pipeline = (
            PipelineBuilder()
            .add_source(files)
            .pipe(decode, concurrency=work.num_threads)
            .aggregate(work.batch_size)
            .pipe(batch)
            .add_sink(3)
            .build(num_threads=work.num_threads)
        )
        with pipeline.auto_stop():
            yield from pipeline.get_iterator(timeout=60)

    return epoch
