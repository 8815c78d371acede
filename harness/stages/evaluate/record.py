"""Record of an evaluate stage. Imports no torch.

A view is a choice of the images to score and of the classes that may be predicted. `own` scores
images of all classes of the model. The other views score images of the classes that all compared
subsets share: `common_unmasked` lets the model predict any of its classes, and `common_masked` only
the common classes.
"""

from typing import NotRequired

from typing_extensions import TypedDict

from harness.matrix.scores import Scores
from harness.train.records import CompileMeasurement


class CoarseScores(TypedDict):
    """Scores on the coarser labels of another subset.

    `clean` and `adversarial` map each way of predicting a coarse label to its scores. `sum` adds
    the probabilities of a label's classes, and `max` takes the label of the most likely class.
    `own` is the prediction of a model that was trained on the coarse labels.
    """

    num_labels: int
    clean: dict[str, Scores] | None
    adversarial: dict[str, Scores] | None


class PerClass(TypedDict, total=False):
    """Numbers of images and of correct images of each class, in label order."""

    classes: list[str]
    num_images: list[int]
    clean: dict[str, list[int]]  # view -> number of correct images of each class
    adversarial: dict[str, list[int]]


class EvaluationAttackRecord(TypedDict):
    """The attack of an evaluation."""

    norm: str
    eps: float  # radius at this resolution, in units of [0, 1] pixels
    steps: int
    step_size: float
    resolution: int
    restarts: int
    zero_gradients: int  # number of images' gradients that were zero, over all steps and attacks
    # `scored`: an attack for each view, on the logits of its classes; `all`: one attack on all
    # logits, for all views
    logits: str
    compiled: str  # compile mode of the attack


class EvaluateMetrics(TypedDict):
    """Metrics of an evaluate stage."""

    num_common_classes: int
    common_classes: list[str]
    clean: dict[str, Scores]  # view -> scores
    adversarial: dict[str, Scores] | None  # view -> scores; None means not attacked
    coarse: dict[str, CoarseScores]  # subset with coarser labels -> scores
    per_class: PerClass
    attack: EvaluationAttackRecord | None
    not_measured: NotRequired[str]  # reason why there are no scores; absent if there are
    precision: NotRequired[str]
    resolution: NotRequired[int]  # side of the images, in pixels
    eval_crop: NotRequired[float]
    interpolation: NotRequired[str]
    predictions: NotRequired[str]  # file in the stage's folder


class EvaluateTiming(TypedDict, total=False):
    """Timing of an evaluate stage."""

    clean_s: float
    adversarial_s: float  # includes the choice of the compile mode
    compile: CompileMeasurement
