"""Compute digests of models and tasks, which are equal if two people measured the same thing.

A task is what a score measures: the data, the metric and the settings of a transfer or evaluation.
Digests depend on settings and on the contents of files, not on paths or labels. Only if the digests
of a target's files are unknown, its name stands for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.matrix import stage_kind
from harness.report.board.row import digest
from harness.report.data.collection import Collection
from harness.runner.result import Result

_VIEW = ("resolution", "eval_crop", "interpolation")  # how images are resized and cropped
_ATTACK = ("norm", "eps", "steps", "step_size", "resolution", "restarts", "logits")


@dataclass(frozen=True)
class ModelFacts:
    """Digests of a model; `digest` is equal for models that differ only in seed. "" is unknown."""

    digest: str
    weights_sha256: str = ""
    subset_digest: str = ""


@dataclass(frozen=True)
class TaskFacts:
    """Digests of a task.

    Attributes:
        digest: digest of data, metric and settings.
        protocol_digest: digest of the settings that tasks of one table share.
        test_sha256: digest of the file of test images; "" if unknown.
    """

    digest: str
    protocol_digest: str
    test_sha256: str = ""


def model_facts(results: Collection, model: Result) -> ModelFacts:
    """Identify a model.

    A model that was pretrained here is identified by the settings of its training and the contents
    of its data, and a loaded one by its weights, and by the size and crop of its images.
    """
    version = stage_kind.find(model.kind).version
    if model.kind == "pretrain":
        data = results.by_key.get(model.needs.get("data", ""))
        subset = (data.metrics.get("subset") or {}).get("digest", "") if data else ""
        known = {
            "version": version,
            "config": _without(model.config, "seed"),
            "subset": subset,
            "files": _split_digests(data) or model.needs,
        }
        weights = model.outputs.get("model.pt", "")
    else:
        weights = model.metrics.get("sha256") or ""
        subset = ""
        view = {name: model.metrics.get(name) for name in _VIEW}
        known = {"version": version, "weights": weights or model.key, "view": view}
    return ModelFacts(digest({"kind": model.kind, **known}), weights, subset)


def scratch_facts(transfer: Result) -> ModelFacts:
    """Identify a network that starts from random weights by its architecture.

    If the transfer does not name an architecture, the key of its model identifies the network.
    """
    start = transfer.config.get("arch") or transfer.needs.get("model", transfer.key)
    return ModelFacts(digest({"kind": "scratch", "arch": start}))


def transfer_facts(results: Collection, transfer: Result) -> TaskFacts:
    """Identify a transfer's target, metric and settings, without its model and seed."""
    protocol: dict[str, Any] = {
        "version": stage_kind.find(transfer.kind).version,
        "config": _without(transfer.config, "seed", "arch", "metric"),
    }
    features = _features_of(results, transfer)
    if features is not None:
        protocol["features"] = _view_of_features(results, features)
    files = _split_digests(data_of(results, transfer))
    task = {"target": files or transfer.axes["target"], "metric": transfer.config.get("metric")}
    return TaskFacts(digest({**task, **protocol}), digest(protocol), files.get("test", ""))


def evaluation_facts(results: Collection, evaluation: Result, attack: str) -> TaskFacts:
    """Identify an evaluation on the classes that all subsets of a recipe share.

    Args:
        results: results of the recipe.
        evaluation: result of an evaluate stage.
        attack: clean or adversarial.
    """
    common = {role: key for role, key in evaluation.needs.items() if role.startswith("common")}
    betons = [
        results.by_key.get(key)
        for key in (common or {"": evaluation.needs.get("data", "")}).values()
    ]
    files = sorted({_split_digests(data).get("val", "") for data in betons})
    record = evaluation.metrics.get("attack") or {}
    protocol = {
        "version": stage_kind.find(evaluation.kind).version,
        "view": {name: evaluation.config.get(name) for name in (*_VIEW, "resize_version")},
        "flip_tta": evaluation.config.get("flip_tta"),
    }
    if attack == "adversarial":
        settings = (evaluation.config.get("settings") or {}).get("attack")
        protocol |= {"attack": {name: record.get(name) for name in _ATTACK}, "settings": settings}
    task = {"classes": sorted(evaluation.metrics["common_classes"]), "files": files}
    # One table has all tasks on the classes of one source, so they share a protocol digest; the
    # settings are part of the task's digest.
    return TaskFacts(
        digest({**task, **protocol}),
        digest({"kind": "source"}),
        files[0] if len(files) == 1 else "",
    )


def data_of(results: Collection, transfer: Result) -> Result | None:
    """Return the result that describes a transfer's images; None if it is unknown."""
    features = _features_of(results, transfer)
    needs = transfer.needs if features is None else features.needs
    return results.by_key.get(needs.get("data", ""))


def _features_of(results: Collection, transfer: Result) -> Result | None:
    keys = (key for role, key in transfer.needs.items() if role.split("_")[0] == "features")
    return next((results.by_key[key] for key in keys if key in results.by_key), None)


def _view_of_features(results: Collection, features: Result) -> dict[str, Any]:
    """Return the settings of a features stage.

    A value that equals the model's own evaluation setting becomes None, so that models with
    different resolutions can share a protocol digest.
    """
    settings = _without(features.config, "splits", "batch_size")
    model = results.by_key.get(features.needs.get("model", ""))
    if model is not None and model.kind == "pretrain":
        trained = model.config["settings"]
        own = {
            "resolution": trained.get("eval_resolution") or trained.get("resolution"),
            "eval_crop": trained.get("eval_crop"),
        }
        settings |= {name: None for name, value in own.items() if settings.get(name) == value}
    return settings


def _split_digests(data: Result | None) -> dict[str, str]:
    splits = (data.metrics.get("splits") or {}) if data is not None else {}
    return {split: file["sha256"] for split, file in sorted(splits.items()) if file.get("sha256")}


def _without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
