"""Declaration of the transfer stage, which transfers a model to a target."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from harness.config import grid
from harness.config.grid import Trial
from harness.config.methods import settings_model
from harness.config.transfer import TransferSettings
from harness.matrix.stage import Stage, canonical
from harness.matrix.stage_kind import StageKind
from harness.matrix.workload import Counts, Workload
from harness.stages import _workload

# Settings that the time of a training step depends on.
STEP_SETTINGS = (
    "batch_size",
    "resolution",
    "precision",
    "bn_stats",
    "accumulate",
    "train_from",
    "augment",
)
DETECTION_SETTINGS = (
    "batch_size",
    "precision",
    "bn_stats",
    "neck",
    "short_side",
    "long_side",
    "anchors",
    "regions_per_image",
    "train_from",
)


def work(config: Mapping[str, Any]) -> float:
    """Return the number of passes of the whole search over the target's images.

    Without a method in the config, it is 1.
    """
    if "method" not in config:
        return 1.0
    return _num_passes(config["method"], canonical(config["settings"]))


@lru_cache(maxsize=1024)
def _num_passes(method: str, settings: str) -> float:
    """Return the number of passes of a search. Cached, because many transfers share settings."""
    num_passes: float = _settings(method, settings).num_passes()
    return num_passes


@lru_cache(maxsize=1024)
def _settings(method: str, settings: str) -> Any:
    return settings_model(method).model_validate_json(settings)


def workloads(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Workload]:
    """Yield the training steps and evaluations of the whole grid; see `harness.transfer.search`."""
    config, target = stage.config, counts["data"]
    settings = _settings(config["method"], canonical(config["settings"]))
    assert isinstance(settings, TransferSettings)
    if settings.NEEDS_BOXES:
        yield from _detection(stage, settings, target)
        return
    model = (
        _workload.model_of(stage.needs["model"])
        if "model" in stage.needs
        else {**config["arch"], "batch_norm_scale": True}
    )
    train, val = target.splits["train"], target.splits["val"]
    if isinstance(settings.per_class, int):
        train = min(train, settings.per_class * target.num_classes)

    def training(group: Sequence[Trial], num_images: float) -> Workload:
        resolved = group[0].settings.resolved()
        return Workload(
            {
                "step": "transfer",
                "model": model,
                "method": config["method"],
                "num_trials": len(group),
                "settings": {name: resolved[name] for name in STEP_SETTINGS if name in resolved},
            },
            settings.batch_size,
            num_images,
        )

    survivors, num_evaluations = grid.trials(settings), 0
    for share in grid.shares(settings):
        for equal_length in grid.by_length(survivors):
            for group in (
                [equal_length] if settings.TRAINS_TOGETHER else [[trial] for trial in equal_length]
            ):
                yield training(group, float(share) * _num_images(group[0], train))
                num_evaluations += len(group) * len(grid.crops(settings))
        if share < 1:
            survivors = survivors[: grid.num_promoted(settings, len(survivors))]
    if settings.refit:
        longest = max(survivors, key=lambda trial: _num_images(trial, train))
        yield training([longest], _num_images(longest, train + val))
    yield _workload.forward_pass(
        model,
        settings.eval_resolution or settings.resolution,
        settings.batch_size,
        settings.precision,
        (num_evaluations * val + target.splits["test"]) * _workload.num_views(settings.flip_tta),
    )


def _detection(stage: Stage, settings: TransferSettings, target: Counts) -> Iterator[Workload]:
    """Yield the training steps and evaluations of a detector for every point of the grid.

    The images of a step are assumed to have equal sizes. Real images are resized to the same
    shorter side, so their times differ only by their aspect ratios.
    """
    train, val, test = (target.splits[split] for split in ("train", "val", "test"))
    trials = grid.trials(settings)
    num_images = sum(_num_images(trial, train) for trial in trials)
    if settings.refit:
        num_images += max(_num_images(trial, train + val) for trial in trials)
    resolved = settings.resolved()
    step = {
        "model": _workload.model_of(stage.needs["model"]),
        "method": stage.config["method"],
        "settings": {name: resolved[name] for name in DETECTION_SETTINGS if name in resolved},
    }
    yield Workload({"step": "detection_training", **step}, settings.batch_size, num_images)
    yield Workload({"step": "detection", **step}, settings.batch_size, len(trials) * val + test)


def _num_images(trial: Trial, num_train_images: int) -> float:
    """Return the number of images that a point of the grid trains on, summed over its epochs."""
    settings = trial.settings
    return (
        settings.steps * min(settings.batch_size, num_train_images)
        if isinstance(settings.steps, int)
        else settings.epochs * num_train_images
    )


SPEC = StageKind(version=7, in_status="models", work=work, workloads=workloads)
