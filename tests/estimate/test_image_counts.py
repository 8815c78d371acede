"""Image counts of datasets and subsets that are not on this machine."""

from pathlib import Path

import pytest

from harness.config.load import read
from harness.estimate.image_counts import ImageCounts
from harness.matrix.expand import expand
from harness.matrix.workload import Counts
from tests.helpers.small_matrix import plan_of


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("subset", "expected"),
    [
        ("{name: s, keep: {easiest: 3, by: reference}}", Counts({"train": 60, "val": 60}, 3)),
        ("{name: s, random: 5}", Counts({"train": 100, "val": 100}, 5)),
        ("{name: s, per_class: 12}", Counts({"train": 96, "val": 160}, 8)),
        ("{name: s, budget: {images: 100, by: examples}}", Counts({"train": 100, "val": 160}, 8)),
        ("{name: s, budget: {images: 100, by: classes}}", Counts({"train": 100, "val": 100}, 5)),
        ("{name: s, fraction: 0.5}", Counts({"train": 80, "val": 160}, 8)),
        ("{name: s, half: {of: random, which: A}}", Counts({"train": 80, "val": 80}, 4)),
        ("{name: s, classes: [waves, bricks]}", Counts({"train": 40, "val": 40}, 2)),
        ("{name: s, under: n02084071}", None),
    ],
)
def test_image_counts_of_a_subset_of_a_missing_dataset(subset: str, expected: Counts | None):
    """synthetic_patterns has 8 classes, each with 20 train and 20 val images."""
    plan = plan_of(
        "name: taken\nsource: {dataset: synthetic_patterns}\narchs: [resnet10]\n"
        + ("ranking: {split: val}\n" if "reference" in subset else "")
        + f"subsets: [{subset}]\n"
    )
    write = next(
        stage for stage in plan.stages if stage.axes.get("subset") == "s" and stage.kind == "write"
    )
    assert ImageCounts(Path("runs")).of(write) == expected


def test_image_counts_of_imagenet_subsets():
    plan = expand(read("fewer_classes", ["targets=[{dataset: sun397}]", "methods={full: {}}"]))
    counts = {
        stage.axes["subset"]: ImageCounts(Path("runs")).of(stage)
        for stage in plan.stages
        if stage.kind == "write"
        and stage.axes["subset"] in ("in1000", "in900", "in900-held-out", "in900-budget", "all")
    }
    assert counts["in1000"] == Counts({"train": 1_281_167, "val": 50_000}, 1000)
    assert (
        counts["in900"]
        == counts["in900-held-out"]
        == Counts({"train": 1_153_050, "val": 45_000}, 900)
    )
    budget = counts["in900-budget"]
    assert (
        budget is not None
        and budget.num_classes == 1000
        # The number of images of each of the 1000 classes is rounded.
        and budget.splits["train"] == pytest.approx(1_153_050, rel=1e-3)
    )
    assert counts["all"] == Counts({"train": 19_850 - 1985, "val": 1985, "test": 19_850}, 397)
