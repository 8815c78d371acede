"""Helpers of several test modules: paths, fabricated results, tiny datasets and fake stages."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
