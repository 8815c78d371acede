"""A corpus for the benchmarks: tiles of 500 x 375 pixels, JPEG 4:2:0 of 86 to 112 kB, out of real photographs.

    python -m benchmarks.photo_tiles DIR [--num 1536] [--photos FOLDER | --made-up]

Without --photos they come from Debian's wallpaper packages (mate-backgrounds, GPL-2+ and CC-BY-SA-4.0;
lomiri-wallpapers-16.04, CC-BY-4.0, CC-BY-SA and CC0), fetched with apt-get. The tiles are ImageNet-like in size, bytes and
detail: each photo is first shrunk, by a factor drawn from 2 to 4, so that a tile shows things and not grain.

--made-up needs no network and no photographs: coloured shapes and noise with the 1/f spectrum that natural images have, as
many bytes as the photographs' tiles. `about.json` says which of them a corpus is of.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PACKAGES = ("mate-backgrounds", "lomiri-wallpapers-16.04")
WIDTH, HEIGHT = 500, 375
FEWEST_BYTES, MOST_BYTES = 86_000, 112_000
QUALITIES = (98, 96, 94, 92, 90, 87, 84, 80)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=1536)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--made-up", action="store_true")
    arguments = parser.parse_args()
    if arguments.made_up:
        write(
            arguments.folder,
            arguments.num,
            (made_up(number) for number in range(arguments.num)),
            {"from": "made up: shapes and 1/f noise, no photographs"},
        )
        return
    with tempfile.TemporaryDirectory() as scratch:
        photos = arguments.photos or fetch(Path(scratch))
        files = sorted(
            path
            for path in photos.rglob("*")
            if path.suffix.lower() in (".jpg", ".jpeg", ".png") and not path.is_symlink()
        )
        if not files:
            sys.exit(f"{photos} has no photographs.")
        write(
            arguments.folder,
            arguments.num,
            tiles(files, arguments.num),
            {
                "num_photos": len(files),
                "from": str(arguments.photos.name) if arguments.photos else list(PACKAGES),
            },
        )


def write(folder: Path, num_tiles: int, tiles: Iterable[bytes], about: dict[str, Any]) -> None:
    """The tiles and, when there are enough, `about.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = []
    for number, tile in enumerate(tiles):
        (folder / f"{number:05}.jpg").write_bytes(tile)
        sizes.append(len(tile))
    if len(sizes) < num_tiles:
        sys.exit(
            f"The photographs give {len(sizes)} tiles of {FEWEST_BYTES:,} to {MOST_BYTES:,} bytes, not {num_tiles}."
        )
    about = {"num_tiles": len(sizes), "mean_bytes": sum(sizes) / len(sizes), **about}
    (folder / "about.json").write_text(json.dumps(about, indent=1))


def fetch(folder: Path) -> Path:
    """Debian's packages, unpacked below `folder`."""
    for package in PACKAGES:
        for command in (
            ["apt-get", "download", package],
            ["sh", "-c", f"dpkg -x {package}_*.deb photos"],
        ):
            ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if ended.returncode:
                sys.exit(
                    f"{package} cannot be fetched ({ended.stderr.strip()}); name a folder of photographs with --photos."
                )
    return folder / "photos"


def tiles(files: list[Path], num_tiles: int) -> Iterator[bytes]:
    """Up to `num_tiles` tiles, from each photo in turn as many: the same for the same photos."""
    found = 0
    draws = random.Random(0)
    sources = [_of_photo(path, draws.randrange(2**32)) for path in files]
    while sources and found < num_tiles:
        for source in list(sources):
            tile = next(source, None)
            if tile is None:
                sources.remove(source)
            elif found < num_tiles:
                found += 1
                yield tile


def _of_photo(path: Path, seed: int) -> Iterator[bytes]:
    draws = random.Random(seed)
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as image:
        photo = image.convert("RGB").reduce(2)
    for _ in range(400):
        shrink = draws.uniform(1, 2)  # on top of the halving
        width, height = round(WIDTH * shrink), round(HEIGHT * shrink)
        if width > photo.width or height > photo.height:
            continue
        left, top = (
            draws.randrange(photo.width - width + 1),
            draws.randrange(photo.height - height + 1),
        )
        tile = photo.resize(
            (WIDTH, HEIGHT), Image.Resampling.LANCZOS, (left, top, left + width, top + height)
        )
        if (file := _of_wanted_size(tile)) is not None:
            yield file


def made_up(seed: int) -> bytes:
    """A tile without a photograph."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.full((HEIGHT, WIDTH, 3), random.uniform(60, 200, 3))
    for _ in range(
        random.integers(8, 20)
    ):  # things: ellipses, each in its colour with a slope of light
        (left, top), (wide, high) = random.uniform(0, (WIDTH, HEIGHT)), random.uniform(20, 160, 2)
        inside = ((x - left) / wide) ** 2 + ((y - top) / high) ** 2 < 1
        pixels[inside] = (
            random.uniform(10, 245, 3) + random.normal(0, 0.3) * (x - left)[inside, None]
        )
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]) + 1 / WIDTH
    noise = np.fft.irfft2(
        np.fft.rfft2(random.normal(size=(HEIGHT, WIDTH))) / frequency, (HEIGHT, WIDTH)
    )
    noise *= 1 / noise.std()
    for contrast in (
        16,
        24,
        12,
        32,
        8,
        48,
    ):  # texture; the first that some JPEG quality brings to the wanted size
        tile = Image.fromarray(
            np.clip(pixels + contrast * noise[..., None], 0, 255).astype(np.uint8)
        )
        if (file := _of_wanted_size(tile)) is not None:
            return file
    raise AssertionError(f"no contrast gives tile {seed} the wanted size")


def _of_wanted_size(tile: Image.Image) -> bytes | None:
    """A JPEG of it; None where no quality gives it so many bytes."""
    lowest, highest = 0, len(QUALITIES)  # bisection: bytes fall along QUALITIES
    while lowest < highest:
        middle, file = (lowest + highest) // 2, io.BytesIO()
        tile.save(file, "JPEG", quality=QUALITIES[middle], subsampling="4:2:0")
        if FEWEST_BYTES <= file.tell() <= MOST_BYTES:
            return file.getvalue()
        lowest, highest = (middle + 1, highest) if file.tell() > MOST_BYTES else (lowest, middle)
    return None


if __name__ == "__main__":
    main()
