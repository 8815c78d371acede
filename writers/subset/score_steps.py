"""Steps that select source classes or images by scores of models.

Scores come from the recipe's models (`by: reference`) or from a CSV file. The formulas, with
references to papers, are in `writers/subset/formulas/`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field, model_validator

from writers.errors import UserError
from writers.regular_file import InputPath, existing_file
from writers.subset.base import (
    REFERENCE,
    Amount,
    Count,
    Selection,
    Step,
    SubsetContext,
    from_number,
    num_of,
    with_digest,
)
from writers.subset.image_steps import num_left, with_chooser
from writers.subset.scores import (
    ClassScores,
    ImageScores,
    Method,
    Part,
    ScoreRequest,
    read_class_scores,
    read_image_scores,
)
from writers.text_names import counted, preview


class ByScores(Step):
    """Settings of every step that selects by scores.

    Attributes:
        by: `reference` for scores of the recipe's models, or a CSV file of scores.
        sha256: digest of the file that `by` names; filled in when the file is first read.
    """

    by: Annotated[str, InputPath(is_checked_on_load=True)] = REFERENCE
    sha256: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_digest(cls, value: Any) -> Any:
        return with_digest(value, "by", existing_file, "file of scores")

    @property
    def is_from_recipe(self) -> bool:
        """True if the recipe computes the scores."""
        return self.by == REFERENCE

    def request_for(
        self,
        method: Method,
        targets: tuple[str, ...] = (),
        clusters: int | None = None,
        seed: int = 0,
    ) -> ScoreRequest | None:
        """Return the request for scores of the recipe, or None for scores of a file."""
        return ScoreRequest(method, targets, clusters, seed) if self.is_from_recipe else None


class ImagesByScore(ByScores):
    """Which training images to keep by their scores.

    Attributes:
        keep: hardest, easiest or middle: the images with the highest, lowest or middle scores.
        share: fraction of the training images to keep.
        balanced: keep this fraction of each label's images. False: of all images together.
        seed: seed of the order of equal scores.
    """

    keep: Part = "hardest"
    share: Annotated[float, Field(gt=0, lt=1)]
    balanced: bool = False
    seed: int = 0


class ClusteredImages(ImagesByScore):
    """Which training images to keep by their distance to the center of their cluster.

    Attributes:
        clusters: number of clusters. None means the number of classes of the source.
    """

    clusters: Count | None = None


class ImageStep(Step):
    """Keep a part of the training images by scores. The step's key names the scoring method."""

    @property
    def settings(self) -> ImagesByScore:
        """The value of the step's key."""
        return cast(ImagesByScore, getattr(self, self._method))

    @property
    def request(self) -> ScoreRequest | None:
        """See `Step.request`."""
        settings = self.settings
        clusters = settings.clusters if isinstance(settings, ClusteredImages) else None
        return settings.request_for(self._method, clusters=clusters)

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        return _part(self, selection, context)

    @property
    def _method(self) -> Method:
        (key,) = type(self).model_fields
        return cast(Method, key)


class El2n(ImageStep):
    """Keep training images by the length of their error vector early in training."""

    el2n: Annotated[ImagesByScore, from_number("share")]


class Forgetting(ImageStep):
    """Keep training images by how often training unlearns them."""

    forgetting: Annotated[ImagesByScore, from_number("share")]


class Prototypes(ImageStep):
    """Keep training images by their distance to the center of their k-means cluster."""

    prototypes: Annotated[ClusteredImages, from_number("share")]


class ForTarget(ByScores):
    """Settings of every step that selects for a target (a downstream dataset).

    Attributes:
        target: targets of the recipe, with equal weight; empty if `by` is a file.
    """

    target: str | tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.is_from_recipe and not self.target:
            raise ValueError("name the target that the selection is for, such as target: pets")
        if not self.is_from_recipe and self.target:
            raise ValueError("target has no effect with a file of scores, which is for one target")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets."""
        return (self.target,) if isinstance(self.target, str) else self.target


class KeptClasses(ForTarget):
    """A number of classes (integer) or a fraction below 1.

    Attributes:
        keep: the number or the fraction.
    """

    keep: Amount


class LabelMapping(Step):
    """Keep the classes that a model of the source predicts most often on a target's images."""

    label_mapping: KeptClasses

    @property
    def request(self) -> ScoreRequest | None:
        """See `Step.request`."""
        return self.label_mapping.request_for("label_mapping", self.label_mapping.targets)

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        scores = _class_scores(self.request, self.label_mapping, selection, context)
        ranked = scores.ranked(selection.classes)
        return selection.keep(set(ranked[: num_of(self.label_mapping.keep, len(ranked))]))


class KeptClusters(ForTarget):
    """A number of clusters of source images (integer) or a fraction below 1.

    Attributes:
        keep: the number or the fraction.
        clusters: number of clusters to make. None means the number of classes of the source.
        seed: seed of the clusters.
    """

    keep: Amount
    clusters: Count | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _check_clusters(self) -> Self:
        if not self.is_from_recipe and (self.clusters or self.seed):
            raise ValueError("clusters and seed have no effect with a file of scores")
        return self


