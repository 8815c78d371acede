"""Record of an evaluate stage. Imports no torch.

A view is a way to score the same predictions: `own`, on the model's own classes; `common_unmasked`
and `common_masked`, on the classes that all compared subsets share.
"""

from typing import NotRequired

from typing_extensions import TypedDict

from harness.matrix.scores import Scores
from harness.train.records import CompileMeasurement


class CoarseScores(TypedDict):
    """Scores on the coarser labels of another subset.

    `clean` and `adversarial` map a way to predict a coarse label to its scores: `sum` of the
    classes' probabilities, `max` of them, or `own` for a model that was trained on these labels.
    """

    num_labels: int
    clean: dict[str, Scores] | None
    adversarial: dict[str, Scores] | None


class PerClass(TypedDict, total=False):
    """Counts by class, in label order."""

    classes: list[str]
    num_images: list[int]
    clean: dict[str, list[int]]  # view -> correct images
    adversarial: dict[str, list[int]]


class EvaluationAttackRecord(TypedDict):
    """The attack that the model was evaluated under."""

    norm: str
    eps: float  # in [0, 1] pixel units, at this resolution
    steps: int
    step_size: float
    resolution: int
    restarts: int
    zero_gradients: int  # images whose gradient was zero, summed over the attacks
    logits: str  # `scored`: those that each view scores; `all`: the same attack for all views
    compiled: str  # compile mode of the attack


class EvaluateMetrics(TypedDict):
    """Metrics of an evaluate stage."""

    num_common_classes: int
    common_classes: list[str]
    clean: dict[str, Scores]  # by view
    adversarial: dict[str, Scores] | None  # None means the model was not attacked
    coarse: dict[str, CoarseScores]  # by subset
    per_class: PerClass
    attack: EvaluationAttackRecord | None
    not_measured: NotRequired[str]  # why there are no scores; absent if there are
    precision: NotRequired[str]
    resolution: NotRequired[int]  # pixels a side
    eval_crop: NotRequired[float]
    interpolation: NotRequired[str]
    predictions: NotRequired[str]  # file in the stage's folder


class EvaluateTiming(TypedDict, total=False):
    """Timing of an evaluate stage."""

    clean_s: float
    adversarial_s: float  # with the choice of the compile mode
    compile: CompileMeasurement
