"""webdataset: tar shards of the source's JPEG files, decoded by Pillow in DataLoader workers."""

import io
from pathlib import Path
from typing import Any

import webdataset

from benchmarks.contender import Pipeline, Work, on_cpu_only
from benchmarks.pictures import pil_transform

VARIANTS = {"pil": "webdataset, tar shards, Pillow"}
NUM_SHARDS = 8


def open_pipeline(variant: str, work: Work) -> Pipeline:
    """Open webdataset's loader; write the tar shards on first use."""
    on_cpu_only(work)
    shards = _shards(work, webdataset)
    transform = pil_transform(work)

    def decode(sample: tuple[bytes, int]) -> tuple[Any, int]:
        from PIL import Image

        return transform(Image.open(io.BytesIO(sample[0])).convert("RGB")), int(sample[1])

    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), nodesplitter=None).shuffle(
        1000
    )
    batches = dataset.to_tuple("jpg", "cls").map(decode).batched(work.batch_size)
    loader = webdataset.WebLoader(
        batches, batch_size=None, num_workers=work.num_threads, persistent_workers=True
    )
    return lambda epoch: loader


def _shards(work: Work, webdataset: Any) -> list[str]:
    folder = Path(work.scratch) / "webdataset"
    files = work.files()
    shards = [str(folder / f"{number:04}.tar") for number in range(NUM_SHARDS)]
    if not (folder / "whole").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for number, shard in enumerate(shards):
            with webdataset.TarWriter(shard) as writer:
                for index in range(number, len(files), NUM_SHARDS):
                    path, label = files[index]
                    writer.write(
                        {
                            "__key__": f"{index:08}",
                            "jpg": Path(path).read_bytes(),
                            "cls": str(label).encode(),
                        }
                    )
        (folder / "whole").write_text("")
    return shards
