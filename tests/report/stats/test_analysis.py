"""Statistics and sentences of synthetic studies whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.config.recipe import ShortlistSettings
from harness.report.render.tables.transfer import comparison_table
from harness.report.stats.analysis import analyze
from harness.report.stats.hypothesis_tests import holm
from harness.report.text import findings, methods
from harness.report.text.answer import answers
from harness.runner.result import Result
from tests.helpers import study_fakes as fakes


def with_score(result: Result, change: float, method: str) -> Result:
    """Add `change` to the test accuracy of a transfer by `method`; return others unchanged."""
    if result.kind != "transfer" or result.axes["method"] != method:
        return result
    test = fakes.scores(result.metrics["test"]["top1"] + change, fakes.NUM_IMAGES)
    return result.model_copy(update={"metrics": {**result.metrics, "test": test}})


# Comparisons of methods over targets.


def test_a_method_comparison_has_the_t_interval_over_targets() -> None:
    found, transfer = fakes.analyzed(fakes.model_zoo(seeds=(0, 1)))
    row = next(row for row in found.comparisons if row.axis == "method")
    by_target = [
        np.mean([row.score for row in transfer if (row.target, row.method) == (target, "full")])
        - np.mean([row.score for row in transfer if (row.target, row.method) == (target, "fixed")])
        for target in fakes.TARGETS
    ]
    theirs = scipy_stats.ttest_1samp(by_target, 0).confidence_interval()
    assert (
        row.difference - row.half_width_95,
        row.difference + row.half_width_95,
    ) == pytest.approx((theirs.low, theirs.high))
    assert (row.wins, row.num_pairs, row.num_targets, row.num_seeds) == (128, 128, 8, 2)
    assert (row.unit, row.num_units) == ("target", 8)
    text = methods.about_methods(found.comparisons, transfer)
    assert "full was better than fixed in 128 of 128 runs (target, model, seed)" in text
    assert "the mean difference is +" in text


@pytest.mark.parametrize(
    ("change", "stated"),
    [
        (-0.12, "in 6 of 64 runs (target, model, seed) and equal in 1; the mean difference is −"),
        (-0.06, "(not clear)"),
    ],
)
def test_an_opposite_or_unclear_effect_is_stated(change: float, stated: str) -> None:
    results = [with_score(result, change, "full") for result in fakes.model_zoo(noise=0.03)]
    found, transfer = fakes.analyzed(results)
    text = methods.about_methods(found.comparisons, transfer)
    assert stated in text


def test_two_targets_give_no_interval() -> None:
    found, transfer = fakes.analyzed(fakes.model_zoo(targets=fakes.TARGETS[:2]))
    text = methods.about_methods(found.comparisons, transfer)
    assert "±" not in text and "over 2 targets" in text


def test_comparisons_are_marked_after_holm() -> None:
    """Six comparisons with p = 0.02 are each clear alone, but none is after Holm's correction."""
    found, _ = fakes.analyzed(fakes.model_zoo())
    (row,) = found.comparisons
    lines = [replace(row, p=0.02, p_holm=p) for p in holm([0.02] * 6)]
    assert row.is_clear and not any("*" in cells[5].text for cells in comparison_table(lines).rows)
    (cells,) = comparison_table([replace(row, p=0.02, p_holm=0.02)]).rows
    assert (
        cells[5].text.endswith("*") and not cells[5].best
    )  # bold marks the best value of a column


def test_p_values_are_adjusted_over_all_comparisons() -> None:
    found, _ = fakes.analyzed(fakes.model_zoo(methods=("fixed", "logreg", "full")))
    assert len(found.comparisons) == 3
    p = [row.p for row in found.comparisons]
    adjusted = [row.p_holm for row in found.comparisons]
    assert adjusted == pytest.approx(holm(p)) and adjusted != p


# Comparisons of models: source accuracy, Elo strengths, predictors.


def test_correlation_with_source_accuracy_equals_scipy_on_logits() -> None:
    found, transfer = fakes.analyzed(fakes.model_zoo(noise=0.03))
    matrix = found.matrices["full"]
    row = next(row for row in found.associations if row.method == "full")
    logit = scipy_stats.logistic.ppf
    means = [
        np.mean([row.logit for row in transfer if row.model_id == model and row.method == "full"])
        for model in matrix.model_ids
    ]
    assert row.r == pytest.approx(
        scipy_stats.pearsonr(logit(matrix.source_accuracy), means).statistic
    )
    assert row.rho == pytest.approx(scipy_stats.spearmanr(matrix.source_accuracy, means).statistic)
    text = findings.about_source_accuracy(found.associations)
    assert (
        "Mean transfer correlates with source accuracy over 8 architectures and 8 targets: r = "
        in text
    )


