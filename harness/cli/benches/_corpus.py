"""The images that the benchmarks run on: tiles cut from photographs, or a folder of JPEG files."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import console
from harness.cli.benches._checkout import ROOT, checkout_environment
from writers.errors import UserError

if TYPE_CHECKING:
    from writers.source import Source


def make_photo_tiles(scratch: Path) -> Path:
    """Return the folder of photo tiles; make them if they do not exist.

    Raises:
        UserError: The generator failed.
    """
    tiles = scratch / "tiles"
    if not (tiles / "about.json").is_file():
        console.err().print(f"Making photo tiles in {tiles}, once; this takes minutes.")
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.photo_tiles", str(tiles)],
            cwd=ROOT,
            text=True,
            stderr=subprocess.PIPE,
            env=checkout_environment(),
        )
        if process.returncode:
            raise UserError(
                "The photo tiles cannot be made: " + process.stderr.strip().splitlines()[-1],
                "Name a folder of JPEG files with --corpus, or make tiles without photographs: "
                f"python -m benchmarks.photo_tiles {tiles} --made-up",
            )
    return tiles


def describe_corpus(corpus: Path) -> dict[str, Any]:
    """Return the record (about.json) of generated tiles; for other folders, their name."""
    about = corpus / "about.json"
    return dict(json.loads(about.read_text())) if about.is_file() else {"from": corpus.name}


def link_corpus(corpus: Path, scratch: Path) -> Path:
    """Return a folder of class folders with links to the JPEG files below the corpus.

    The class of a file is the name of its folder; files directly in the corpus get `photos`. If
    two files agree in class and name, only the first gets a link.

    Raises:
        UserError: The corpus has no JPEG files.
    """
    files = sorted(path for path in corpus.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise UserError(f"{corpus} has no JPEG files.", "Name a folder of photos with --corpus.")
    listing = "\n".join(f"{path} {path.stat().st_size}" for path in files)
    folder = scratch / "corpus" / hashlib.sha256(listing.encode()).hexdigest()[:16]
    for path in files:
        class_name = path.parent.name if path.parent != corpus else "photos"
        link = folder / class_name / f"{path.stem}{path.suffix.lower()}"
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


def recode_corpus(photos: Path, subsampling: str, quality: int = 90) -> Path:
    """Encode the JPEGs of a folder again with another chroma subsampling; return the new folder.

    Args:
        photos: Folder of class folders, from `link_corpus`.
        subsampling: 4:4:4, 4:2:2 or 4:2:0.
        quality: JPEG quality of the new files.
    """
    from PIL import Image

    folder = photos.with_name(f"{photos.name}_{subsampling.replace(':', '')}_{quality}")
    for path in sorted(photos.glob("*/*")):
        copy = folder / path.parent.name / path.name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            unfinished = copy.with_suffix(".unfinished")
            with Image.open(path) as image:
                image.convert("RGB").save(
                    unfinished, "JPEG", quality=quality, subsampling=subsampling
                )
            unfinished.replace(copy)
    return folder


def repeat_source(source: "Source", num_copies: int) -> "Source":
    """Return a source with every training image num_copies times, in ten classes.

    The copies have different names.
    """
    examples = [
        replace(example, name=f"{number % 10}/{number}", label=number % 10)
        for number, example in enumerate(source.splits["train"] * num_copies)
    ]
    return replace(source, classes=[str(label) for label in range(10)], splits={"train": examples})
