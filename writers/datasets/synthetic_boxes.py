"""Generated scenes with boxes around one to four objects of 5 classes: a tiny detection dataset."""

from pathlib import Path

from writers.dataset import DatasetSpec
from writers.datasets._voc import Voc
from writers.datasets._voc_boxes import LISTS, is_read, read_splits
from writers.formats.files import open_files
from writers.source import Source, SplitSettings, carve
from writers.synthetic.version import VERSION

NUM_IMAGES = {"trainval": 100, "test": 50}

SPEC = DatasetSpec(
    name="synthetic_boxes",
    title="Synthetic scenes with boxes",
    metric="map50_11",
    num_classes=5,
    split_sizes={"train": NUM_IMAGES["trainval"], "test": NUM_IMAGES["test"]},
    license="MIT, as this program",
    where="generated on first use, in the given folder",
    generated=True,
    version=VERSION,
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function.

    The dataset is generated first if it does not exist. Raises UserError if `path` contains other
    files.
    """
    from writers.synthetic.boxed_scenes import CLASSES, write_scenes
    from writers.synthetic.generate import make_folder

    stamp = f"{SPEC.name}, version {VERSION}: {NUM_IMAGES}.\n"
    make_folder(path, stamp, lambda folder: write_scenes(folder, SPEC.name, NUM_IMAGES))
    accepted = "Remove the folder; it is then generated again."
    voc = Voc(open_files(path, is_read), f"{LISTS}trainval.txt", path, accepted)
    train, test = read_splits(voc, ("trainval", "test"), CLASSES)
    return Source(
        SPEC.name,
        path.name,
        list(CLASSES),
        carve(train, [], test, settings),
        voc.files,
        voc.prefix,
        multi_label=True,
    )
