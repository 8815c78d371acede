"""litdata: chunks of the source's JPEGs, decoded by Pillow in StreamingDataLoader workers."""

import io
from pathlib import Path
from typing import Any

import litdata
from PIL import Image

from benchmarks.contender import Pipeline, Work, on_cpu_only
from benchmarks.pictures import pil_transform

VARIANTS = {"pil": "litdata, chunks, Pillow"}


class Images(litdata.StreamingDataset):
    """Dataset of transformed images; at module level, because workers unpickle it."""

    transform_image: Any

    def __getitem__(self, index: Any) -> tuple[Any, int]:
        """Decode and transform one image."""
        sample = super().__getitem__(index)
        return self.transform_image(Image.open(io.BytesIO(sample["image"])).convert("RGB")), sample[
            "label"
        ]


def read(item: tuple[str, int]) -> dict[str, Any]:
    """Read a file; returns a sample with its bytes and label."""
    return {"image": Path(item[0]).read_bytes(), "label": item[1]}


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Open litdata's StreamingDataLoader; convert the corpus on first use."""
    on_cpu_only(work)
    folder = Path(work.scratch) / "litdata"
    if not (folder / "index.json").exists():
        litdata.optimize(
            fn=read, inputs=work.files(), output_dir=str(folder), chunk_bytes="64MB", num_workers=1
        )
    dataset = Images(str(folder), shuffle=work.augment != "center_crop")
    dataset.transform_image = pil_transform(work)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=work.batch_size, num_workers=work.num_threads, persistent_workers=True
    )
    return lambda epoch: loader
