"""The method detection is used on targets with boxes, and all other methods on other targets."""

from pathlib import Path

import pytest

from harness.config.load import read
from harness.matrix.expand import expand
from writers.errors import UserError

RECIPE = """
name: boxes
question: Do boxes go with detection?
source: {{dataset: synthetic_things}}
encoding: {{format: jpeg}}
subsets: [all]
archs: [resnet10]
pretrain: {{epochs: 1, resolution: 32, batch_size: 8, channels: [8, 8, 8, 8]}}
targets: {targets}
methods: {methods}
{more}
"""
BOXES, SCENES = "{dataset: synthetic_boxes}", "{dataset: synthetic_scenes}"
DETECTION, FULL = "detection: {short_side: 64, long_side: 96}", "full: {epochs: 1, resolution: 32}"


def written(folder: Path, targets: str, methods: str, more: str = "") -> Path:
    path = folder / "boxes.yaml"
    path.write_text(RECIPE.format(targets=f"[{targets}]", methods=f"{{{methods}}}", more=more))
    return path


def test_each_method_is_planned_for_the_targets_that_fit_it(tmp_path: Path) -> None:
    path = written(tmp_path, f"{BOXES}, {SCENES}", f"{DETECTION}, {FULL}", "scores: [knn]")
    stages = expand(read(str(path))).stages
    transfers = [stage for stage in stages if stage.kind == "transfer"]
    pairs = {(stage.axes["target"], stage.axes["method"]) for stage in transfers}
    assert pairs == {("synthetic_boxes", "detection"), ("synthetic_scenes", "full")}
    (detection,) = (stage for stage in transfers if stage.axes["method"] == "detection")
    assert detection.config["metric"] == "map50_11"
    assert detection.config["settings"]["short_side"] == 64
    scored = {stage.axes["target"] for stage in stages if stage.kind == "score"}
    assert scored == {"synthetic_scenes"}


def test_a_changed_setting_of_detection_changes_the_key(tmp_path: Path) -> None:
    keys = set()
    for change in ("", ", neck: fpn", ", train_from: 3", ", bn_stats: update", ", anchors: [64]"):
        methods = f"detection: {{short_side: 64, long_side: 96{change}}}"
        stages = expand(read(str(written(tmp_path, BOXES, methods)))).stages
        keys |= {stage.key for stage in stages if stage.kind == "transfer"}
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("targets", "methods", "more", "message"),
    [
        (SCENES, DETECTION, "", "methods.detection: needs a target with boxes"),
        (SCENES, DETECTION, "", "synthetic_scenes has no boxes"),
        (BOXES, FULL, "", "synthetic_boxes has boxes of objects"),
        (BOXES, f"{DETECTION}, {FULL}", "", "methods.full: needs a target with labels"),
        ("{dataset: voc2007}", DETECTION, "", "voc2007 has no boxes"),
        ("{dataset: synthetic_boxes, metric: map11}", DETECTION, "", "map11 does not fit"),
        ("{dataset: synthetic_scenes, metric: map50_11}", FULL, "", "map50_11 does not fit"),
        (
            f"{BOXES}, {SCENES}",
            f"{DETECTION}, {FULL}",
            "exclude: [{target: synthetic_boxes, method: full}]",
            "full is never used on synthetic_boxes",
        ),
    ],
)
def test_methods_and_metrics_that_do_not_fit_the_targets_are_refused(
    tmp_path: Path, targets: str, methods: str, more: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(str(written(tmp_path, targets, methods, more)))


def test_a_source_with_boxes_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, SCENES, FULL)
    path.write_text(path.read_text().replace("synthetic_things", "synthetic_boxes"))
    with pytest.raises(UserError, match="boxes of objects, so it can only be a target"):
        read(str(path))
