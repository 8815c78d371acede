"""Logistic regression on frozen features of images that are not augmented, as Kornblith, Shlens and Le 2019 (A.3).

One fit for each of 45 penalties, chosen on val by the dataset's metric, fitted again on train and val together, and read once
on test. Where an image has many labels (VOC 2007) there is a binary fit a class. It has no seed: there is one optimum.
Features are standardised, so penalties are those of standardised features.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from harness.transfer.methods.logreg.settings import LogregSettings

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harness.runner.context import Outcome, StageContext
    from harness.train.average_precision import MultiLabelCounts
    from harness.train.metrics import Counts
    from harness.transfer.features import Features
    from harness.transfer.logistic_regression import Chosen, Standardization


def run(context: StageContext) -> Outcome:
    """The transfer stage. Metrics as those of methods that train, with the penalty as the axis `lambda` of the grid; of each
    point also whether it converged, its largest gradient, and how far its loss can be from the optimum."""
    from harness.config.grid import crops, feature_roles
    from harness.profiling.timer import summary
    from harness.runner.context import Outcome, Stopped
    from harness.train import predictions
    from harness.transfer import logistic_regression as logistic

    started = time.monotonic()
    settings = LogregSettings.model_validate(context.config["settings"])
    metric, several = context.config["metric"], settings.grid.eval_crop is not None
    classes: list[str] = []

    def stop() -> None:
        if context.stop_requested():
            raise Stopped

    best: tuple[Chosen, _Views, float] | None = None
    grid: list[dict[str, Any]] = []
    for crop, role in zip(crops(settings), feature_roles(settings), strict=True):
        classes = context.needs[role].metrics["classes"]
        views = _Views(context, role, len(classes), settings.per_class)
        scored: dict[float, dict[str, Any]] = {}

        def score(logits: Tensor, labels: Tensor, views: _Views = views) -> float:
            return float(views.count(logits, labels).scores()[metric])

        chosen = logistic.choose(
            views.train, views.val, len(classes), score, settings.lambdas, stop=stop
        )
        for fitted in chosen.path:
            scored[fitted.penalty] = views.count(fitted.logits(views.val[0]), views.val[1]).scores()
            grid.append(
                {
                    "lambda": fitted.penalty,
                    **({"eval_crop": crop} if several else {}),
                    "val": scored[fitted.penalty],
                    "converged": fitted.converged,
                    "largest_gradient": fitted.largest_gradient,
                    "gap": fitted.gap,
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
    point = {"lambda": chosen.fit.penalty, **({"eval_crop": crop} if several else {})}
    metrics = {
        "metric": metric,
        "test": counts.scores(),
        "lr": None,
        "chosen": point,
        "grid": grid,
        "val": next(entry["val"] for entry in grid if point.items() <= entry.items()),
        "policy": "full",
        "selected_on": "val",
        "num_configs": len(grid),
        "refit": True,
        "num_epochs": None,
        "num_steps": None,
        "num_classes": len(classes),
        "num_train_images": len(views.train[1]),
        "num_fit_images": len(views.train[1]) + len(views.val[1]),
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
    """A target's features, standardised by the images that are fitted in the end, on the stage's device."""

    def __init__(self, context: StageContext, role: str, num_classes: int, per_class: Any) -> None:
        import torch

        from harness.train.loader_plans import few_of_each
        from harness.transfer import logistic_regression as logistic
        from harness.transfer.features import Features, file_of

        def load(split: str) -> Features:
            return Features.load(file_of(context.need_folders[role], split))

        self._load, self._device, self.num_classes = load, context.device, num_classes
        train, val = load("train"), load("val")
        features, labels = train.features, train.labels
        if isinstance(per_class, int):
            kept = few_of_each(labels, train.ids, per_class, context.config["seed"])
            features, labels = features[kept], labels[kept]
        both = torch.cat(
            [
                torch.as_tensor(part, device=self._device).double()
                for part in (features, val.features)
            ]
        )
        self._standardise: Standardization = logistic.standardization(both)
        self.train, self.val = self._there(features, labels), self._there(val.features, val.labels)
        self.test_ids: np.ndarray = train.ids[:0]

    def test(self) -> tuple[Tensor, Tensor]:
        """Read here, for the first time."""
        seen = self._load("test")
        self.test_ids = seen.ids
        return self._there(seen.features, seen.labels)

    def count(self, logits: Tensor, labels: Tensor) -> Counts | MultiLabelCounts:
        from harness.train.average_precision import MultiLabelCounts
        from harness.train.metrics import Counts

        counts = (
            MultiLabelCounts()
            if labels.ndim == 2
            else Counts(self.num_classes, self._device, keep_predictions=True)
        )
        counts.add(logits, labels)
        return counts

    def _there(self, features: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        import torch

        return (
            self._standardise(torch.as_tensor(features, device=self._device).double()),
            torch.as_tensor(labels, device=self._device),
        )
