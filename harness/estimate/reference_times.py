"""Seconds of a stage on a reference machine, for the first estimate of the remaining time.

The constants are times of the start of a stage, of a forward pass of the demo's network, and of
drawing generated images. They were measured in runs of the demo, on two idle cores of an Intel
Xeon, with torch 2.14.1 and one thread per stage. On other machines and for other networks only the
ratios between stages matter. Imports no torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.config.methods import settings_model
from harness.config.transfer import TransferSettings
from harness.matrix.stage import Stage
from harness.matrix.workload import Counts, Workload
from writers.dataset import spec_of

# Times of a training step, of a step of an attack in training, and of a step of an attack in
# evaluation, as multiples of the time of a forward pass. Attacks in evaluation are faster, because
# BatchNorm computes no statistics.
TRAINING_PASSES, ATTACK_PASSES, EVALUATED_ATTACK_PASSES = 3.0, 2.2, 1.6
UNIT_RESOLUTION = 224
TRAININGS = ("pretrain", "transfer", "detection_training")  # kinds of steps

TRAINING_START_S, START_S = 0.4, 0.05  # start of a stage that trains, and of any other stage
# Extra seconds of the first stage with a network, and of the first stage without a network, because
# the code of other kinds of stages is imported at the same time.
COLD_S, IMPORTS_S = 2.0, 1.5
PASS_S = 0.00565  # forward pass of the demo's network on one image at UNIT_RESOLUTION
IMAGE_S = 0.0035  # draw or read, decode and encode one image
COPY_S, COPIED_IMAGE_S = 0.1, 0.00005  # copy samples of a `.beton` file: per file, per image
OTHER_S = 0.1  # per unit of `StageKind.work`, for a stage with neither images nor a network
NETWORK = ("resnet10", (16, 32, 64, 128))  # the demo's network: architecture, channels


@dataclass(frozen=True)
class Reference:
    """Seconds on the reference machine.

    Attributes:
        start_s: Start of the stage, before its progress count begins.
        body_s: Remaining part of the stage.
        has_network: The time is spent in a network.
        is_measured: The constants were measured with the stage's network or kind of data.
            Otherwise the seconds can only be compared with those of similar stages.
        end_s: Part of `body_s` that follows after the progress has counted to its end.
    """

    start_s: float
    body_s: float
    has_network: bool
    is_measured: bool
    end_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds of the whole stage, start included."""
        return self.start_s + self.body_s

    @property
    def counted_s(self) -> float:
        """Seconds during which the progress counts."""
        return self.body_s - self.end_s


def of_network(stage: Stage, workloads: Iterable[Workload]) -> Reference:
    """Return the seconds of a stage that spends its time in a network.

    Args:
        stage: The stage.
        workloads: Steps of the stage, with the number of images in each.
    """
    heads_only, workloads = trains_heads_only(stage), list(workloads)
    passes = [_forward_passes(workload, heads_only=heads_only) for workload in workloads]
    trains = [workload.step["step"] in TRAININGS for workload in workloads]
    start_s = TRAINING_START_S if any(trains) else START_S
    end_s = PASS_S * passes[-1] if stage.spec.counts_once and not trains[-1] else 0.0
    return Reference(start_s, PASS_S * sum(passes), True, _network_of(stage) == NETWORK, end_s)


def of_write(stage: Stage, counts: Counts | None) -> Reference:
    """Return the seconds of a stage that writes `.beton` files.

    Args:
        stage: The stage.
        counts: Images per split; None if they are unknown.
    """
    num_images = sum(counts.splits.values()) if counts else 0
    if stage.needs:  # a subset copies the samples of the whole dataset
        return Reference(COPY_S, COPIED_IMAGE_S * num_images, False, counts is not None)
    dataset = stage.config["data"]["dataset"]
    is_measured = counts is not None and spec_of(dataset).generated
    return Reference(TRAINING_START_S, IMAGE_S * max(1, num_images), False, is_measured)


def of_other(stage: Stage) -> Reference:
    """Return the seconds of any other stage, which are only proportional to its work."""
    return Reference(0.0, OTHER_S * stage.spec.work(stage.config), False, False)


def trains_heads_only(stage: Stage) -> bool:
    """True if a training step needs no gradients of the backbone."""
    if "method" not in stage.config:
        return False
    settings = settings_model(stage.config["method"])
    return issubclass(settings, TransferSettings) and settings.TRAINS_TOGETHER


def _network_of(stage: Stage) -> tuple[str, tuple[int, ...]] | None:
    """Architecture and channels; None for networks without settable channels."""
    trained = stage.needs.get("model", stage)
    arch, settings = trained.config.get("arch"), trained.config.get("settings", {})
    if isinstance(arch, dict):  # a method without a source model
        arch, settings = arch.get("arch"), arch
    channels = settings.get("channels")
    return (arch, tuple(channels)) if isinstance(arch, str) and channels else None


def _forward_passes(workload: Workload, *, heads_only: bool) -> float:
    """Work in units of PASS_S: forward passes of an image at UNIT_RESOLUTION."""
    step = workload.step
    settings: dict[str, Any] = step.get("settings") or {}
    attack = step.get("attack") or (settings.get("attack") if step.get("attacked") else None) or {}
    resolution = step.get("resolution") or settings.get("resolution") or UNIT_RESOLUTION
    trains = step["step"] in TRAININGS
    passes = (ATTACK_PASSES if trains else EVALUATED_ATTACK_PASSES) * (attack.get("steps") or 0)
    if trains and not heads_only:
        passes += TRAINING_PASSES
    return workload.num_images * max(1.0, passes) * (resolution / UNIT_RESOLUTION) ** 2
