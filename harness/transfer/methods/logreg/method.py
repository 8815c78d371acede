"""Logistic regression on features of images without augmentation (Kornblith et al. 2019, A.3).

A regression is fitted on train with each penalty, and the dataset's metric on val chooses a
penalty. A regression with this penalty is then fitted on train and val together, or, with
`per_class`, on the drawn images of train only. Test is read once. If images have several labels
(VOC 2007), each class has a binary fit. The optimum is unique, so the fit needs no seed. Features
are standardized before the fit.
"""

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from harness.config.base import Metric
from harness.config.grid import crops, feature_roles
from harness.matrix.scores import Scores
from harness.profiling.timer import summary
from harness.runner.context import Outcome, StageContext, Stopped
from harness.train import predictions
from harness.train.average_precision import MultiLabelCounts
from harness.train.loader_plans import sample_per_class
from harness.train.metrics import Counts
from harness.transfer import logistic_regression
from harness.transfer.features import Features, file_of
from harness.transfer.logistic_regression import SelectedFit, Standardization
from harness.transfer.methods.logreg.settings import LogregSettings

if TYPE_CHECKING:
    from harness.stages.transfer.record import TransferMetrics


def run(context: StageContext) -> Outcome:
    """Run the transfer stage.

    The metrics are the same as for methods that train a network; the penalty is the axis `lambda`
    of the grid. Each point also has `converged`, `largest_gradient`, and `gap`, an upper bound on
    the difference between its loss and the optimum.

    Raises:
        Stopped: a stop was requested. The next run starts from the beginning.
    """
    started = time.monotonic()
    settings = LogregSettings.model_validate(context.config["settings"])
    metric: Metric = context.config["metric"]
    several_crops = settings.grid.eval_crop is not None
    classes: list[str] = []

    def stop() -> None:
        if context.stop_requested():
            raise Stopped

    best: tuple[SelectedFit, _Views, float] | None = None
    grid = []
    val: dict[tuple[float, float], Scores] = {}  # (penalty, crop) -> scores
    for crop, role in zip(crops(settings), feature_roles(settings), strict=True):
        classes = context.needs[role].metrics["classes"]
        views = _Views(context, role, len(classes), settings.per_class)

        def score(logits: Tensor, labels: Tensor, views: _Views = views) -> float:
            return float(views.count(logits, labels).scores()[metric])

        chosen = logistic_regression.select_penalty(
            views.train,
            views.val,
            len(classes),
            score,
            settings.lambdas,
            refit_on_val=views.fits_val,
            stop=stop,
        )
        for fit in chosen.path:
            scores = views.count(fit.logits(views.val[0]), views.val[1]).scores()
            val[fit.penalty, crop] = scores
            grid.append(
                {
                    "lambda": fit.penalty,
                    **({"eval_crop": crop} if several_crops else {}),
                    "val": scores,
                    "converged": fit.converged,
                    "largest_gradient": fit.largest_gradient,
                    "gap": fit.gap,
                }
            )
        if best is None or max(chosen.scores.values()) > max(best[0].scores.values()):
            best = chosen, views, crop
    assert best is not None
    chosen, views, crop = best
    fit_s = time.monotonic() - started
    features, labels = views.test()
    counts = views.count(chosen.fit.logits(features), labels)
    predictions.save_arrays(
        context.folder, views.test_ids, labels.cpu().numpy(), {"test": counts.predictions()}
    )
    point = {"lambda": chosen.fit.penalty, **({"eval_crop": crop} if several_crops else {})}
    metrics: TransferMetrics = {
        "metric": metric,
        "test": counts.scores(),
        "lr": None,
        "chosen": point,
        "grid": grid,
        "val": val[chosen.fit.penalty, crop],
        "policy": "full",
        "selected_on": "val",
        "num_configs": len(grid),
        "refit": views.fits_val,
        "num_epochs": None,
        "num_steps": None,
        "num_classes": len(classes),
        "num_train_images": len(views.train[1]),
        "num_fit_images": len(views.train[1]) + views.fits_val * len(views.val[1]),
        "bn_stats": "frozen",
        "source_eps": None,
        "precision": "float64",
        "predictions": predictions.FILE,
        "damaged_checkpoints": [],
        "num_unconverged": sum(not entry["converged"] for entry in grid),
        "converged": chosen.fit.converged,
        "largest_gradient": chosen.fit.largest_gradient,
        "at_the_edge": chosen.at_the_edge,
    }
    timing = summary(
        {},
        num_steps=0,
        num_images=0,
        train_s=fit_s,
        eval_s=time.monotonic() - started - fit_s,
        checkpoint_s=0.0,
        startup_s=0.0,
        replay_img_per_s=None,
    )
    return Outcome(metrics, timing)


class _Views:
    """Features of a target on the stage's device, standardized by the images of the final fit.

    The final fit uses train and val, or, with `per_class`, only the drawn images of train.
    """

    def __init__(
        self,
        context: StageContext,
        role: str,
        num_classes: int,
        per_class: int | tuple[int, ...] | None,
    ) -> None:
        """Load train and val. per_class: images of train to draw per class; None keeps all."""

        def load(split: str) -> Features:
            return Features.load(file_of(context.need_folders[role], split))

        self._load, self._device, self.num_classes = load, context.device, num_classes
        train, val = load("train"), load("val")
        features, labels = train.features, train.labels
        self.fits_val = not isinstance(per_class, int)
        if isinstance(per_class, int):
            kept = sample_per_class(labels, train.ids, per_class, context.config["seed"])
            features, labels = features[kept], labels[kept]
        fitted = torch.cat(
            [
                torch.as_tensor(part, device=self._device).double()
                for part in (features, *([val.features] if self.fits_val else []))
            ]
        )
        self._standardize: Standardization = logistic_regression.standardization(fitted)
        self.train = self._on_device(features, labels)
        self.val = self._on_device(val.features, val.labels)
        self.test_ids: np.ndarray = train.ids[:0]

    def test(self) -> tuple[Tensor, Tensor]:
        """Load features and labels of test, which nothing else in this module reads."""
        test = self._load("test")
        self.test_ids = test.ids
        return self._on_device(test.features, test.labels)

    def count(self, logits: Tensor, labels: Tensor) -> Counts | MultiLabelCounts:
        """Count correct predictions. logits: [N, K]; labels: int64 [N], or int8 [N, K]."""
        counts = (
            MultiLabelCounts()
            if labels.ndim == 2
            else Counts(self.num_classes, self._device, keep_predictions=True)
        )
        counts.add(logits, labels)
        return counts

    def _on_device(self, features: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        return (
            self._standardize(torch.as_tensor(features, device=self._device).double()),
            torch.as_tensor(labels, device=self._device),
        )