def test_an_unclear_correlation_is_stated() -> None:
    results = fakes.model_zoo(noise=0.2, with_scores=False)
    found, _ = fakes.analyzed(results)
    text = findings.about_source_accuracy(found.associations)
    clear = [row for row in found.associations if row.low_95 > 0 or row.high_95 < 0]
    assert ("no clear correlation" in text) == (len(clear) < len(found.associations))
    assert ("correlates with" in text) == bool(clear) and len(clear) < len(found.associations)


def test_models_without_published_accuracy_are_not_correlated() -> None:
    results = [
        result.model_copy(update={"metrics": {**result.metrics, "imagenet_top1": None}})
        if result.kind == "adopt"
        else result
        for result in fakes.model_zoo()
    ]
    found, _ = fakes.analyzed(results)
    assert found.associations == [] and findings.about_source_accuracy(found.associations) == ""


def test_predictors_are_ranked_and_only_a_clear_lead_is_claimed() -> None:
    found, _ = fakes.analyzed(fakes.model_zoo(num_models=12, noise=0.005))
    fits = {fit.predictor: fit for fit in found.predictor_fits if fit.method == "full"}
    assert fits["knn"].weighted_kendall > 0.8 > fits["leep"].weighted_kendall
    matrix = found.matrices["full"]
    row = next(
        row
        for row in found.predictor_rows
        if (row.predictor, row.method, row.target) == ("knn", "full", "pets")
    )
    _, scores = fakes.rows_of(fakes.model_zoo(num_models=12, noise=0.005))
    knn = [
        next(
            row.value
            for row in scores
            if (row.model_id, row.target, row.name) == (model, "pets", "knn")
        )
        for model in matrix.model_ids
    ]
    column = matrix.scores[:, matrix.targets.index("pets")]
    assert row.weighted_kendall == pytest.approx(scipy_stats.weightedtau(knn, column).statistic)
    assert row.k == 4
    assert row.recall_at_k == len(set(np.argsort(knn)[-4:]) & set(np.argsort(column)[-4:])) / 4
    text = findings.about_predictors(found, None)
    assert text.startswith("Among 4 cheap predictors, knn ranks 12 models most like full does")
    assert text.endswith("Its lead over ImageNet accuracy is not clear.")
    results = fakes.model_zoo(methods=("full",))
    for result in results:
        result.metrics.pop("imagenet_top1", None)
    ahead, _ = fakes.analyzed(results)
    text = findings.about_predictors(ahead, None)
    assert (
        text.startswith("Among 2 cheap predictors, knn ") and "It is ahead of leep by 0.97" in text
    )


def test_predictors_name_the_shortlist_of_models() -> None:
    found, _ = fakes.analyzed(fakes.model_zoo(num_models=12, noise=0.005))
    assert found.predictor_fits[-1].method == "full"
    text = findings.about_predictors(found, ShortlistSettings(by="knn", best=12, methods=("full",)))
    assert "ranks 12 models that knn had selected most like full does" in text
    assert "selected" not in findings.about_predictors(
        found, ShortlistSettings(by="knn", best=12, methods=("fixed",))
    )


def test_useless_scores_are_no_predictors() -> None:
    results = fakes.model_zoo(methods=("full",))
    for result in results:
        if result.kind == "adopt":
            result.metrics["imagenet_top1"] = None
        elif result.kind == "score":
            del result.metrics["scores"]["knn"]
    found, _ = fakes.analyzed(results)
    assert findings.about_predictors(found, None).startswith(
        "No cheap predictor clearly ranks the models as full does"
    )


def test_elo_claims_a_leader_only_with_direct_wins() -> None:
    clear, _ = fakes.analyzed(fakes.model_zoo(noise=0.012, seeds=range(5), with_scores=False))
    assert "leads 8 models" in findings.about_strengths(clear)
    assert clear.rankings["full"][0].times_in_top == 8
    close, _ = fakes.analyzed(fakes.model_zoo(noise=0.2))
    assert "is not clear" in findings.about_strengths(close)
    few, _ = fakes.analyzed(fakes.model_zoo(num_models=3))
    assert few.rankings == {} and findings.about_strengths(few) == ""


def test_a_model_with_missing_targets_is_ranked_but_not_averaged() -> None:
    results = [
        result
        for result in fakes.model_zoo()
        if (result.axes.get("model"), result.axes.get("target")) != ("torchvision/net7", "pets")
    ]
    found, _ = fakes.analyzed(results)
    by_model = {row.model: row for row in found.rankings["full"]}
    assert (by_model["torchvision/net7"].num_targets, by_model["torchvision/net0"].num_targets) == (
        7,
        8,
    )
    assert by_model["torchvision/net7"].standard_error is None
    assert next(row for row in found.associations if row.method == "full").num_models == 7


