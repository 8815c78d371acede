"""Comparison of models by their kind of training, against scipy and plain means."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.report.data.records import TransferRow
from harness.report.render.tables.models import training_table
from harness.report.stats.leaderboard import model_names, score_matrices
from harness.report.stats.training_kinds import TrainingGroup, training_groups
from harness.report.text.findings import about_training

KINDS = ["supervised"] * 3 + ["self-supervised"] * 3
NETWORKS = ["resnet50", "resnet18", "vit", "resnet50", "resnet50", "swin"]


def rows(gain: float, kinds: list[str] = KINDS) -> tuple[list[TransferRow], np.ndarray]:
    """Return rows of six models on three targets, and the mean logit of each model, [6].

    `gain` is added to the logits of self-supervised models.
    """
    random = np.random.default_rng(3)
    logits = random.normal(0.5, 0.05, (6, 3)) + gain * (np.array(kinds) == KINDS[-1])[:, None]
    scores = np.round(10_000 / (1 + np.exp(-logits))) / 10_000
    made = [
        TransferRow(
            arch="", target=f"t{target}", method="logreg", subset="", num_classes=None, eps=0.0,
            seed=0, metric="top1", num_answers=10, num_images=10_000,
            top1=float(scores[model, target]), top5=1.0, mean_per_class=None, lr=None,
            num_configs=1, num_diverged=0, selected_on="val", selected_score=0.5,
            key=f"{model}-{target}", model=f"m{model}", kind="logreg", network=NETWORKS[model],
            training=kinds[model],
        )
        for model in range(6)
        for target in range(3)
    ]  # fmt: skip
    return made, np.log(scores / (1 - scores)).mean(axis=1)


def groups(made: list[TransferRow]) -> list[TrainingGroup]:
    return training_groups(score_matrices(made, model_names(made)), made)


def test_a_clear_difference_agrees_with_scipy():
    made, means = rows(1.0)
    supervised, other = groups(made)
    assert (supervised.training, supervised.num_models, supervised.num_targets) == (KINDS[0], 3, 3)
    assert supervised.mean_logit == pytest.approx(means[:3].mean(), abs=1e-9)
    assert supervised.difference is None and supervised.within_networks is None
    interval = scipy_stats.ttest_ind(means[3:], means[:3], equal_var=False).confidence_interval()
    found = other.difference
    assert found is not None and (found.low, found.high) == pytest.approx(interval, abs=1e-6)
    assert other.best == f"m{3 + means[3:].argmax()}"
    # Only resnet50 has models of both kinds.
    assert other.num_networks == 1
    assert other.within_networks == pytest.approx(means[3:5].mean() - means[0], abs=1e-9)
    assert about_training(groups(made)) == (
        "Compared with supervised models by logreg, self-supervised models transfer better."
    )
    table = training_table(groups(made))
    assert len(table.rows) == 2 and "1 architecture" in str(table.rows[1])


def test_equal_kinds_show_no_clear_difference():
    made, _ = rows(0.0)
    assert "no clear difference" in about_training(groups(made))


def test_models_of_one_kind_or_of_unknown_kinds_are_not_compared():
    assert groups(rows(1.0, ["supervised"] * 6)[0]) == []
    assert groups(rows(1.0, [""] * 6)[0]) == []
    # A group of one model has no interval.
    _, other = groups(rows(1.0, ["supervised"] * 5 + ["self-supervised"])[0])
    assert other.difference is None and about_training([other]) == ""