class FeatureMapping(Step):
    """Keep the clusters of training images that are nearest to a target's images."""

    feature_mapping: KeptClusters

    @property
    def request(self) -> ScoreRequest | None:
        """See `Step.request`."""
        settings = self.feature_mapping
        return settings.request_for(
            "feature_mapping", settings.targets, settings.clusters, settings.seed
        )

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        from writers.subset import sampling

        scores = _image_scores(self.request, self.feature_mapping, context)
        if scores.clusters is None:
            raise UserError(
                f"{scores.source} has no clusters, which feature_mapping selects.",
                "Give a CSV file with the columns image, score and cluster.",
            )
        return with_chooser(
            selection,
            _described(self, scores),
            partial(sampling.in_top_clusters, scores, self.feature_mapping.keep),
            total=_unknown_total("a subset of clusters, whose sizes differ"),
        )


class ByInfluence(ForTarget):
    """Classes to keep or to drop by their influence on a target: by number, fraction or sign.

    One of `keep` and `drop` is given; the other is None.

    Attributes:
        keep: number or fraction of the classes with the highest influence, or positive.
        drop: number or fraction of the classes with the lowest influence, or negative.
        certain: for positive and negative: count only classes whose 95 % interval excludes zero.
    """

    keep: Amount | Literal["positive"] | None = None
    drop: Amount | Literal["negative"] | None = None
    certain: bool = False

    @model_validator(mode="after")
    def _check_exactly_one(self) -> Self:
        if (self.keep is None) == (self.drop is None):
            raise ValueError("give one of keep: 0.8, keep: positive, drop: 0.2, drop: negative")
        if self.certain and not isinstance(self.keep or self.drop, str):
            raise ValueError("certain goes with keep: positive or drop: negative")
        return self


class Influence(Step):
    """Keep or drop source classes by their influence on a target's accuracy."""

    influence: ByInfluence

    @property
    def request(self) -> ScoreRequest | None:
        """See `Step.request`."""
        return self.influence.request_for("influence", self.influence.targets)

    def apply(self, selection: Selection, context: SubsetContext) -> Selection:
        """See `Step.apply`."""
        settings = self.influence
        scores = _class_scores(self.request, settings, selection, context)
        if settings.keep == "positive":
            bound = scores.low_95 if settings.certain else scores.value
            return selection.keep({name for name in selection.classes if bound[name] > 0})
        if settings.drop == "negative":
            bound = scores.high_95 if settings.certain else scores.value
            return selection.keep({name for name in selection.classes if not bound[name] < 0})
        assert not isinstance(settings.keep, str) and not isinstance(settings.drop, str)
        ranked = scores.ranked(selection.classes)
        wanted = (
            len(ranked) - num_of(settings.drop, len(ranked))
            if settings.keep is None
            else num_of(settings.keep, len(ranked))
        )
        return selection.keep(set(ranked[:wanted]))


def _part(step: ImageStep, selection: Selection, context: SubsetContext) -> Selection:
    """Add a step that keeps a part of the training images by score."""
    from writers.subset import sampling

    settings = step.settings
    scores = _image_scores(step.request, settings, context)
    if scores.clusters is not None and not isinstance(settings, ClusteredImages):
        raise UserError(
            f"{scores.source} has clusters; this step has no use for them.",
            "Remove the column cluster.",
        )
    return with_chooser(
        selection,
        _described(step, scores),
        partial(
            sampling.part_by_score,
            scores,
            settings.keep,
            settings.share,
            settings.balanced,
            settings.seed,
        ),
        total=_unknown_total("a subset with a share of each label")
        if settings.balanced
        else lambda: int(num_left(selection, context) * settings.share + 0.5),
    )


def _unknown_total(what: str) -> Callable[[], int]:
    """Return a function in place of a total, which raises UserError if a budget needs the total."""

    def total() -> int:
        raise UserError(f"`like` of a budget cannot name {what}.", "Give the number of images.")

    return total


def _described(step: Step, scores: ImageScores) -> dict[str, Any]:
    """Describe a step for the digest of the subset: its settings, and a digest of the scores."""
    settings = step.model_dump(mode="json", exclude_none=True)
    for inner in settings.values():
        inner.pop("by", None)
        inner.pop("sha256", None)
    return {**settings, "scores": scores.digest}


def _class_scores(
    request: ScoreRequest | None, settings: ByScores, selection: Selection, context: SubsetContext
) -> ClassScores:
    """Return the scores of the selection's classes. Raises UserError if a class has no score.

    If `request` is None, the scores are read from the file that `settings.by` names.
    """
    scores = (
        read_class_scores(Path(settings.by)) if request is None else _of_recipe(request, context)
    )
    assert isinstance(scores, ClassScores)
    if missing := sorted(set(selection.classes) - scores.value.keys()):
        raise UserError(
            f"{scores.source} lacks {counted(len(missing), 'class')} of the source: "
            f"{preview(missing)}."
        )
    return scores


def _image_scores(
    request: ScoreRequest | None, settings: ByScores, context: SubsetContext
) -> ImageScores:
    if request is None:
        return read_image_scores(Path(settings.by))
    scores = _of_recipe(request, context)
    assert isinstance(scores, ImageScores)
    return scores


def _of_recipe(request: ScoreRequest, context: SubsetContext) -> ClassScores | ImageScores:
    """Return the scores that the recipe computed. Raises UserError if there is no recipe."""
    if request.role not in context.scores:
        raise UserError(
            f"The subset selects by {request.method} scores of a recipe's models, and there are "
            "none.",
            "Use it in a recipe with `selection:`, or give a CSV file of scores: by: FILE.",
        )
    return context.scores[request.role]
