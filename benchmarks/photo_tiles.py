"""Make a corpus for the benchmarks: JPEG tiles of 500 x 375 pixels, 4:2:0, 86 to 112 kB.

    python -m benchmarks.photo_tiles DIR [--num 1536] [--photos FOLDER | --made-up]

Without --photos the tiles are cut from Debian's wallpaper packages (mate-backgrounds, GPL-2+ and
CC-BY-SA-4.0; lomiri-wallpapers-16.04, CC-BY-4.0, CC-BY-SA and CC0), fetched with apt-get. The tiles
resemble ImageNet's images in side lengths, file size and detail. Each tile is shrunk by a random
factor of 2 to 4, so that it shows objects and not grain.

--made-up needs neither a network nor photographs. It draws colored shapes and noise with the 1/f
spectrum of natural images, compressed to the same range of file sizes. `about.json` records the
origin.
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
MIN_BYTES, MAX_BYTES = 86_000, 112_000
QUALITIES = (98, 96, 94, 92, 90, 87, 84, 80)


def main() -> None:
    """Write the tiles to the folder on the command line."""
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
    """Write the tiles, then `about.json`. Exits if there are fewer than num_tiles."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = []
    for number, tile in enumerate(tiles):
        (folder / f"{number:05}.jpg").write_bytes(tile)
        sizes.append(len(tile))
    if len(sizes) < num_tiles:
        sys.exit(
            f"The photographs yield only {len(sizes)} of {num_tiles} tiles of {MIN_BYTES:,} to "
            f"{MAX_BYTES:,} bytes."
        )
    about = {"num_tiles": len(sizes), "mean_bytes": sum(sizes) / len(sizes), **about}
    (folder / "about.json").write_text(json.dumps(about, indent=1))


def fetch(folder: Path) -> Path:
    """Download and unpack Debian's packages below the folder; return the folder of photos."""
    for package in PACKAGES:
        for command in (
            ["apt-get", "download", package],
            ["sh", "-c", f"dpkg -x {package}_*.deb photos"],
        ):
            process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if process.returncode:
                sys.exit(
                    f"{package} cannot be fetched ({process.stderr.strip()}). Name a folder of "
                    "photographs with --photos."
                )
    return folder / "photos"


def tiles(files: list[Path], num_tiles: int) -> Iterator[bytes]:
    """Cut up to num_tiles tiles, evenly from all photos; deterministic for the same photos."""
    num_cut = 0
    draws = random.Random(0)
    sources = [_tiles_of_photo(path, draws.randrange(2**32)) for path in files]
    while sources and num_cut < num_tiles:
        for source in list(sources):
            tile = next(source, None)
            if tile is None:
                sources.remove(source)
            elif num_cut < num_tiles:
                num_cut += 1
                yield tile


def _tiles_of_photo(path: Path, seed: int) -> Iterator[bytes]:
    draws = random.Random(seed)
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as image:
        photo = image.convert("RGB").reduce(2)
    for _ in range(400):
        shrink = draws.uniform(1, 2)  # factor in addition to the reduction by 2
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
        if (file := _compress(tile)) is not None:
            yield file


def made_up(seed: int) -> bytes:
    """Draw a tile without a photograph."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.full((HEIGHT, WIDTH, 3), random.uniform(60, 200, 3))
    # Objects: ellipses, each with a color and a brightness gradient.
    for _ in range(random.integers(8, 20)):
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
    # Texture: use the first contrast with which some JPEG quality yields the right size.
    for contrast in (16, 24, 12, 32, 8, 48):
        tile = Image.fromarray(
            np.clip(pixels + contrast * noise[..., None], 0, 255).astype(np.uint8)
        )
        if (file := _compress(tile)) is not None:
            return file
    raise AssertionError(f"no contrast gives tile {seed} the right size")


def _compress(tile: Image.Image) -> bytes | None:
    """Compress to a JPEG of the right size; None if no quality yields it."""
    # Bisect, because the size falls along QUALITIES.
    lowest, highest = 0, len(QUALITIES)
    while lowest < highest:
        middle, file = (lowest + highest) // 2, io.BytesIO()
        tile.save(file, "JPEG", quality=QUALITIES[middle], subsampling="4:2:0")
        if MIN_BYTES <= file.tell() <= MAX_BYTES:
            return file.getvalue()
        lowest, highest = (middle + 1, highest) if file.tell() > MAX_BYTES else (lowest, middle)
    return None


if __name__ == "__main__":
    main()
