"""ImageNet (ILSVRC 2012), 1000 classes, in any form that `writers/sources/` reads.

    train/<wnid>/*.JPEG  val/<wnid>/*.JPEG                      a tree, or a .tar or .zip of it
    ILSVRC2012_img_train.tar  ILSVRC2012_img_val.tar            as distributed by image-net.org
    ILSVRC/Data/CLS-LOC/train/<wnid>/  ILSVRC/Data/CLS-LOC/val/*.JPEG      as on Kaggle
    data/train-*.parquet  data/validation-*.parquet             ILSVRC/imagenet-1k of Hugging Face
    imagenet1k-train-*.tar  imagenet1k-validation-*.tar         timm/imagenet-1k-wds of Hugging Face

All forms give the same `.beton` files, byte for byte, if the image files are the same. In some
copies of ImageNet, they are not: the images were encoded again.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from writers.dataset import DatasetSpec
from writers.errors import UserError
from writers.formats.imagenet_val import val_classes
from writers.source import Source, SplitSettings, open_source
from writers.subset.lists import imagenet_classes

SPEC = DatasetSpec(
    name="imagenet",
    title="ImageNet (ILSVRC 2012)",
    metric="top1",
    num_classes=1000,
    often_partial=True,
    split_sizes={"train": 1_281_167, "val": 50_000},
    license="research and education only, by agreement",
    citation="Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge",
    where=(
        "image-net.org, after registration: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
        "as they are, or the tree"
    ),
)


def open(path: Path, settings: SplitSettings) -> Source:
    """Open the dataset at `path`; `writers/dataset.py` describes this function."""
    return open_all([path], settings)


def open_all(paths: Sequence[Path], settings: SplitSettings) -> Source:
    """Open ImageNet from one or more sources. Labels follow the sorted WordNet ids.

    Classes may be missing from train and val; a subset that needs one of them is refused later.

    Raises:
        UserError: the images cannot be opened, or val lacks a class that train has.
    """
    own = replace(settings, val=0.0)  # val is the official one, never drawn from train
    source = open_source(
        paths,
        own,
        name="imagenet",
        classes=imagenet_classes(),
        classes_of=lambda keys: val_classes(keys, paths),
    )
    has_val = {example.label for example in source.splits["val"]}
    if lacking := {example.label for example in source.splits["train"]} - has_val:
        raise UserError(
            f"{' and '.join(map(str, paths))}: val lacks {len(lacking)} of the classes that train "
            "has, such as "
            f"{source.classes[min(lacking)]}.",
            "Published accuracies are of the whole official val. Give it by another --source or "
            "in the same folder.",
        )
    return source
