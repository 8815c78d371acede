"""The images that the benchmarks run on: photo tiles, or a person's own folder of JPEG files."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.benches._common import ROOT, checkout_first
from writers.errors import UserError

if TYPE_CHECKING:
    from writers.source import Source


def photo_tiles(scratch: Path) -> Path:
    """The photo tiles, made on first use. Raises UserError where they cannot be."""
    tiles = scratch / "tiles"
    if not (tiles / "about.json").is_file():
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.photo_tiles", str(tiles)],
            cwd=ROOT,
            text=True,
            stderr=subprocess.PIPE,
            env=checkout_first(),
        )
        if ended.returncode:
            raise UserError(
                "The photo tiles cannot be made: " + ended.stderr.strip().splitlines()[-1],
                "Name a folder of JPEG files with --corpus, or make tiles without photographs: "
                f"python -m benchmarks.photo_tiles {tiles} --made-up",
            )
    return tiles


def described(corpus: Path) -> dict[str, Any]:
    """What the generator says of its tiles; of other folders, only their name."""
    about = corpus / "about.json"
    return dict(json.loads(about.read_text())) if about.is_file() else {"from": corpus.name}


def linked(corpus: Path, scratch: Path) -> Path:
    """The corpus as class folders of links, whatever its own layout: every JPEG below it, in the class of its folder.

    Raises UserError for a folder without any.
    """
    files = sorted(path for path in corpus.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise UserError(f"{corpus} has no JPEG files.")
    listing = "\n".join(f"{path} {path.stat().st_size}" for path in files)
    folder = scratch / "corpus" / hashlib.sha256(listing.encode()).hexdigest()[:16]
    for path in files:
        link = (
            folder
            / (path.parent.name if path.parent != corpus else "photos")
            / f"{path.stem}{path.suffix.lower()}"
        )
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


def many_times(source: "Source", copies: int) -> "Source":
    """A source of ten classes in which each image of the train split is there so many times, under names of its own."""
    examples = [
        replace(example, name=f"{number % 10}/{number}", label=number % 10)
        for number, example in enumerate(source.splits["train"] * copies)
    ]
    return replace(source, classes=[str(label) for label in range(10)], splits={"train": examples})
