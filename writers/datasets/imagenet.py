"""ImageNet (ILSVRC 2012), 1000 classes: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG."""

from dataclasses import replace
from pathlib import Path

from writers.dataset import DatasetSpec
from writers.errors import UserError
from writers.source import Source, SplitSettings, open_source
from writers.subset import named

SPEC = DatasetSpec(
    name="imagenet", title="ImageNet (ILSVRC 2012)", metric="top1", num_classes=1000,
    split_sizes={"train": 1_281_167, "val": 50_000}, licence="research and education only, by agreement",
    citation="Russakovsky et al. 2015, ImageNet Large Scale Visual Recognition Challenge",
    where="image-net.org, after registration; as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG")


def open(path: Path, settings: SplitSettings) -> Source:
    """Labels follow the sorted WordNet ids. A tree may lack classes: a subset that needs them says so."""
    classes = named("in1000").classes
    assert classes is not None
    source = open_source(path, replace(settings, val=0.0), name="imagenet", classes=classes)    # val is its own, not carved
    has_val = {example.label for example in source.splits["val"]}
    if lacking := {example.label for example in source.splits["train"]} - has_val:
        raise UserError(f"{path}/val lacks {len(lacking)} of the classes that train has, such as "
                        f"{source.classes[min(lacking)]}.", "The accuracies to compare with are of ImageNet's own val, whole.")
    return source
