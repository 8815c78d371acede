"""Settings of a dataset: a recipe's source, or one of its targets."""

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from harness.config.base import JSON, MAX_LABEL, Fraction, Label, Metric, Settings
from writers import names
from writers.beton.encoding import Encoding
from writers.dataset import spec_of
from writers.folder_rules import FolderRules, SplitFolders
from writers.labels.kinds import ONE_LABEL, kind_of_metric
from writers.labels.settings import LabelTable
from writers.regular_file import InputPath
from writers.text_names import printable

BETON = "beton"  # existing `.beton` files, whose manifests state the kind of their labels


class DataSettings(Settings):
    """A dataset: a file of `writers/datasets/`, or any tree of class folders.

    Attributes:
        dataset: name in `writers/datasets`; `folder` for any tree, or tar, of class folders;
            `beton` for existing `.beton` files.
        path: folder or archive, relative to $HARNESS_RAW. None means $HARNESS_RAW/<dataset>.
        name: name in reports. None means `dataset`, or the stem of `path` for `folder`.
        val: fraction of train that becomes val, stratified and seeded, if the dataset has no val.
        test: fraction of train that becomes test, if the dataset has no test (targets only).
        split_seed: seed of the splits that are drawn from train.
        protocol: name of splits in the dataset's SPEC.protocols. None means its default splits.
        accept_counts: write the dataset although its counts differ from the published counts; the
            manifest records the differences.
        on_error: what to do if an image cannot be read, or if its annotation is damaged or belongs
            to an image of another size. fail: write nothing. skip: leave the image out; the
            manifest lists such images with the reasons.
        metric: measure that chooses settings on val and is reported. None means the dataset's own
            (`folder`: top1; `beton`: the metric that fits its labels).
        encoding: how images are stored. Settings that are not given here, or all if this is None,
            are taken from the recipe.
        labels: for `folder`: table of the labels: a file, a list of files, or settings, relative to
            $HARNESS_RAW. None means that the labels are the folders of the images, or are in the
            records of shards. If images have several labels (targets only), set `several: true` in
            the table, or `metric: map11`.
        split_folders: for `folder`. auto: folders named train, val, test and the like are splits.
            never: they are classes.
        class_level: for `folder`: level of the class folders; 1 is directly below the splits. None
            means 1, but it is then an error if the level is ambiguous.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"on_error", "labels"})

    dataset: str = "folder"
    path: Annotated[str, InputPath(folder=True)] | None = None
    name: Label | None = None
    val: Fraction = 0.1
    test: Fraction = 0.2
    split_seed: int = 0
    protocol: str | None = None
    accept_counts: bool = False
    on_error: Literal["fail", "skip"] = "fail"
    metric: Metric | None = None
    encoding: Encoding | None = None
    labels: LabelTable | None = None
    split_folders: SplitFolders = "auto"
    class_level: Annotated[int, Field(ge=1)] | None = None

    @field_validator("dataset")
    @classmethod
    def _normalize_name(cls, dataset: str) -> str:
        return names.normalize(dataset)  # clevr-count is clevr_count

    def resolved_for(self, splits: Collection[str]) -> JSON:
        """Dump every setting that has an effect on writing these splits."""
        settings = self.resolved()
        unused = {"encoding"} | ({"test"} if "test" not in splits else set())
        if not self._has_several_by_metric:
            unused.add("metric")
        if self.folders.is_default:
            unused |= {"split_folders", "class_level"}
        return {name: settings[name] for name in settings if name not in unused}

    @property
    def folders(self) -> FolderRules:
        """How a tree of folders is read: which folders are splits, and which are classes."""
        return FolderRules(self.split_folders, self.class_level)

    @property
    def own_metric(self) -> Metric:
        """Metric of the dataset if the recipe sets none.

        The metric of a `folder` depends on whether an image may have several labels, which the
        recipe declares by `metric` or by `labels`. `harness.config.label_kinds` sets the metric of
        betons from their manifests.
        """
        if self.is_beton and self.metric is not None and kind_of_metric(self.metric) != ONE_LABEL:
            return self.metric
        if self._has_several_by_metric or (self.labels is not None and self.labels.several):
            return "map11"
        return spec_of(self.dataset).metric

    @property
    def _has_several_by_metric(self) -> bool:
        """True if `metric` declares that images of a folder have several labels."""
        is_open = self.labels is None or self.labels.several is None
        return is_open and self.dataset == "folder" and self.metric == "map11"

    @property
    def is_beton(self) -> bool:
        """True if the dataset is a beton, whose labels may be of any kind."""
        return self.dataset == BETON

    @property
    def has_boxes(self) -> bool:
        """True if images have boxes of objects. Only methods of detection read them."""
        return self.own_metric == "map50_11"

    @property
    def label(self) -> str:
        """Name of the dataset in names of stages and in reports."""
        if self.name:
            return self.name
        if self.dataset == "folder" and self.path:
            stem = self.path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
            return printable(stem)[:MAX_LABEL] or self.dataset
        return self.dataset
