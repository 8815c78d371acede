"""VTAB's protocol: drawn splits, and its small images in a beton."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.helpers.vtab_trees import make_svhn
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.formats.layout_search import shares
from writers.source import Example, Source, carve
from writers.subset.spec import everything

SETTINGS = SplitSettings(val=0.1)


def sizes(source: Source) -> dict[str, int]:
    return {split: len(examples) for split, examples in source.splits.items()}


# Published images per class.
EUROSAT_SIZES = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]


@pytest.mark.parametrize(("name", "sizes"), [("eurosat", EUROSAT_SIZES), ("resisc45", [700] * 45)])
def test_fixed_draws_have_the_benchmarks_counts(name: str, sizes: list[int]):
    examples = [
        Example(f"{label}/{number}", label, f"{label}/{number}")
        for label, size in enumerate(sizes)
        for number in range(size)
    ]
    num_drawn = {
        split: len(part) for split, part in carve(examples, [], [], shares(0.2, 0.2)).items()
    }
    assert num_drawn == import_module(f"writers.datasets.{name}").SPEC.split_sizes


def test_vtab_draws_800_and_200_with_every_class(tmp_path: Path):
    # Besides class 0, there are nine classes of one image each.
    labels = np.concatenate([np.zeros(1090, int), np.arange(10)])
    for split in ("train", "test"):
        savemat(
            tmp_path / f"{split}_32x32.mat",
            {"X": np.zeros((32, 32, 3, 1100), np.uint8), "y": labels[:, None] + 1},
        )
    vtab = SplitSettings(val=0.2, protocol="vtab")
    source = open_dataset("svhn", tmp_path, vtab)
    assert sizes(source) == {"train": 800, "val": 200, "test": 1100} and source.protocol == "vtab"
    whole = open_dataset("svhn", tmp_path, SplitSettings(val=0.2))
    for split in ("train", "val"):
        assert {e.key for e in source.splits[split]} < {e.key for e in whole.splits[split]}
    assert {e.label for e in source.splits["train"]} == {e.label for e in whole.splits["train"]}
    assert open_dataset("svhn", tmp_path, vtab).splits == source.splits
    other = open_dataset("svhn", tmp_path, SplitSettings(val=0.2, seed=1, protocol="vtab"))
    assert (
        len({e.key for e in other.splits["train"]} & {e.key for e in source.splits["train"]}) < 790
    )
    manifest = write_split(
        source, "val", everything(source.classes), Encoding(), tmp_path / "val.beton"
    )
    assert manifest.protocol == "vtab" and manifest.num_samples == 200
    with pytest.raises(UserError, match="800 images of train of svhn, which has 50"):
        open_dataset("svhn", make_svhn(tmp_path), vtab)
    with pytest.raises(UserError, match=r"no splits called 'salman'.\nIt has vtab"):
        open_dataset("svhn", tmp_path, SplitSettings(protocol="salman"))
    with pytest.raises(UserError, match="its own splits only"):
        open_dataset("folder", tmp_path, SplitSettings(protocol="vtab"))


def test_small_images_are_written_raw(tmp_path: Path):
    source = open_dataset("svhn", make_svhn(tmp_path), SETTINGS)
    manifest = write_split(
        source, "test", everything(source.classes), Encoding(), tmp_path / "test.beton"
    )
    assert (manifest.num_raw, manifest.num_jpeg, manifest.max_width) == (20, 0, 32)
    assert sorted(open_beton(tmp_path / "test.beton").labels.tolist()) == sorted(
        e.label for e in source.splits["test"]
    )
