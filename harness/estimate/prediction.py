"""Predict the seconds of a stage on an H100 with a roofline model. Imports no torch.

A step takes the longest of three times: memory traffic, convolutions, and loading of the images.
The first two are computed for the fraction REACHED of the GPU's rates. `network_costs.csv` has the
operations and activations of networks, counted by `python -m benchmarks.network_costs`.

Checked against a published run: ffcv-imagenet's ResNet-18 on one A100 takes 35.0 minutes for 16
epochs and 187 minutes for 88. With that GPU's bandwidth, this module predicts 35.5 and 189.5
minutes (tests/estimate).
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.config.zoo_names import split_weights
from harness.estimate.reference_times import TRAININGS, trains_heads_only
from harness.estimate.workload import Workloads
from harness.matrix.stage import Stage
from writers.dataset import spec_of


@dataclass(frozen=True)
class Gpu:
    """Rates of a GPU.

    Attributes:
        name: Name in messages.
        bytes_per_s: Bandwidth of the memory.
        convolution_flops: FLOP/s of convolutions in 16-bit formats.
    """

    name: str
    bytes_per_s: float
    convolution_flops: float


@dataclass(frozen=True)
class NetworkCost:
    """Cost of a forward pass of one image.

    Attributes:
        resolution: Side of the image in pixels.
        flop: Floating-point operations; a multiply-add counts as two.
        activations: Elements that convolutions and matrix products write.
    """

    resolution: int
    flop: float
    activations: float


H100 = Gpu("H100 SXM", 3.0e12, 474e12)
USABLE_BANDWIDTH = 0.9  # fraction of the memory bandwidth
REACHED = 0.4  # fraction of the roofline that training reaches; published runs: 0.4 to 0.6
STAGE_S = 15.0  # seconds for start and end of a stage that uses the GPU
LOADER_IMG_PER_S = 27_000.0  # random crops of JPEG images on 16 CPU cores, docs/benchmarks.md
# Memory traffic per activation in bytes, for 16-bit steps that are not compiled. Fitted to the
# table of docs/benchmarks.md (ResNet-18 and ResNet-50 agree within 8 %).
FORWARD_BYTES, TRAINING_BYTES, ATTACK_STEP_BYTES = 13.0, 41.0, 34.0
FUSED = 0.7  # fraction of the traffic that remains in compiled steps
FLOAT32 = 2.0  # factor for the traffic and for the seconds of convolutions (TF32)
VOC_ASPECT = 4 / 3  # assumed long side / short side of images for detection
# Fraction of a network's operations and activations that is in its last stage. Faster R-CNN (C4)
# runs this stage on each region, which costs as much as on an image of 224 pixels.
LAST_STAGE_FLOP, LAST_STAGE_ACTIVATIONS = 0.22, 0.055
FPN = 1.5  # cost of a network with feature pyramid and heads, relative to the network alone


class Predictor:
    """Predicted seconds of stages on one GPU."""

    def __init__(self, workloads: Workloads, gpu: Gpu = H100) -> None:
        """Create the predictor; `workloads` lists the steps of each stage and their images."""
        self.gpu = gpu
        self._workloads = workloads
        self._is_generated: dict[str, bool] = {}

    def seconds(self, stage: Stage) -> float | None:
        """Predict the seconds of a stage on the GPU.

        Returns:
            0 for a stage that uses no GPU, and STAGE_S for one that is not made of steps. None if
            the network or the number of images is unknown, or if the images are generated, because
            such recipes run on a CPU.
        """
        if self._reads_generated(stage):
            return None
        if not stage.spec.needs_gpu:
            return 0.0
        if (workloads := self._workloads.of(stage)) is None:
            is_without_steps = stage.spec.workloads is None or "data" not in stage.needs
            return STAGE_S if is_without_steps else None
        total_s, heads_only = STAGE_S, trains_heads_only(stage)
        for workload in workloads:
            image_s = _image_seconds(workload.step, self.gpu, heads_only=heads_only)
            if image_s is None:
                return None
            total_s += workload.num_images * max(image_s, 1 / LOADER_IMG_PER_S)
        return total_s

    def _reads_generated(self, stage: Stage) -> bool:
        """True if the stage, or a stage that it needs, reads generated images."""
        if stage.key not in self._is_generated:
            data = stage.config.get("data")
            self._is_generated[stage.key] = (
                spec_of(data["dataset"]).generated
                if isinstance(data, dict) and "dataset" in data
                else any(map(self._reads_generated, stage.needs.values()))
            )
        return self._is_generated[stage.key]


@cache
def network_costs() -> dict[str, NetworkCost]:
    """Return the costs of networks by name."""
    with (Path(__file__).parent / "network_costs.csv").open(newline="") as file:
        return {
            row["model"]: NetworkCost(
                int(row["resolution"]),
                1e9 * float(row["gflop"]),
                1e6 * float(row["mega_activations"]),
            )
            for row in csv.DictReader(file)
        }


def _image_seconds(step: dict[str, Any], gpu: Gpu, *, heads_only: bool) -> float | None:
    """Seconds per image of a step at REACHED of the roofline; None if its cost is unknown."""
    cost = network_costs().get(_network_of(step))
    settings: dict[str, Any] = step.get("settings") or step
    model = step.get("model", settings)
    if cost is None or model.get("channels") is not None:
        return None
    flop_scale, activation_scale = _scales(step, settings, cost)
    is_training = step["step"] in TRAININGS and not heads_only
    attack = settings.get("attack") if step.get("attacked", step["step"] == "attack") else None
    passes, num_bytes = (3.0, TRAINING_BYTES) if is_training else (1.0, FORWARD_BYTES)
    if attack and attack["method"] == "free":
        passes *= attack["replays"] or 1
        num_bytes *= attack["replays"] or 1
    elif attack:
        num_steps = attack["steps"] * attack.get("restarts", 1)
        passes += 2 * num_steps + attack["best_iterate"]
        num_bytes += ATTACK_STEP_BYTES * num_steps + FORWARD_BYTES * attack["best_iterate"]
    slower = FLOAT32 if settings.get("precision") == "float32" else 1.0
    fused = 1.0 if settings.get("compile", "off") == "off" else FUSED
    traffic = slower * fused * num_bytes * activation_scale * cost.activations
    traffic_s = traffic / (USABLE_BANDWIDTH * gpu.bytes_per_s)
    flop_s = slower * passes * flop_scale * cost.flop / gpu.convolution_flops
    return max(traffic_s, flop_s) / REACHED


def _network_of(step: dict[str, Any]) -> str:
    """Return the name of a step's network in the table; "" if its description has none."""
    model = step.get("model", step)
    if isinstance(published := model.get("model"), dict):
        name = published.get("arch") or published.get("name")
    else:
        name = model.get("arch")
    network = split_weights(str(name or ""))[0]
    return network.partition(".")[0] if network.startswith("timm/") else network


def _scales(
    step: dict[str, Any], settings: dict[str, Any], cost: NetworkCost
) -> tuple[float, float]:
    """Factors of operations and of activations per image, relative to those in `cost`."""
    if "short_side" not in settings:
        area = ((settings.get("resolution") or cost.resolution) / cost.resolution) ** 2
        return area, area
    area = VOC_ASPECT * (settings["short_side"] / cost.resolution) ** 2
    if settings.get("neck") == "fpn":
        return FPN * area, FPN * area
    regions = settings["regions_per_image"]
    return area + LAST_STAGE_FLOP * regions, area + LAST_STAGE_ACTIVATIONS * regions
