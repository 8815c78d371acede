"""Score classes or images of the source dataset by the method of the config."""

import hashlib
import json
import math
from collections.abc import Callable

import numpy as np

from harness.modeling import classifier
from harness.runner.context import Outcome, StageContext
from harness.stages.pretrain.spec import MODEL_FILE
from harness.stages.select.early import error_norms, forgotten
from harness.stages.select.record import ClassScore, SelectMetrics
from harness.stages.select.spec import SCORES_FILE
from harness.system.array_files import write_arrays
from harness.transfer.features import Features, file_of
from writers.errors import UserError
from writers.subset.formulas import (
    clusters,
    el2n,
    feature_mapping,
    forgetting,
    influence,
    label_mapping,
    prototypes,
)
from writers.subset.scores import SEEN_SPLITS, ClassScores, ImageScores, Scores


def run(context: StageContext) -> Outcome:
    """Compute the scores. Scores of images are written to a file."""
    config = context.config
    methods: dict[str, Callable[[StageContext], Scores]] = {
        "label_mapping": _label_mapping,
        "feature_mapping": _feature_mapping,
        "prototypes": _prototypes,
        "el2n": _el2n,
        "forgetting": _forgetting,
        "influence": _influence,
    }
    scores = methods[config["method"]](context)
    table: dict[str, ClassScore] | None = None
    if isinstance(scores, ClassScores):
        table = {
            name: {
                "score": _known(value),
                "low_95": _known(scores.low_95[name]),
                "high_95": _known(scores.high_95[name]),
                "tie_break": scores.tie_break.get(name, 0.0),
            }
            for name, value in scores.value.items()
        }
        values = np.array([value for value in scores.value.values() if math.isfinite(value)])
        digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
    else:
        arrays = {"ids": scores.ids, "values": scores.values}
        arrays |= {} if scores.clusters is None else {"clusters": scores.clusters}
        write_arrays(context.folder / SCORES_FILE, arrays)
        values, digest = scores.values, scores.digest
    metrics: SelectMetrics = {
        "method": config["method"],
        "targets": config["targets"],
        "seen_splits": list(SEEN_SPLITS) if config["targets"] else [],
        "classes": table,
        "num_scored": len(scores.value if isinstance(scores, ClassScores) else scores.ids),
        "num_models": max(1, sum(role.startswith(("model_", "view_")) for role in context.needs)),
        "quantiles": np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist() if len(values) else [],
        "digest": digest,
    }
    return Outcome(metrics)


def _label_mapping(context: StageContext) -> ClassScores:
    _, about = classifier.load(context.need_folders["model"] / MODEL_FILE)
    probs = []
    for features in _of_targets(context):
        if features.probs is None:
            raise UserError(
                "The surrogate has no head for source classes, which label mapping counts.",
                "Use a model with one, or feature_mapping.",
            )
        probs.append(features.probs)
    return label_mapping.scores_of(probs, about["classes"], "label mapping")


def _feature_mapping(context: StageContext) -> ImageScores:
    source = Features.load(file_of(context.need_folders["source"], "train"))
    found = clusters.cluster(source.features, _num_clusters(context), context.config["seed"])
    counts = [
        feature_mapping.num_nearest(features.features, found) for features in _of_targets(context)
    ]
    shares = label_mapping.mean_shares(counts)
    return ImageScores(source.ids, shares[found.labels], found.labels, "feature mapping")


def _prototypes(context: StageContext) -> ImageScores:
    source = Features.load(file_of(context.need_folders["source"], "train"))
    found = clusters.cluster(source.features, _num_clusters(context), context.config["seed"])
    distances = prototypes.distances(source.features, found)
    return ImageScores(source.ids, distances, found.labels, "prototypes")


def _el2n(context: StageContext) -> ImageScores:
    ids, norms = error_norms(context)
    return ImageScores(ids, el2n.el2n(norms), None, "EL2N")


def _forgetting(context: StageContext) -> ImageScores:
    ids, counts = forgotten(context)
    return ImageScores(ids, forgetting.forgetting(counts), None, "forgetting")


def _influence(context: StageContext) -> ClassScores:
    """Compute each class's influence on the accuracy on val, averaged over the targets."""
    config = context.config
    classes = context.needs["data"].metrics["classes"]
    numbers = range(config["num_models"])
    kept = [set(context.needs[f"view_{number}"].metrics["classes"]) for number in numbers]
    had = np.array([[name in of_model for name in classes] for of_model in kept])
    accuracies = [
        [_val_accuracy(context, number, place) for place in range(len(config["targets"]))]
        for number in numbers
    ]
    found = influence.influence(
        had, np.mean(accuracies, axis=1), seed=config["seed"], draws=config["draws"]
    )
    value, low, high = (dict(zip(classes, column.tolist(), strict=True)) for column in found)
    return ClassScores(value, low, high, "influence")


def _val_accuracy(context: StageContext, number: int, place: int) -> float:
    """Return the accuracy of model `number` on val of target `place`.

    The hyper-parameters of the transfer were chosen on the same images.
    """
    metrics = context.needs[f"transfer_{number}_{place}"].metrics
    accuracy: float = metrics["val"][metrics["metric"]]
    return accuracy


def _num_clusters(context: StageContext) -> int:
    return context.config["clusters"] or len(context.needs["source"].metrics["classes"])


def _of_targets(context: StageContext) -> list[Features]:
    """Load the features of the train and val images of each target."""
    found = []
    for number in range(len(context.config["targets"])):
        folder = context.need_folders[f"target_{number}"]
        splits = context.needs[f"target_{number}"].metrics["splits"]
        parts = [Features.load(file_of(folder, split)) for split in SEEN_SPLITS if split in splits]
        found.append(
            Features(
                np.concatenate([part.features for part in parts]),
                None
                if any(part.probs is None for part in parts)
                else np.concatenate([part.probs for part in parts if part.probs is not None]),
                np.concatenate([part.labels for part in parts]),
                np.concatenate([part.ids for part in parts]),
            )
        )
    return found


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
