"""Record of a transfer stage. Imports no torch."""

from collections.abc import Mapping
from typing import Any, NotRequired

from typing_extensions import TypedDict

from harness.matrix.scores import Scores

# One point of the grid: axis -> value, `val` -> Scores or None (it diverged), `share` -> fraction
# of the training that it had, if only some points train in full. logreg adds `converged`,
# `largest_gradient` and `gap`.
GridEntry = dict[str, Any]


class Selection(TypedDict):
    """How the reported model was chosen."""

    policy: Any  # "full", or the settings of another policy
    selected_on: str
    num_configs: int
    refit: bool


class TransferMetrics(Selection):
    """Metrics of a transfer stage."""

    metric: str  # top1, mean_per_class, map11 or map50_11: chooses on val, and is reported
    test: Scores
    val: Scores
    lr: float | None  # None means the method has no learning rate
    chosen: Mapping[str, float | str]  # axis -> value
    grid: list[GridEntry]
    num_epochs: int | None
    num_steps: int | None
    num_classes: int
    num_train_images: int
    num_fit_images: int  # images that the tested model was fitted on
    bn_stats: str
    precision: str
    source_eps: float | None
    predictions: NotRequired[str]  # file in the stage's folder
    damaged_checkpoints: list[str]
    # Methods that train a network.
    interpolation: NotRequired[str]  # of the resize
    resolution: NotRequired[int]
    num_parts: NotRequired[int | None]  # micro-batches per batch
    # logreg
    num_unconverged: NotRequired[int]
    converged: NotRequired[bool]
    largest_gradient: NotRequired[float]
    at_the_edge: NotRequired[bool]
    # detection: file in the stage's folder (`harness.train.predictions.save_detections`)
    detections: NotRequired[str]
    # detection: `ClassPrecision` on test by class; None if test has no object of it that counts
    classes: NotRequired[dict[str, dict[str, float] | None]]
