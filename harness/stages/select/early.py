"""Run models from early epochs over the source dataset's training images, for two scores.

The scores are `el2n` and `forgetting` of `writers.subset.formulas`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.modeling import classifier
from harness.modeling.precision import choose
from harness.runner.context import StageContext
from harness.stages._progress import PassProgress
from harness.train.loader_plans import choose_interpolation, eval_plan, split_path
from harness.transfer.features import Features, extract
from loaders import open_loader
from writers.subset.formulas import el2n, forgetting


def error_norms(context: StageContext) -> tuple[np.ndarray, np.ndarray]:
    """Return the images' ids, uint64 [N], and error norms [M, N].

    An image's error norm is the norm of its probabilities minus its one-hot label. The
    probabilities are from the last saved model of each of M trainings.
    """
    ids, rows = np.zeros(0, np.uint64), []
    for role in _trainings(context):
        file = context.needs[role].metrics["epoch_models"][-1]
        seen = _predict(context, context.need_folders[role] / file)
        assert seen.probs is not None
        ids = seen.ids
        rows.append(el2n.error_norms(seen.probs, seen.labels))
    return ids, np.stack(rows)


def forgotten(context: StageContext) -> tuple[np.ndarray, np.ndarray]:
    """Return the images' ids, uint64 [N], and how often M trainings forget each image, [M, N]."""
    ids, rows = np.zeros(0, np.uint64), []
    for role in _trainings(context):
        evaluations = []
        for file in context.needs[role].metrics["epoch_models"]:
            seen = _predict(context, context.need_folders[role] / file)
            assert seen.probs is not None
            ids = seen.ids
            evaluations.append(seen.probs.argmax(axis=1) == seen.labels)
        rows.append(forgetting.num_forgotten(np.stack(evaluations)))
    return ids, np.stack(rows)


def _trainings(context: StageContext) -> Iterator[str]:
    return (role for role in sorted(context.needs) if role.startswith("model_"))


def _predict(context: StageContext, file: Path) -> Features:
    """Compute a model's probabilities for the center crop of every training image.

    Training itself predicts augmented crops, which may be classified differently.
    """
    config = context.config
    model, about = classifier.load(file)
    plan = eval_plan(
        split_path(context, "data", "train"),
        config["batch_size"],
        config["resolution"],
        config["eval_crop"],
        context,
        choose_interpolation(config.get("interpolation", "auto"), about),
    )
    with open_loader(plan) as loader:
        return extract(
            model.to(context.device),
            loader,
            device=context.device,
            precision=choose(config["precision"], context.device),
            after_batch=PassProgress(context, loader, file.stem),
        )
