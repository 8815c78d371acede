"""The statistics of the five studies from fabricated results whose answer is known, and what the sentences may not say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.config.recipe import Recipe, ShortlistSettings
from harness.report.data.collection import Collection
from harness.report.data.records import ScoreRow, TransferRow
from harness.report.data.rows import score_rows, transfer_rows
from harness.report.render.page import write
from harness.report.render.tables.transfer import comparison_table
from harness.report.stats.analysis import Analysis, analyze
from harness.report.stats.hypothesis_tests import holm
from harness.report.text import findings
from harness.report.text.answer import answers
from harness.runner.result import Result
from tests.helpers import study_fakes as fakes


def rows_of(
    results: list[Result], recipe: Recipe | None = None
) -> tuple[list[TransferRow], list[ScoreRow]]:
    targets = dict.fromkeys(
        result.axes["target"] for result in results if result.kind == "transfer"
    )
    methods = dict.fromkeys(
        result.axes["method"] for result in results if result.kind == "transfer"
    )
    found = Collection(recipe or fakes.recipe_for(targets, methods), results)
    return transfer_rows(found), score_rows(found)


def analysed(
    results: list[Result], predictions: dict[str, Path] | None = None
) -> tuple[Analysis, list[TransferRow]]:
    transfer, scores = rows_of(results)
    return analyze([], transfer, scores, predictions or {}), transfer


def with_score(result: Result, change: float, method: str) -> Result:
    """The result with another test score, if it is of that method."""
    if result.kind != "transfer" or result.axes["method"] != method:
        return result
    test = fakes.scores(result.metrics["test"]["top1"] + change, fakes.NUM_IMAGES)
    return result.model_copy(update={"metrics": {**result.metrics, "test": test}})


# Methods over targets.


def test_a_clear_method_beats_and_its_interval_is_the_t_interval_over_targets() -> None:
    found, transfer = analysed(fakes.model_zoo(seeds=(0, 1)))
    one = next(one for one in found.comparisons if one.axis == "method")
    by_target = [
        np.mean([row.score for row in transfer if (row.target, row.method) == (target, "full")])
        - np.mean([row.score for row in transfer if (row.target, row.method) == (target, "fixed")])
        for target in fakes.TARGETS
    ]
    theirs = scipy_stats.ttest_1samp(by_target, 0).confidence_interval()
    assert (
        one.difference - one.half_width_95,
        one.difference + one.half_width_95,
    ) == pytest.approx((theirs.low, theirs.high))
    assert (one.wins, one.num_pairs, one.num_targets, one.num_seeds) == (128, 128, 8, 2)
    assert one.bootstrap_low < one.difference < one.bootstrap_high
    assert (
        "full was better than fixed in 128 of 128 runs (target, model, seed); the mean difference is +"
        in findings.about_methods(found.comparisons, transfer)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (-0.12, "in 6 of 64 runs (target, model, seed); the mean difference is −"),
        (-0.06, "(not clear)"),
    ],
)
def test_an_opposite_or_absent_effect_is_said(change: float, said: str) -> None:
    results = [with_score(result, change, "full") for result in fakes.model_zoo(noise=0.03)]
    found, transfer = analysed(results)
    text = findings.about_methods(found.comparisons, transfer)
    assert said in text


def test_two_targets_carry_no_interval() -> None:
    found, transfer = analysed(fakes.model_zoo(targets=fakes.TARGETS[:2]))
    text = findings.about_methods(found.comparisons, transfer)
    assert "±" not in text and "over 2 targets" in text


@pytest.mark.parametrize(("num_targets", "resampled"), [(2, False), (4, False), (5, True)])
def test_resampling_needs_more_than_a_few_targets(num_targets: int, resampled: bool) -> None:
    found, _ = analysed(fakes.model_zoo(targets=fakes.TARGETS[:num_targets], seeds=(0, 1)))
    assert {
        (one.bootstrap_low is not None, one.bootstrap_high is not None) for one in found.comparisons
    } == {(resampled,) * 2}


def test_bold_of_comparisons_is_what_holm_leaves() -> None:
    """Six equal lines of p = 0.02: each clear by itself, none after Holm."""
    found, _ = analysed(fakes.model_zoo())
    (one,) = found.comparisons
    lines = [replace(one, p=0.02, p_holm=p) for p in holm([0.02] * 6)]
    assert one.is_clear and not any(row[4].best for row in comparison_table(lines).rows)
    assert comparison_table([replace(one, p=0.02, p_holm=0.02)]).rows[0][4].best


def test_p_values_are_adjusted_over_all_comparisons() -> None:
    found, _ = analysed(fakes.model_zoo(methods=("fixed", "logreg", "full")))
    assert len(found.comparisons) == 3
    for one in found.comparisons:
        assert (
            one.p is not None
            and one.p_holm is not None
            and one.p <= one.p_holm <= 3 * one.p + 1e-12
        )


# Models: source accuracy, strengths, predictors.


def test_correlation_with_source_accuracy_is_scipys_on_logits() -> None:
    found, transfer = analysed(fakes.model_zoo(noise=0.03))
    board = found.matrices["full"]
    one = next(one for one in found.associations if one.method == "full")
    logit = scipy_stats.logistic.ppf
    means = [
        np.mean([row.logit for row in transfer if row.model_id == source and row.method == "full"])
        for source in board.model_ids
    ]
    assert one.r == pytest.approx(
        scipy_stats.pearsonr(logit(board.source_accuracy), means).statistic
    )
    assert one.rho == pytest.approx(scipy_stats.spearmanr(board.source_accuracy, means).statistic)
    text = findings.about_source_accuracy(found.associations)
    assert "Mean transfer correlates with source accuracy over 8 models and 8 targets: r = " in text


def test_no_relation_is_called_none() -> None:
    results = fakes.model_zoo(noise=0.2, with_scores=False)
    found, _ = analysed(results)
    text = findings.about_source_accuracy(found.associations)
    clear = [one for one in found.associations if one.low_95 > 0 or one.high_95 < 0]
    assert ("no clear correlation" in text) == (len(clear) < len(found.associations))
    assert ("correlates with" in text) == bool(clear) and len(clear) < len(found.associations)


def test_models_without_published_accuracy_make_no_correlation() -> None:
    results = [
        result.model_copy(update={"metrics": {**result.metrics, "imagenet_top1": None}})
        if result.kind == "adopt"
        else result
        for result in fakes.model_zoo()
    ]
    found, _ = analysed(results)
    assert found.associations == [] and findings.about_source_accuracy(found.associations) == ""


def test_predictors_are_ranked_and_a_lead_is_claimed_only_where_it_is_clear() -> None:
    found, _ = analysed(fakes.model_zoo(num_models=12, noise=0.005))
    mine = {power.predictor: power for power in found.predictor_fits if power.method == "full"}
    assert mine["knn"].weighted_kendall > 0.8 > mine["leep"].weighted_kendall
    board = found.matrices["full"]
    row = next(
        row
        for row in found.predictor_rows
        if (row.predictor, row.method, row.target) == ("knn", "full", "pets")
    )
    _, scores = rows_of(fakes.model_zoo(num_models=12, noise=0.005))
    knn = [
        next(
            one.value
            for one in scores
            if (one.model_id, one.target, one.name) == (source, "pets", "knn")
        )
        for source in board.model_ids
    ]
    column = board.scores[:, board.targets.index("pets")]
    assert row.weighted_kendall == pytest.approx(scipy_stats.weightedtau(knn, column).statistic)
    assert (
        row.k == 4
        and row.recall_at_k == len(set(np.argsort(knn)[-4:]) & set(np.argsort(column)[-4:])) / 4
    )
    text = findings.about_predictors(found, None)
    assert text.startswith("Among 4 cheap predictors, ") and ("ahead of" in text) != (
        "is not clear" in text
    )


def test_predictors_of_a_shortlist_say_on_which_models() -> None:
    found, _ = analysed(fakes.model_zoo(num_models=12, noise=0.005))
    assert found.predictor_fits[-1].method == "full"
    text = findings.about_predictors(found, ShortlistSettings(by="knn", best=12, methods=("full",)))
    assert "over 8 targets), among the 12 that knn had selected" in text
    assert "selected" not in findings.about_predictors(
        found, ShortlistSettings(by="knn", best=12, methods=("fixed",))
    )


def test_useless_scores_predict_nothing() -> None:
    results = fakes.model_zoo(methods=("full",))
    for result in results:
        if result.kind == "adopt":
            result.metrics["imagenet_top1"] = None
        elif result.kind == "score":
            del result.metrics["scores"]["knn"]
    found, _ = analysed(results)
    assert findings.about_predictors(found, None).startswith(
        "No cheap predictor clearly ranks the models as full does"
    )


def test_elo_claims_a_leader_only_where_direct_meetings_do() -> None:
    clear, _ = analysed(fakes.model_zoo(noise=0.012, seeds=range(5), with_scores=False))
    assert "leads 8 models" in findings.about_strengths(clear)
    assert clear.rankings["full"][0].times_in_top == 8
    close, _ = analysed(fakes.model_zoo(noise=0.2))
    assert "is not clear" in findings.about_strengths(close)
    few, _ = analysed(fakes.model_zoo(num_models=3))
    assert few.rankings == {} and findings.about_strengths(few) == ""


def test_a_model_that_failed_on_some_targets_stays_in_the_ranking_and_out_of_the_averages() -> None:
    results = [
        result
        for result in fakes.model_zoo()
        if (result.axes.get("model"), result.axes.get("target")) != ("torchvision/net7", "pets")
    ]
    found, _ = analysed(results)
    by_model = {one.model: one for one in found.rankings["full"]}
    assert (by_model["torchvision/net7"].num_targets, by_model["torchvision/net0"].num_targets) == (
        7,
        8,
    )
    assert by_model["torchvision/net7"].standard_error is None
    assert next(one for one in found.associations if one.method == "full").num_models == 7


# Amounts, scratch, grids.


@pytest.mark.parametrize(
    ("effect", "said", "unsaid"),
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
def test_classes_against_images_at_equal_budgets(effect: float, said: str, unsaid: str) -> None:
    recipe, results = fakes.amounts(effect=effect, spread=0.004)
    transfer, _ = rows_of(results, recipe)
    text = " ".join(answers([], transfer, analyze([], transfer, [], {}).effects))
    assert (
        "With equal numbers of pretraining images (500,000 and 125,000), classes400 instead of per500 "
        "changed transfer by" in text
    )
    assert said in text and unsaid not in text


def test_one_seed_reads_nothing_into_budgets() -> None:
    recipe, results = fakes.amounts(effect=0.05, seeds=(0,))
    transfer, _ = rows_of(results, recipe)
    text = " ".join(answers([], transfer, analyze([], transfer, [], {}).effects))
    assert "With equal numbers" in text and "better choice" not in text and "±" not in text


@pytest.mark.parametrize(
    ("gap", "verdict"), [(0.1, "positive"), (-0.1, "negative"), (0.0, "not clear")]
)
def test_negative_transfer_is_flagged_by_its_interval(gap: float, verdict: str) -> None:
    found, transfer = analysed(fakes.against_scratch(gap))
    assert {one.verdict for one in found.against_scratch} == {verdict}
    for one in found.against_scratch:
        sides = [
            [row.score for row in transfer if (row.target, row.method) == (one.target, method)]
            for method in ("full", "scratch")
        ]
        theirs = scipy_stats.ttest_ind(*sides, equal_var=False).confidence_interval()
        assert (one.low_95, one.high_95) == pytest.approx((theirs.low, theirs.high))
    text = findings.about_scratch(found.against_scratch)
    assert f"clearly worse in {2 if verdict == 'negative' else 0}" in text


def test_unequal_tuning_and_single_runs_are_not_judged() -> None:
    unequal, _ = analysed(fakes.against_scratch(-0.1, num_configs_scratch=8))
    assert "negative transfer is not judged" in findings.about_scratch(unequal.against_scratch)
    single, _ = analysed(fakes.against_scratch(-0.1, seeds=(0,)))
    text = findings.about_scratch(single.against_scratch)
    assert "none of it counts as negative transfer" in text and "clearly" not in text


def test_what_the_grid_chose_is_said() -> None:
    found, transfer = analysed(fakes.grids())
    text = findings.about_methods(found.comparisons, transfer)
    assert "l2sp was better than default in 4 of 4 runs" in text
    assert "reinit_last 1 (4 of 4 runs)" in text and "alpha 0.01 (4 of 4 runs)" in text


# Tests on images, from files of predictions.


def predictions(
    folder: Path, results: list[Result], right: Any, order: Any = None
) -> dict[str, Path]:
    """Files as transfer stages leave them; `right(result)`: bool [N]."""
    found = {}
    labels = np.arange(fakes.NUM_IMAGES, dtype=np.int32) % 7
    ids = np.arange(fakes.NUM_IMAGES, dtype=np.uint64) * 977
    for number, result in enumerate(result for result in results if result.kind == "transfer"):
        places = np.arange(fakes.NUM_IMAGES) if order is None else order(result)
        path = folder / f"{number}.npz"
        correct = right(result)
        np.savez(
            path,
            sample=ids[places],
            label=labels[places],
            test_predicted=np.where(correct, labels, -1)[places],
            test_correct=correct[places],
        )
        found[result.key] = path
    return found


def test_mcnemar_from_stored_predictions_in_any_order_of_images(tmp_path: Path) -> None:
    results = fakes.model_zoo(num_models=1, targets=("pets",), with_scores=False)
    random = np.random.default_rng(0)
    correct = {
        "fixed": random.random(fakes.NUM_IMAGES) < 0.70,
        "full": random.random(fakes.NUM_IMAGES) < 0.74,
    }
    files = predictions(
        tmp_path,
        results,
        lambda result: correct[result.axes["method"]],
        lambda result: np.random.default_rng(len(result.axes["method"])).permutation(
            fakes.NUM_IMAGES
        ),
    )
    found, _ = analysed(results, files)
    (one,) = found.image_tests
    only = (
        int((correct["full"] & ~correct["fixed"]).sum()),
        int((correct["fixed"] & ~correct["full"]).sum()),
    )
    assert (one.setting, one.baseline, one.target, one.test) == ("full", "fixed", "pets", "McNemar")
    assert (one.only_setting, one.only_baseline) == only
    assert one.p == pytest.approx(scipy_stats.binomtest(only[0], sum(only)).pvalue) == one.p_holm
    assert one.difference == pytest.approx((only[0] - only[1]) / fakes.NUM_IMAGES)


def test_the_best_two_models_of_a_target_are_compared_over_their_seeds(tmp_path: Path) -> None:
    results = fakes.model_zoo(
        num_models=5, targets=("pets", "cars"), methods=("full",), seeds=(0, 1), with_scores=False
    )
    files = predictions(
        tmp_path,
        results,
        lambda result: np.random.default_rng(len(result.key)).random(fakes.NUM_IMAGES) < 0.8,
    )
    found, _ = analysed(results, files)
    assert [(one.axis, one.test, one.num_seeds) for one in found.image_tests] == [
        ("model", "exact exchange", 2)
    ] * 2
    assert {one.setting for one in found.image_tests} == {"torchvision/net4"}


def test_files_that_cannot_serve_make_no_test(tmp_path: Path) -> None:
    results = fakes.model_zoo(num_models=1, targets=("pets",), with_scores=False)
    files = predictions(tmp_path, results, lambda result: np.ones(fakes.NUM_IMAGES, bool))
    first, second = files.values()
    np.savez(
        first,
        sample=np.arange(3, dtype=np.uint64),
        label=np.zeros(3, np.int32),
        test_correct=np.ones(3, bool),
    )
    assert analysed(results, files)[0].image_tests == []  # other images
    second.write_bytes(b"PK\x03\x04 cut short")
    assert analysed(results, files)[0].image_tests == []
    second.unlink()
    assert analysed(results, files)[0].image_tests == []


def test_mean_average_precision_is_tested_from_what_evaluation_stores(tmp_path: Path) -> None:
    """The files are written by the code that evaluates, and the difference is that of its own scores."""
    torch = pytest.importorskip("torch")
    from harness.train.average_precision import MultiLabelCounts
    from harness.train.predictions import FILE, save_arrays

    random = np.random.default_rng(4)
    labels = random.choice([-1, 0, 1], (60, 3), p=[0.6, 0.1, 0.3]).astype(np.int8)
    results, files, maps = [], {}, {}
    for result in fakes.model_zoo(num_models=1, targets=("voc",), with_scores=False):
        if result.kind == "transfer":
            counts = MultiLabelCounts()
            noise = {"fixed": 4.0, "full": 0.5}[result.axes["method"]]
            counts.add(
                torch.tensor(labels + random.normal(0, noise, labels.shape)), torch.tensor(labels)
            )
            scores = counts.scores()
            folder = tmp_path / result.axes["method"]
            save_arrays(
                folder, np.arange(60, dtype=np.uint64), labels, {"test": counts.predictions()}
            )
            files[result.key], maps[result.axes["method"]] = folder / FILE, scores["map11"]
            result = result.model_copy(
                update={
                    "metrics": {
                        **result.metrics,
                        "metric": "map11",
                        "test": scores,
                        "val": scores,
                        "grid": [{**point, "val": scores} for point in result.metrics["grid"]],
                    }
                }
            )
        results.append(result)
    (one,) = analysed(results, files)[0].image_tests
    assert (one.metric, one.test, one.num_images) == ("map11", "permutation", 60)
    assert one.difference == pytest.approx(maps["full"] - maps["fixed"]) and one.p < 0.01


# Whole reports.


def test_a_recipe_with_models_only_makes_a_whole_report(tmp_path: Path) -> None:
    recipe = fakes.recipe_for(fakes.TARGETS, ("fixed", "full"))
    path = write(
        recipe,
        fakes.model_zoo(),
        ["transfer/pets/full/x"],
        tmp_path,
        ("html", "md", "csv"),
        failed={"transfer/pets/full/x": "UserError: net99 has no linear layer."},
    )
    text = path.read_text()
    assert "failed:</b> UserError: net99 has no linear layer." in text
    for name in ("source-0", "elo-0", "predictors-0"):
        assert f'id="{name}-' in text and f'download="{name}.csv"' in text
        svg = (tmp_path / "figures" / f"{name}.svg").read_text()
        assert (
            svg.startswith("<?xml")
            and "var(" not in svg
            and (tmp_path / "figures" / f"{name}.csv").stat().st_size > 40
        )
    assert text.count("Among 4 cheap predictors") == 1  # said once: where the report opens
    assert "## Models compared" in (tmp_path / "report.md").read_text()


def test_curves_and_heat_maps_show_what_was_measured(tmp_path: Path) -> None:
    results = fakes.curves()
    methods = dict.fromkeys(
        result.axes["method"] for result in results if result.kind == "transfer"
    )
    write(fakes.recipe_for(fakes.TARGETS[:4], methods), results, [], tmp_path)
    lines = (tmp_path / "figures" / "curve-per_class-0.csv").read_text().splitlines()
    assert lines[0] == "method,per_class,mean,sd,num_seeds" and len(lines) == 1 + 2 * 4
    scores = [
        result.metrics["test"]["top1"]
        for result in results
        if result.axes.get("per_class") == 5
        and (result.axes["target"], result.axes["method"]) == ("aircraft", "full_per_class")
    ]
    method, size, mean, *_ = lines[1].split(",")
    assert (method, size) == ("full_per_class", "5") and float(mean) == pytest.approx(
        np.mean(scores)
    )
    write(
        fakes.recipe_for(fakes.TARGETS[:4], ("default", "l2sp")),
        fakes.grids(),
        [],
        tmp_path / "grids",
    )
    heat = (tmp_path / "grids" / "figures" / "grid-0.csv").read_text().splitlines()
    assert heat[0] == "lr,reinit_last,val_score" and len(heat) == 1 + 3 * 4
    best = max(heat[1:], key=lambda line: float(line.split(",")[2]))
    assert best.split(",")[1] == "1"
