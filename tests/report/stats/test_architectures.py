"""Correlations and wins over architectures, for made-up accuracies with a known answer."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.config import load
from harness.report.render.report import collect
from harness.report.stats.architectures import ALL_TARGETS
from harness.report.text import findings, methods
from harness.runner.result import Result
from tests.helpers import study_fakes as fakes

TARGETS = ("pets", "cars", "food", "dtd")


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def adopted(name: str, accuracy: float | None, arch: str | None = None) -> Result:
    metrics = {"imagenet_top1": accuracy, "num_classes": 1000, "arch": arch or name}
    return fakes.stage("adopt", {"model": name}, metrics)


def transferred(
    model: Result, logits: Sequence[float], *, method: str = "full", kind: str | None = None
) -> list[Result]:
    """Make one transfer per target with these logits of the accuracy.

    The test sets have a million images, so that counts do not round the logits. `kind` is the
    method's implementation if it differs from the name `method`.
    """
    return [
        fakes.transfer(
            model,
            {**model.axes, "target": target, "method": method},
            sigmoid(value),
            method=kind,
            num_images=10**6,
        )
        for target, value in zip(TARGETS, logits, strict=False)
    ]


def study(
    pairs: Mapping[str, tuple[float, float]], *, method: str = "full", kind: str | None = None
) -> list[Result]:
    """Make results; `pairs`: model -> log-odds on ImageNet and mean log-odds on the targets."""
    results = []
    for name, (source, target) in pairs.items():
        model = adopted(name, sigmoid(source))
        logits = [target + offset for offset in (-0.6, -0.2, 0.2, 0.6)]
        results += [model, *transferred(model, logits, method=method, kind=kind)]
    return results


LINE = {f"timm/net{index}": (0.2 * index, 0.1 * index) for index in range(8)}


def test_six_variants_of_one_architecture_do_not_enter_a_correlation():
    """Loaded models on a line have r = 1; six trained variants off the line would lower r."""
    results = study({"torchvision/resnet50@IMAGENET1K_V1": (1.1, 0.55), **LINE})
    for index in range(6):
        axes = {"arch": "resnet50", "subset": "in1000", "variant": f"v{index}", "eps": 0.0}
        model = fakes.stage("pretrain", {**axes, "seed": 0}, {"num_classes": 1000})
        evaluated = fakes.stage(
            "evaluate",
            {**axes, "seed": 0},
            {"num_common_classes": 1000, "clean": {"common_masked": fakes.scores(0.76, 50_000)}},
            {"model": model},
        )
        for scored in evaluated.metrics["clean"].values():
            scored["top5"] = 0.9
        results += [model, evaluated, *transferred(model, [2 - index / 2] * 4)]
    found, _ = fakes.analyzed(results)
    (row,) = found.associations
    assert row.num_models == 9 and row.left_out == ()
    assert row.r == pytest.approx(1, abs=1e-4)  # scores are counts of a million images
    everything = found.matrices["full"]
    source = scipy_stats.logistic.ppf(everything.source_accuracy)
    pooled = scipy_stats.pearsonr(source, everything.logits.mean(axis=1)).statistic
    assert len(everything.names) == 15 and pooled < 0.8


def test_a_recipe_of_existing_models_opens_with_the_correlation():
    """Variants of pretraining are controls there: their difference is not the headline."""
    results = study(LINE)
    for variant, logit in (("plain", 1.0), ("smooth", 2.0)):
        axes = {"arch": "resnet50", "subset": "in1000", "variant": variant, "eps": 0.0, "seed": 0}
        model = fakes.stage("pretrain", axes, {"num_classes": 1000})
        results += [model, *transferred(model, [logit] * 4)]
    recipe = load.read("better_models")
    page = collect(recipe, results, [], {}, {})
    assert page.headline.startswith("Mean transfer correlates with source accuracy over")
    assert any("smooth instead of plain" in text for text in page.sentences)
    pretrained_only = recipe.model_copy(update={"models": ()})
    page = collect(pretrained_only, results, [], {}, {})
    assert page.headline.startswith("Pretraining with smooth instead of plain")


@pytest.mark.parametrize("true_r", [0.99, 0.9, 0.5, -0.7])
def test_the_correlation_is_that_of_the_made_up_log_odds(true_r: float):
    rng = np.random.default_rng(5)
    source, noise = rng.normal(size=16), rng.normal(size=16)
    source = (source - source.mean()) / source.std()
    noise -= noise.mean() + source * (noise @ source) / 16  # uncorrelated with source
    target = true_r * source + math.sqrt(1 - true_r**2) * noise / noise.std()
    pairs = {f"timm/net{i}": (1 + 0.5 * source[i], target[i]) for i in range(16)}
    found, _ = fakes.analyzed(study(pairs))
    (row,) = found.associations
    assert row.num_models == 16 and row.r == pytest.approx(true_r, abs=2e-4)
    z, half = math.atanh(true_r), scipy_stats.norm.ppf(0.975) / math.sqrt(13)
    assert (row.low_95, row.high_95) == pytest.approx(
        (math.tanh(z - half), math.tanh(z + half)), abs=2e-3
    )


def test_a_model_with_more_targets_than_others_is_correlated_on_shared_targets():
    results = study(LINE)
    ahead = adopted("timm/ahead", sigmoid(1.7))
    results = [
        result for result in results if result.axes.get("target") not in (TARGETS[2], TARGETS[3])
    ]
    results += [ahead, *transferred(ahead, [0.85 - 0.6, 0.85 - 0.2, 3, 3])]
    found, _ = fakes.analyzed(results)
    (row,) = found.associations
    assert (row.num_models, row.num_targets) == (9, 2)
    assert row.r == pytest.approx(1, abs=1e-4)


def test_models_without_all_targets_or_accuracy_are_named_and_left_out():
    results = study(LINE)
    late = adopted("timm/late", sigmoid(1.0))
    unknown = adopted("timm/unknown", None)
    results += [late, *transferred(late, [0.0]), unknown, *transferred(unknown, [0.0] * 4)]
    found, _ = fakes.analyzed(results)
    (row,) = found.associations
    assert (row.num_models, row.num_targets) == (8, 4)
    assert row.left_out == ("timm/late", "timm/unknown")
    text = findings.about_source_accuracy(found.associations)
    assert "2 more are left out" in text and "timm/late and timm/unknown." in text


def test_an_architecture_counts_once_with_any_weights_tag_or_library():
    results = study(LINE)
    for name in ("torchvision/net0@IMAGENET1K_V2", "timm/net1.a1_in1k", "net2"):
        model = adopted(name, 0.9)
        results += [model, *transferred(model, [-3.0] * 4)]
    renamed = adopted("mine", 0.9, arch="timm/net3")
    results += [renamed, *transferred(renamed, [-3.0] * 4)]
    found, _ = fakes.analyzed(results)
    (row,) = found.associations
    assert row.num_models == 8 and row.r == pytest.approx(1, abs=1e-4)


def test_training_from_scratch_has_a_correlation_and_no_ranking():
    results = study(LINE)
    for name, (source, _) in LINE.items():
        results += transferred(
            adopted(name, sigmoid(source)), [0.3 * source] * 4, method="random", kind="scratch"
        )
    found, _ = fakes.analyzed(results)
    by_method = {row.method: row for row in found.associations}
    assert by_method["random"].r == pytest.approx(1, abs=1e-4)
    assert by_method["random"].num_models == 8
    assert set(found.rankings) == {"full"} and set(found.compared) == {"full", "random"}


def test_wins_are_counted_once_per_architecture_and_target():
    """Of the 36 pairs of architecture and target, full loses 3 and ties 1; variants add none."""
    pairs = {"torchvision/resnet50": (0.0, 0.0), **LINE}
    results = []
    for index, (name, (source, target)) in enumerate(pairs.items()):
        model = adopted(name, sigmoid(source))
        logits = [target + offset for offset in (-0.6, -0.2, 0.2, 0.6)]
        change = [-0.5 if index < 3 else 0.5, 0.5, 0.5, 0.0 if index == 8 else 0.5]
        results += [model, *transferred(model, logits, method="logreg")]
        results += transferred(model, [sum(x) for x in zip(logits, change, strict=True)])
        results += transferred(model, [-4.0] * 4, method="scratch")
    for index in range(6):  # variants of an architecture that is already counted
        variant = adopted(f"mine{index}", 0.7, arch="resnet50")
        results += [variant, *transferred(variant, [1.0] * 4)]
        results += transferred(variant, [2.0] * 4, method="logreg")
    found, transfer = fakes.analyzed(results)
    by_pair = {(row.method, row.baseline, row.target): row for row in found.signs}
    total = by_pair["full", "logreg", ALL_TARGETS]
    assert (total.wins, total.ties, total.num_pairs) == (32, 1, 36)
    first = by_pair["full", "logreg", TARGETS[0]]
    assert (first.wins, first.ties, first.num_pairs) == (6, 0, 9)
    assert by_pair["full", "scratch", ALL_TARGETS].wins == 36
    assert by_pair["logreg", "scratch", ALL_TARGETS].wins == 36
    assert not any(row.method == "scratch" for row in found.signs)
    text = methods.about_methods(found.comparisons, transfer, found.signs)
    assert "full was better than logreg in 32 of 36 pairs of architecture and target" in text


def test_few_architectures_have_neither_wins_nor_a_correlation():
    results = study({name: pair for name, pair in list(LINE.items())[:3]})
    found, _ = fakes.analyzed(results)
    assert found.associations == [] and found.signs == []


def test_times_in_the_top_five_are_counted_by_knn_scores():
    results = fakes.model_zoo(num_models=8, noise=0.02)
    found, _ = fakes.analyzed(results)
    _, scores = fakes.rows_of(results)
    expected: dict[str, int] = {}
    for target in fakes.TARGETS:
        values = {
            row.model: row.value for row in scores if (row.name, row.target) == ("knn", target)
        }
        for model in sorted(values, key=lambda model: -values[model])[:5]:
            expected[model] = expected.get(model, 0) + 1
    counts = {row.model: row.times_in_top for row in found.top_counts}
    assert counts == {f"torchvision/net{index}": 0 for index in range(8)} | expected
    assert sum(counts.values()) == 5 * len(fakes.TARGETS)
    few, _ = fakes.analyzed(fakes.model_zoo(num_models=5))
    assert few.top_counts == []
