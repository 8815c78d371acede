"""Record of a transfer stage. Imports no torch."""

from collections.abc import Mapping
from typing import Any, NotRequired

from typing_extensions import TypedDict

from harness.matrix.scores import Scores

# Record of a point of the grid: the value of each axis, and `val`, the Scores on val, or None if
# training diverged. If the policy stops some points early, `share` is the fraction of its training
# that the point completed. logreg adds `converged`, `largest_gradient` and `gap`, which are
# described at `Fit` in harness/transfer/logistic_regression.py.
GridEntry = dict[str, Any]


class Selection(TypedDict):
    """How the reported model was chosen."""

    policy: Any  # "full", or the settings of another policy
    selected_on: str  # split
    num_configs: int  # number of pairs of a point and a crop of the evaluation
    refit: bool  # True if the chosen point was trained again on train and val


class SearchRecord(Selection):
    """A search for hyper-parameters, and the point that it chose."""

    val: Scores
    lr: float | None  # None means that the method has no learning rate
    chosen: Mapping[str, float | str]  # axis -> value
    grid: list[GridEntry]
    num_epochs: int | None  # None if the length is set in steps, and for logreg
    num_steps: int | None  # None for logreg
    damaged_checkpoints: list[str]


class TransferMetrics(SearchRecord):
    """Metrics of a transfer stage."""

    metric: str  # main score, also for the choice on val: top1, mean_per_class, map11 or map50_11
    test: Scores
    num_classes: int
    num_train_images: int
    num_fit_images: int  # images that the tested model was fitted on
    bn_stats: str
    precision: str
    source_eps: float | None  # eps of the model's pretraining; None means unknown or no pretraining
    predictions: NotRequired[str]  # name of the file in the stage's folder
    model: NotRequired[str]  # name of the file of the tested model, if `keep_model` is set
    # Fields of methods that train a network.
    interpolation: NotRequired[str]  # filter of the resize
    resolution: NotRequired[int]
    num_parts: NotRequired[int | None]  # number of micro-batches per batch
    # Fields of logreg.
    num_unconverged: NotRequired[int]
    converged: NotRequired[bool]
    largest_gradient: NotRequired[float]
    at_the_edge: NotRequired[bool]  # the chosen penalty is the largest or smallest one tried
    # detection: name of the file that `harness.train.predictions.save_detections` wrote
    detections: NotRequired[str]
    # detection: class -> `ClassPrecision` on test; None if test has no object of the class, or only
    # difficult ones
    classes: NotRequired[dict[str, dict[str, float] | None]]
