"""What a stage computes: which kinds of steps, and how many images go through each. To estimate hours by; imports no torch.

A kind of step is plain JSON with all that its time depends on, whatever stage it is of; `harness/estimate/calibrate.py` times one.
Heads are next to nothing of a step, so how many classes they tell apart does not count.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from harness.config import grid
from harness.config.grid import Trial
from harness.config.recipe import EvaluateSettings
from harness.config.train import PretrainSettings
from harness.config.transfer import TransferSettings
from harness.estimate.image_counts import Counts, ImageCounts
from harness.matrix.stage import Stage
from harness.transfer import method

JSON = dict[str, Any]
# Settings that the time of a step depends on.
OF_PRETRAINING = (
    "batch_size",
    "precision",
    "accumulate",
    "compile",
    "channels",
    "blur_pool",
    "batch_norm_scale",
    "dropout",
    "aux_head",
    "ema_decay",
    "attack",
)
OF_TRANSFER = ("batch_size", "resolution", "precision", "accumulate", "train_from")


@dataclass(frozen=True)
class Part:
    """Images that go through steps of one kind, once or several times each."""

    step: JSON
    batch_size: int
    num_images: float

    @cached_property
    def key(self) -> str:
        """Of the step: equal for equal ones."""
        return key_of(self.step)


def key_of(step: JSON) -> str:
    return json.dumps(step, sort_keys=True)


class Workloads:
    """Of any stage; worked out once for those that differ in their seed only."""

    def __init__(self, runs: Path) -> None:
        self._images = ImageCounts(runs)
        self._known: dict[str, tuple[Part, ...] | None] = {}

    def of(self, stage: Stage) -> tuple[Part, ...] | None:
        """None for work that does not come in steps of a network, and where nobody knows how many images there are."""
        like = json.dumps(
            [
                stage.kind,
                {**stage.config, "seed": 0},
                *(
                    _model(need) if role == "model" else need.key
                    for role, need in stage.needs.items()
                ),
            ]
        )
        if like not in self._known:
            self._known[like] = self._parts(stage)
        return self._known[like]

    def _parts(self, stage: Stage) -> tuple[Part, ...] | None:
        counts = {
            role: self._images.of(need)
            for role, need in stage.needs.items()
            if role in ("data", "all_data")
        }
        if (
            stage.kind not in _PARTS
            or None in counts.values()
            or "features" in (need.kind for need in stage.needs.values())
        ):
            return None
        return tuple(
            part
            for part in _PARTS[stage.kind](stage, cast(dict[str, Counts], counts))
            if part.num_images
        )


def _pretrain(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Part]:
    config = stage.config
    settings = PretrainSettings.model_validate(config["settings"])
    train, val = counts["data"].splits["train"], counts["data"].splits["val"]
    train -= _held_out(config.get("held_out", {}), counts["data"])
    if settings.length == "equal_steps" and "all_data" in counts:
        train = counts["all_data"].splits["train"]
    of_step = {
        name: config["settings"][name] for name in OF_PRETRAINING if name in config["settings"]
    }
    for side, num_epochs in sorted(
        Counter(map(settings.resolution_at, range(settings.epochs))).items()
    ):
        yield Part(
            {
                "step": "pretrain",
                "arch": config["arch"],
                "attacked": config["eps"] > 0,
                "settings": {**of_step, "resolution": side},
            },
            settings.batch_size,
            num_epochs * train,
        )
    num_looks = 1 + (settings.epochs // settings.eval_every if settings.eval_every else 0)
    yield _look(
        _model(stage),
        settings.eval_resolution or settings.resolution,
        settings.batch_size,
        settings.precision,
        num_looks * val * (2 if settings.ema_decay else 1) * _views(settings.flip_tta),
    )


def _rank(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Part]:
    """Each image is looked at by one model."""
    config = stage.config
    num_images = (
        _held_out(config["held_out"], counts["data"])
        if "held_out" in config
        else counts["data"].splits[config["split"]]
    )
    model = next(need for role, need in stage.needs.items() if role.startswith("model"))
    yield _look(
        _model(model), config["resolution"], config["batch_size"], config["precision"], num_images
    )


def _evaluate(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Part]:
    config = stage.config
    settings = EvaluateSettings.model_validate(config["settings"])
    model, num_images = (
        _model(stage.needs["model"]),
        counts["data"].splits["val"] * _views(config["flip_tta"]),
    )
    yield _look(model, config["resolution"], settings.batch_size, config["precision"], num_images)
    if config["eps"] or settings.eps_of_clean:
        yield Part(
            {
                "step": "attack",
                "model": model,
                "resolution": config["resolution"],
                "batch_size": settings.batch_size,
                "precision": config["precision"],
                "attack": config["settings"]["attack"],
            },
            settings.batch_size,
            num_images,
        )


def _features(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Part]:
    config = stage.config
    yield _look(
        _model(stage.needs["model"]),
        config["resolution"],
        config["batch_size"],
        config["precision"],
        sum(counts["data"].splits.get(split, 0) for split in config["splits"]),
    )


def _transfer(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Part]:
    """The whole grid, as `harness.transfer.search` goes through it."""
    config, of_data = stage.config, counts["data"]
    settings = TransferSettings.model_validate(config["settings"])
    chosen = method.find(config["method"])
    bn_stats = settings.bn_stats or chosen.DEFAULT_BN_STATS
    together = chosen.trains_together(
        cast(method.Setup, SimpleNamespace(settings=settings, bn_stats=bn_stats))
    )
    model = (
        _model(stage.needs["model"])
        if "model" in stage.needs
        else {**config["arch"], "batch_norm_scale": True}
    )
    train, val = of_data.splits["train"], of_data.splits["val"]
    if isinstance(settings.per_class, int):
        train = min(train, settings.per_class * of_data.num_classes)

    def training(turn: Sequence[Trial], num_images: float) -> Part:
        of_step = turn[0].settings.model_dump(mode="json", include=set(OF_TRANSFER))
        return Part(
            {
                "step": "transfer",
                "model": model,
                "method": config["method"],
                "num_trials": len(turn),
                "settings": {**of_step, "bn_stats": bn_stats},
            },
            settings.batch_size,
            num_images,
        )

    alive, num_looks = grid.trials(settings), 0
    for share in grid.shares(settings):
        for group in grid.by_length(alive):
            for turn in [group] if together else [[trial] for trial in group]:
                yield training(turn, float(share) * _length(turn[0], train))
                num_looks += len(turn) * len(grid.crops(settings))
        if share < 1:
            alive = alive[: grid.num_promoted(settings, len(alive))]
    if settings.refit:
        longest = max(alive, key=lambda trial: _length(trial, train))
        yield training([longest], _length(longest, train + val))
    yield _look(
        model,
        settings.eval_resolution or settings.resolution,
        settings.batch_size,
        settings.precision,
        (num_looks * val + of_data.splits["test"]) * _views(settings.flip_tta),
    )


_PARTS: Mapping[str, Callable[[Stage, Mapping[str, Counts]], Iterator[Part]]] = {
    "pretrain": _pretrain,
    "rank": _rank,
    "evaluate": _evaluate,
    "features": _features,
    "transfer": _transfer,
}


def _look(
    model: JSON, resolution: int | None, batch_size: int, precision: str, num_images: float
) -> Part:
    """A forward pass. resolution: None: the model's own."""
    return Part(
        {
            "step": "look",
            "model": model,
            "resolution": resolution,
            "batch_size": batch_size,
            "precision": precision,
        },
        batch_size,
        num_images,
    )


def _length(trial: Trial, num_images: int) -> float:
    """Of a trial's training, in images."""
    settings = trial.settings
    return (
        settings.steps * min(settings.batch_size, num_images)
        if isinstance(settings.steps, int)
        else settings.epochs * num_images
    )


def _held_out(asked: Mapping[str, int], counts: Counts) -> int:
    """Images of train."""
    train = counts.splits["train"]
    return (
        round(train / asked["folds"])
        if "folds" in asked
        else min(train, asked.get("per_class", 0) * counts.num_classes)
    )


def _views(flip_tta: bool) -> int:
    return 2 if flip_tta else 1


def _model(stage: Stage) -> JSON:
    """Of a stage that leaves one."""
    if stage.kind == "adopt":
        return stage.config
    settings = stage.config["settings"]
    return {
        "arch": stage.config["arch"],
        "channels": settings.get("channels"),
        "blur_pool": settings.get("blur_pool", False),
        "batch_norm_scale": settings.get("batch_norm_scale", True),
    }
