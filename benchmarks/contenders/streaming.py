"""mosaicml-streaming: MDS shards of the source's JPEGs, decoded by Pillow in workers."""

from pathlib import Path
from typing import Any

from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

from benchmarks.contender import Pipeline, Work, on_cpu_only
from benchmarks.pictures import pil_transform

VARIANTS = {"pil": "mosaicml-streaming, MDS shards, Pillow"}


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Open a StreamingDataset in a DataLoader; convert the corpus on first use."""
    on_cpu_only(work)
    import torch

    folder = Path(work.scratch) / "streaming"
    if not (folder / "index.json").exists():
        with MDSWriter(out=str(folder), columns={"image": "bytes", "label": "int"}) as writer:
            for path, label in work.files():
                writer.write({"image": Path(path).read_bytes(), "label": label})
    transform = pil_transform(work)

    class Images(StreamingDataset):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            import io

            from PIL import Image

            sample = super().__getitem__(index)
            return transform(Image.open(io.BytesIO(sample["image"])).convert("RGB")), sample[
                "label"
            ]

    clean_stale_shared_memory()
    dataset = Images(
        local=str(folder), shuffle=work.augment != "center_crop", batch_size=work.batch_size
    )
    loader = torch.utils.data.DataLoader(
        dataset, work.batch_size, num_workers=work.num_threads, persistent_workers=True
    )
    return lambda epoch: loader