# Numbers of classes and images, training from scratch, grids.


@pytest.mark.parametrize(
    ("effect", "stated", "not_stated"),
    [
        (0.05, "more classes were the better choice", "fewer classes with more"),
        (
            -0.05,
            "fewer classes with more images each were the better choice",
            "more classes were the better",
        ),
        (0.0, "(full, not clear)", "better choice"),
    ],
)
def test_classes_against_images_at_equal_budgets(
    effect: float, stated: str, not_stated: str
) -> None:
    recipe, results = fakes.amounts(effect=effect, spread=0.004)
    transfer, _ = fakes.rows_of(results, recipe)
    text = " ".join(answers([], transfer, analyze([], transfer, [], {}).effects))
    assert "With equal numbers of pretraining images (500,000 and 125,000), classes400" in text
    assert "classes400 instead of per500 changed transfer by" in text
    assert stated in text and not_stated not in text


def test_one_seed_gives_no_better_budget() -> None:
    recipe, results = fakes.amounts(effect=0.05, seeds=(0,))
    transfer, _ = fakes.rows_of(results, recipe)
    text = " ".join(answers([], transfer, analyze([], transfer, [], {}).effects))
    assert "With equal numbers" in text and "better choice" not in text and "±" not in text


@pytest.mark.parametrize(
    ("gap", "verdict"), [(0.1, "positive"), (-0.1, "negative"), (0.0, "not clear")]
)
def test_negative_transfer_is_flagged_by_its_interval(gap: float, verdict: str) -> None:
    found, transfer = fakes.analyzed(fakes.against_scratch(gap))
    assert {row.verdict for row in found.against_scratch} == {verdict}
    for comparison in found.against_scratch:
        sides = [
            [
                row.score
                for row in transfer
                if (row.target, row.method) == (comparison.target, method)
            ]
            for method in ("full", "scratch")
        ]
        theirs = scipy_stats.ttest_ind(*sides, equal_var=False).confidence_interval()
        assert (comparison.low_95, comparison.high_95) == pytest.approx((theirs.low, theirs.high))
    text = findings.about_scratch(found.against_scratch)
    assert f"clearly worse in {2 if verdict == 'negative' else 0}" in text


def test_unequal_tuning_and_single_runs_are_not_judged() -> None:
    unequal, _ = fakes.analyzed(fakes.against_scratch(-0.1, num_configs_scratch=8))
    assert "negative transfer is not judged" in findings.about_scratch(unequal.against_scratch)
    single, _ = fakes.analyzed(fakes.against_scratch(-0.1, seeds=(0,)))
    text = findings.about_scratch(single.against_scratch)
    assert "none of it counts as negative transfer" in text and "clearly" not in text


def test_scratch_methods_of_different_budgets_are_separate_baselines() -> None:
    """Transfer is clearly worse than tuned training from scratch, and clearly better than short."""
    results = fakes.against_scratch(-0.02)
    for seed in (0, 1, 2):
        for target in ("pets", "cars"):
            axes = {"arch": "resnet10", "seed": seed, "target": target, "method": "scratch_short"}
            score = 0.5 + 0.002 * seed
            results.append(fakes.transfer(None, axes, score, method="scratch", num_configs=4))
    found, _ = fakes.analyzed(results)
    assert {
        (row.target, row.scratch_method): (row.verdict, row.num_seeds, row.is_matched)
        for row in found.against_scratch
    } == {
        (target, method): verdict
        for target in ("pets", "cars")
        for method, verdict in {
            "scratch": ("negative", 3, True),
            "scratch_short": ("positive", 3, False),
        }.items()
    }


def test_the_selected_configuration_is_stated() -> None:
    found, transfer = fakes.analyzed(fakes.grids())
    text = methods.about_methods(found.comparisons, transfer)
    assert "l2sp was better than default in 4 of 4 runs" in text
    assert "reinit_last 1 (4 of 4 runs)" in text and "alpha 0.01 (4 of 4 runs)" in text


def test_equal_runs_against_scratch_are_not_called_single_runs() -> None:
    found, _ = fakes.analyzed(fakes.against_scratch(-0.1))
    equal = [
        replace(row, low_95=None, high_95=None, verdict="equal runs")
        for row in found.against_scratch
    ]
    text = findings.about_scratch(equal)
    assert "single runs" not in text and "No case has runs that differ" in text
