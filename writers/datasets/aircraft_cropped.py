"""FGVC-Aircraft without the 20-pixel banner at the bottom that names each photograph's owner.

Images are decoded and encoded again, so the storage format `passthrough` has no effect on them.
"""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from writers.datasets import aircraft
from writers.source import Source, SplitSettings
from writers.synthetic.reencode import RedrawnFiles

BANNER = 20  # height of the banner in pixels

SPEC = replace(
    aircraft.SPEC,
    name="aircraft_cropped",
    title="FGVC-Aircraft (variants), without the banner",
    folder="aircraft",
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    source = aircraft.open(path, settings)
    source.name = SPEC.name
    source.files = RedrawnFiles(source.files, lambda name: True, _without_banner)
    return source


def _without_banner(image: Image.Image) -> Image.Image:
    return image.crop((0, 0, image.width, max(1, image.height - BANNER)))
