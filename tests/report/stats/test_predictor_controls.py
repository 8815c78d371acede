"""Controls of predictors: size or accuracy alone, correlation given size, families left out."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.report.data.records import ModelId, ScoreRow
from harness.report.render.tables.scores import predictor_table
from harness.report.stats import summaries
from harness.report.stats.leaderboard import ScoreMatrix
from harness.report.stats.predictors import (
    IMAGENET_ACCURACY,
    PARAMETERS,
    PredictorRow,
    family_of,
    predictor_fits,
    predictor_rows,
)
from harness.report.text.findings import about_predictors
from tests.helpers import study_fakes as fakes

NETWORKS = ("resnet18", "resnet50", "resnet152", "vit_base_patch16_224", "vit_large", "densenet121")
NETWORKS += ("densenet161", "regnety_016")
GENERATOR = np.random.default_rng(0)
SIZES = np.array([12, 26, 60, 86, 300, 8, 29, 11], float) * 1e6
ACCURACY = 0.5 + 0.02 * np.log(SIZES / 1e6) + GENERATOR.normal(0, 0.01, 8)
SCORE = np.log(SIZES) + GENERATOR.normal(0, 0.2, 8)  # size and noise
UNKNOWN = np.full(8, np.nan)
IDS = tuple(ModelId(f"timm/{name}", "", "", "", 0.0) for name in NETWORKS)


def matrix(sizes: np.ndarray = SIZES) -> ScoreMatrix:
    accuracy = ACCURACY[:, None]
    return ScoreMatrix(
        "full", False, IDS, NETWORKS, ("pets",), accuracy, accuracy, ACCURACY / 2, (), NETWORKS, sizes
    )  # fmt: skip


def score_rows(values: np.ndarray = SCORE) -> list[ScoreRow]:
    row = ScoreRow("", "pets", "logme", 0.0, "", 0.0, 0, None, None, "")
    return [
        replace(row, model=model.model, value=float(value))
        for model, value in zip(IDS, values, strict=True)
    ]


def rows_by_name(**more: np.ndarray) -> dict[str, PredictorRow]:
    return {row.predictor: row for row in predictor_rows(score_rows(), {"full": matrix(**more)})}


def test_size_and_accuracy_are_predictors_with_a_row_each():
    rows = rows_by_name()
    assert set(rows) == {"logme", PARAMETERS, IMAGENET_ACCURACY}
    assert rows[PARAMETERS].spearman == pytest.approx(scipy_stats.spearmanr(SIZES, ACCURACY)[0])
    assert rows[IMAGENET_ACCURACY].spearman == pytest.approx(1.0)
    trained = tuple(model._replace(model="", arch=model.model) for model in IDS)
    own = predictor_rows([], {"full": replace(matrix(), model_ids=trained)})
    assert {row.predictor for row in own} == {PARAMETERS, "source accuracy"}


def test_the_correlation_given_size_follows_from_three_correlations():
    """r_xy.z = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))."""
    row = rows_by_name()["logme"]
    xy, xz, yz = (
        scipy_stats.pearsonr(one, other)[0]
        for one, other in (
            (SCORE, ACCURACY),
            (SCORE, np.log(SIZES)),
            (ACCURACY, np.log(SIZES)),
        )
    )
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert row.partial_given_size == pytest.approx(expected)
    assert abs(row.partial_given_size) < row.pearson  # the score mainly follows size
    assert rows_by_name()[PARAMETERS].partial_given_size is None
    assert rows_by_name(sizes=UNKNOWN)["logme"].partial_given_size is None
    assert PARAMETERS not in rows_by_name(sizes=UNKNOWN)
    assert math.isnan(summaries.partial_correlation(np.log(SIZES), ACCURACY, np.log(SIZES)))


def test_the_lowest_correlation_without_one_family_is_reported():
    values = ACCURACY.copy()
    values[[5, 6, 7]] = ACCURACY[[5, 6, 7]][::-1]  # wrong order of the densenets and the regnet
    (row,) = [
        row
        for row in predictor_rows(score_rows(values), {"full": matrix()})
        if row.predictor == "logme"
    ]
    slow = {}
    for family in ("resnet", "vit", "densenet", "regnety"):
        kept = [i for i, name in enumerate(NETWORKS) if not name.startswith(family)]
        slow[family] = scipy_stats.weightedtau(values[kept], ACCURACY[kept]).statistic
    assert row.lowest_without_family == pytest.approx(min(slow.values()))
    assert row.family == min(slow, key=slow.__getitem__)


@pytest.mark.parametrize(
    ("network", "family"),
    [
        ("resnet152", "resnet"),
        ("wide_resnet101_2", "wide_resnet"),
        ("tf_efficientnet_lite0", "efficientnet"),
        ("vit_base_patch16_224", "vit"),
        ("densenet161", "densenet"),
        ("101", "101"),
    ],
)
def test_a_family_is_the_beginning_of_a_networks_name(network: str, family: str):
    assert family_of(network) == family


def test_the_table_shows_the_controls():
    fits = predictor_fits(predictor_rows(score_rows(), {"full": matrix()}))
    table = predictor_table(fits, None)
    names = [column.label for column in table.columns]
    place = names.index("given size")
    by_name = {line[0].text: line for line in table.rows}
    assert by_name[PARAMETERS][place].text == "–"
    assert by_name["logme"][place].text not in ("", "–")
    assert by_name["logme"][names.index("without a family")].text not in ("", "–")


@pytest.mark.parametrize("num_values", [3, 12, 10_000])  # many ties, some, none
@pytest.mark.parametrize("num_models", [8, 40, 700])
def test_correlations_without_each_group_are_those_of_the_remaining_models(
    num_models: int, num_values: int
):
    chance = np.random.default_rng(num_models + num_values)
    score = chance.integers(num_values, size=num_models).astype(float)
    accuracy = score + chance.integers(num_values, size=num_models)
    groups = chance.integers(5, size=num_models)
    groups[0] = 5
    found = summaries.weighted_kendall_without(score, accuracy, groups)
    assert len(found) == 6
    for group, value in enumerate(found):
        left = groups != group
        slow = scipy_stats.weightedtau(score[left], accuracy[left]).statistic
        assert value == pytest.approx(slow, rel=1e-9, abs=1e-12, nan_ok=True)


def test_a_ranking_that_is_constant_without_a_group_has_no_correlation():
    score, groups = np.array([1.0, 1, 1, 2, 3]), np.array([0, 0, 0, 1, 1])
    found = summaries.weighted_kendall_without(score, np.arange(5.0), groups)
    assert found[0] == pytest.approx(1) and math.isnan(found[1])


def test_a_sentence_does_not_read_as_if_accuracy_only_ranked_models():
    """`ImageNet accuracy only ranks 8 models` would mean something else."""
    rows = [replace(row, target=name) for row in predictor_rows([], {"full": matrix()})
            for name in ("pets", "cars", "food")]  # fmt: skip
    both = fakes.analyzed([])[0]
    for predictor in (IMAGENET_ACCURACY, PARAMETERS):
        fits = predictor_fits([row for row in rows if row.predictor == predictor])
        text = about_predictors(replace(both, predictor_rows=rows, predictor_fits=fits), None)
        assert " ranks 8 models" in text and "only" not in text


@pytest.mark.parametrize(("counts", "label"), [((2, 2), "recall@2"), ((1, 2), "recall@k")])
def test_recall_is_labeled_with_k_or_its_value(counts: tuple[int, int], label: str) -> None:
    row = PredictorRow("knn", "full", "pets", 6, 0.5, 0.5, 0.5, 1, 0.5, 0.9)
    fits = predictor_fits(
        [replace(row, predictor=f"knn{index}", k=k) for index, k in enumerate(counts)]
    )
    columns = [column.label for column in predictor_table(fits, None).columns]
    assert label in columns and ("k" in columns) == (label == "recall@k")
