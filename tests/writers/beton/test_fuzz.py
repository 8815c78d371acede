"""A thousand damaged `.beton` files: each is read correctly or raises UserError.

None may crash, hang, or return another sample's label.
"""

import dataclasses
import json
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from loaders import open_loader
from loaders.plan import LoaderPlan
from loaders.reader import open_samples
from tests.helpers.pictures import picture
from tests.helpers.reseal import reseal
from writers.beton.encoding import Encoding
from writers.beton.layout import BLOB, DIGEST_BYTES, FIRST_ROW, HEADER, ID, SAMPLE
from writers.beton.store import Manifest, manifest_path, open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.subset.spec import everything

NUM_SAMPLES = 24
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


@dataclasses.dataclass
class Whole:
    """A beton of small JPEGs and raw images, with its contents."""

    path: Path
    data: bytes
    manifest_text: str
    manifest: Manifest
    labels: dict[int, int]  # by id
    rows: np.ndarray
    sizes: np.ndarray

    def restore(self, region: str | None = None) -> None:
        """Restore one region, or the whole file if it is None or the file's size has changed.

        Writing all 4 MB after each damage would be slow.
        """
        manifest_path(self.path).write_text(self.manifest_text)
        if region is None or self.path.stat().st_size != len(self.data):
            self.path.write_bytes(self.data)
        elif region != "manifest":
            begin, end = self.regions[region]
            with self.path.open("r+b") as file:
                file.seek(begin)
                file.write(self.data[begin:end])

    @cached_property
    def regions(self) -> dict[str, tuple[int, int]]:
        """Return the first byte and the end of each part of the file."""
        rows = FIRST_ROW + NUM_SAMPLES * SAMPLE.itemsize
        digests, ids, table = (
            self.manifest.pages_end,
            self.manifest.ids_offset,
            self.manifest.table_offset,
        )
        first = int(self.rows["offset"].min())
        images = first + int(self.sizes.sum())
        assert table + NUM_SAMPLES * BLOB.itemsize == len(self.data)
        assert table == ids + NUM_SAMPLES * ID.itemsize
        assert ids == digests + NUM_SAMPLES * DIGEST_BYTES
        return {
            "header": (0, HEADER.itemsize),
            "fields": (HEADER.itemsize, FIRST_ROW),
            "rows": (FIRST_ROW, rows),
            "padding": (rows, first),
            "data": (first, images),
            "digests": (digests, ids),
            "ids": (ids, table),
            "table": (table, len(self.data)),
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("fuzz")
    for number in range(NUM_SAMPLES):
        path = folder / "tree" / f"class{number % 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, 100 + number, 30).save(path)
    source, file = (
        open_dataset("folder", folder / "tree", SplitSettings(val=0)),
        folder / "train.beton",
    )
    encoding = Encoding(format="mixed", compress_probability=0.7)
    manifest = write_split(source, "train", everything(source.classes), encoding, file)
    beton = open_beton(file)
    return Whole(
        file,
        file.read_bytes(),
        manifest_path(file).read_text(),
        manifest,
        dict(zip(beton.ids.tolist(), beton.labels.tolist(), strict=True)),
        beton.rows,
        beton.sizes,
    )


def damage(whole: Whole, region: str, random: np.random.Generator) -> None:
    """Change one to four bytes of the region; sometimes truncate or extend the file or manifest."""
    if region == "manifest":
        text = bytearray(whole.manifest_text.encode())
        for place in random.integers(0, len(text), random.integers(1, 4)):
            text[place] = (
                random.integers(32, 127) if random.random() < 0.8 else random.integers(256)
            )
        if random.random() < 0.1:
            text = text[: random.integers(len(text))]
        manifest_path(whole.path).write_bytes(text)
        return
    begin, end = whole.regions[region]
    data = bytearray(whole.data[begin:end])
    while data == whole.data[begin:end]:
        for place in random.integers(0, len(data), random.integers(1, 5)):
            flipped = data[place] ^ (1 << random.integers(8))
            data[place] = random.choice([random.choice(INTERESTING), random.integers(256), flipped])
    with whole.path.open("r+b") as file:
        file.seek(begin)
        file.write(data)
        if random.random() < 0.05:
            longer = len(whole.data) + random.integers(1, 100)
            file.truncate(random.integers(begin, end) if random.random() < 0.5 else longer)


def read(plan: LoaderPlan, whole: Whole) -> str:
    """Return `data` if each sample has its own label, or `refused`."""
    try:
        samples = open_samples(plan)
        assert {
            int(id_): int(label) for id_, label in zip(samples.ids, samples.labels, strict=True)
        } == whole.labels
        labels = []
        with open_loader(plan) as loader, loader.epoch(0) as batches:
            for images, batch_labels in batches:
                assert images.shape[1:] == (3, 16, 16)
                labels += batch_labels.tolist()
    except UserError as error:
        assert error.message
        return "refused"
    assert labels == [whole.labels[int(id_)] for id_ in samples.ids]
    return "data"


def outcomes(whole: Whole, backend: str, number: int) -> dict[str, set[str]]:
    """Damage the file `number` times, each time one region; return region -> results of `read`."""
    outcomes_of: dict[str, set[str]] = {}
    regions = [*whole.regions, "manifest"]
    plan = LoaderPlan(whole.path, batch_size=8, resolution=16, num_threads=1, backend=backend)
    for seed in range(number):
        region = regions[seed % len(regions)]
        damage(whole, region, np.random.default_rng([seed, number]))
        outcomes_of.setdefault(region, set()).add(read(plan, whole))
        whole.restore(region)
    assert read(plan, whole) == "data"
    return outcomes_of


@pytest.mark.timeout(900, method="signal")
@pytest.mark.parametrize(("backend", "number"), [("reference", 800), ("ffcv", 200)])
def test_a_damaged_beton_is_refused_or_read_correctly(whole: Whole, backend: str, number: int):
    outcomes_of = outcomes(whole, backend, number)
    tables = ("header", "fields", "rows", "digests", "ids", "table", "manifest")
    # Raw pixels, and JPEGs that decode to different pixels.
    assert "data" in outcomes_of.pop("data")
    assert "data" in outcomes_of.pop("padding")  # never read
    assert outcomes_of == {region: {"refused"} for region in tables}


@pytest.mark.timeout(900, method="signal")
def test_invalid_tables_with_valid_digests_are_refused(whole: Whole):
    """Digests match here, so that readers must check the numbers as well."""
    plan = LoaderPlan(whole.path, batch_size=8, resolution=16, num_threads=1, backend="reference")
    num_refused = 0
    for seed in range(90):
        damage(whole, ("rows", "table", "fields")[seed % 3], np.random.default_rng([seed, 5]))
        if whole.path.stat().st_size == len(whole.data):
            reseal(whole.path)
        try:
            samples = open_samples(plan)
            list(open_loader(plan).epoch(0))
            assert len(samples) == NUM_SAMPLES and samples.labels.max() < 4
        except UserError:
            num_refused += 1
        assert isinstance(verify(whole.path, num_threads=1), list)
        whole.restore()
    assert num_refused > 60  # others change no number that is checked, such as a valid label


def test_verify_finds_each_changed_byte_of_each_part(whole: Whole):
    random = np.random.default_rng(9)
    for region, (begin, end) in whole.regions.items():
        for place in {begin, end - 1, *random.integers(begin, end, 3).tolist()}:
            data = bytearray(whole.data)
            data[place] ^= 1 << random.integers(8)
            whole.path.write_bytes(data)
            assert verify(whole.path, num_threads=1) != [], (region, place)
    whole.restore()
    for place in random.integers(0, len(whole.manifest_text), 30).tolist():
        text = bytearray(whole.manifest_text.encode())
        text[place] ^= 1
        manifest_path(whole.path).write_bytes(text)
        same = _same_json(text, whole.manifest_text)
        assert (verify(whole.path, num_threads=1) == []) == same, text[place - 20 : place + 20]
    whole.restore()
    assert verify(whole.path) == []


def _same_json(text: bytearray, other: str) -> bool:
    """Return True if only white space differs."""
    try:
        return bool(json.loads(text) == json.loads(other))
    except ValueError:
        return False
