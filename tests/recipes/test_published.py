"""Recipes that repeat a study match its published code, also if the defaults here differ."""

import pytest

from harness.config import load as recipe
from harness.matrix.expand import expand


@pytest.mark.parametrize("name", ["robust_l2", "robust_linf", "fewer_classes"])
def test_robust_recipes_attack_and_freeze_as_salmans_code(name: str):
    """The `robustness` library keeps the best iterate, in training and in evaluation (use_best=1).

    What is frozen in robust-models-transfer are weights, and statistics continue to move.
    """
    stages = expand(recipe.read(name)).stages
    for kind in ("pretrain", "evaluate"):
        attacks = [
            stage.config["settings"]["attack"]
            for stage in stages
            if stage.kind == kind and stage.config["eps"] > 0
        ]
        assert attacks and all(attack["best_iterate"] for attack in attacks)
    statistics = {
        stage.config["settings"]["bn_stats"]
        for stage in stages
        if stage.axes.get("method") == "fixed"
    }
    assert statistics == {"update"}
