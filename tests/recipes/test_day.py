"""Predicted times on one H100: recipes with `scale=day` take a day, those of 16 epochs less.

A roofline model gives the seconds of a step: memory traffic limits training of ResNet-18.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness.config import load as recipe
from harness.config.attack import AttackSettings
from harness.estimate.calibration import Calibration, Machine
from harness.estimate.estimate import estimate
from harness.matrix.expand import Matrix, expand

# ResNet-18, bf16, 224 px, eager: images per second that memory allows on an H100 (90 % of 3.0 TB/s
# at 100 MB per image), and the fraction of this rate that a training step reaches.
CEILING, REACHED = 27_000, 0.4
STEP_S_OF_PASS = 1 / (CEILING * REACHED)  # seconds per image of a clean training step
FORWARD = 1 / 3  # cost of a forward pass, as a fraction of a training step
STAGE_S = 15.0  # seconds to start and end a stage
MOST_MINUTES = {"imagenet_rn18_16": 25, "imagenet_rn18_16_robust": 90}


class Roofline(Mapping[str, float]):
    """Predicted seconds of a step of ResNet-18; the key is the step's description in JSON."""

    def __getitem__(self, key: str) -> float:
        step = json.loads(key)
        settings = step.get("settings", step)
        side = settings["resolution"]
        passes = {"pretrain": 1.0, "forward": FORWARD, "attack": FORWARD}.get(step["step"], 1.0)
        if step["step"] == "transfer" and step["method"] == "fixed":
            passes = FORWARD
        if step["step"] == "attack" or step.get("attacked"):
            passes += AttackSettings.model_validate(_pgd(settings["attack"])).num_passes
        return settings["batch_size"] * passes * (side / 224) ** 2 * STEP_S_OF_PASS

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[str]:
        return iter(())


def _pgd(attack: dict) -> dict:
    return {name: value for name, value in attack.items() if name != "restarts"}


def hours(name: str, folder: Path, *settings: str) -> tuple[float, Matrix]:
    """Return the predicted hours of all stages that use the GPU, and the matrix of the recipe."""
    matrix = expand(recipe.read(name, settings))
    stages = {stage.key: stage for stage in matrix.stages if stage.kind != "write"}
    found = estimate(stages, folder, Calibration(Machine("H100, predicted", ""), Roofline()))
    unknown = {stage.kind for stage in stages.values() if stage.spec.workloads is None}
    assert found.num_unknown == sum(stage.kind in unknown for stage in stages.values())
    return found.hours + len(stages) * STAGE_S / 3600, matrix


@pytest.mark.parametrize("name", ["robust_l2", "fewer_classes"])
def test_scale_day_fits_in_24_hours_and_keeps_the_posters_models(name, tmp_path):
    predicted, matrix = hours(name, tmp_path, "scale=day")
    assert 12 < predicted < 24, f"{predicted:.1f} h"
    models = [stage.axes for stage in matrix.stages if stage.kind == "pretrain"]
    for subset in ("in1000", "in900", "in800"):
        seeds = {
            axes["seed"] for axes in models if axes.get("subset") == subset and not axes["eps"]
        }
        assert seeds == {0, 1, 2}, subset
        assert any(axes.get("subset") == subset and axes["eps"] == 3 for axes in models), subset
    transfers = [stage for stage in matrix.stages if stage.kind == "transfer"]
    assert len({stage.axes["target"] for stage in transfers}) == 12
    epochs = {
        stage.config["settings"]["epochs"]
        for stage in transfers
        if stage.axes["target"] == "aircraft"
    }
    assert epochs == {24}, "epochs of the preset `fast`, not the 150 of the full protocol"


@pytest.mark.parametrize("name", MOST_MINUTES)
def test_recipes_of_16_epochs_take_minutes(name, tmp_path):
    predicted, _ = hours(name, tmp_path)
    assert 60 * predicted < MOST_MINUTES[name], f"{60 * predicted:.0f} minutes"


def test_the_whole_protocol_takes_more_than_a_day(tmp_path):
    """The prediction can exceed a day: the full protocol has 90 epochs and three seeds."""
    assert hours("robust_l2", tmp_path)[0] > 100
