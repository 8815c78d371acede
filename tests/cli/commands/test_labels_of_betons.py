"""The labels of a `.beton` file decide which methods a recipe may use; its manifest is read when planning.

A beton has one label per image, several labels per image, or boxes of objects.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from harness.cli.main import cli
from harness.config.data import DataSettings
from tests.helpers.boxed_source import expected, source_of
from writers.beton.adopt import adopt
from writers.beton.encoding import Encoding
from writers.beton.store import manifest_path, open_beton
from writers.beton.write import write_split
from writers.datasets.beton import label_kind
from writers.datasets.beton import open as open_betons
from writers.errors import UserError
from writers.source import Example, Source, SplitSettings
from writers.subset.spec import everything

RECIPE = """
name: betons
source: {{dataset: synthetic_things}}
subsets: [all]
archs: [resnet10]
targets: [{targets}]
methods: {{{methods}}}
scores: [{scores}]
"""
DETECTION = "detection: {short_side: 64, long_side: 96}"
OTHERS = ("fixed: {}", "full: {}", "logreg: {}")
FOLDERS = ["--data-dir", "data", "--raw-dir", ".", "--runs-dir", "runs"]


def write(source: Source, file: Path) -> Path:
    write_split(source, "train", everything(source.classes), Encoding(), file, num_threads=1)
    return file


def one_label() -> Source:
    """Return the images of `source_of(range(6))` with one label each, and without boxes."""
    source = source_of(range(6))
    source.splits["train"] = [
        Example(example.key, number % 3, f"{number % 3}/{number}")
        for number, example in enumerate(source.splits["train"])
    ]
    return replace(source, multi_label=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of betons: `boxes`, `many` (several labels), `one` (one label) and `adopted`.

    `adopted` has one label per image; its manifest was made from the beton by `adopt`.
    """
    folder = tmp_path_factory.mktemp("betons")
    write(source_of(range(6)), folder / "boxes.beton")
    write(source_of(range(6), has_boxes=False), folder / "many.beton")
    write(one_label(), folder / "one.beton")
    file = write(one_label(), folder / "adopted.beton")
    manifest_path(file).unlink()
    adopt(file, split="train", name="adopted")
    return folder


def plan(folder: Path, target: str, methods: Sequence[str], scores: str = "", *more: str) -> Result:
    """Run `harness plan` in the folder; the target is the name of a beton, or YAML."""
    data = target if target.startswith("{") else f"{{dataset: beton, path: {target}.beton}}"
    recipe = RECIPE.format(targets=data, methods=", ".join(methods), scores=scores)
    (folder / "recipe.yaml").write_text(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(cli, ["plan", "recipe.yaml", *FOLDERS, *more])


def transfers(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    stages: list[dict[str, Any]] = json.loads(result.stdout)["stages"]
    return [stage for stage in stages if stage["kind"] == "transfer"]


def refusal(result: Result) -> str:
    """Return the message of the UserError that ended the command."""
    assert isinstance(result.exception, UserError), result.output
    return result.exception.message


def test_kinds_are_read_from_manifests(folder: Path, tmp_path: Path) -> None:
    kinds = {name: label_kind(folder / f"{name}.beton") for name in ("boxes", "many", "one")}
    assert kinds == {"boxes": "boxes of objects", "many": "many labels", "one": "one label"}
    assert label_kind(tmp_path / "missing.beton") is None and label_kind(folder) is None
    settings = DataSettings(dataset="beton", path="x", metric="map50_11")
    assert settings.has_boxes and not DataSettings(dataset="beton", path="x").has_boxes


def test_detection_is_planned_for_a_beton_with_boxes(folder: Path) -> None:
    (transfer,) = transfers(plan(folder, "boxes", [DETECTION], "", "--json"))
    assert transfer["axes"]["method"] == "detection"


@pytest.mark.parametrize("method", OTHERS)
def test_methods_for_labels_are_planned_for_betons_without_boxes(folder: Path, method: str) -> None:
    for beton in ("many", "one", "adopted"):
        (transfer,) = transfers(plan(folder, beton, [method], "", "--json"))
        assert transfer["axes"]["method"] == method.partition(":")[0]


@pytest.mark.parametrize(
    ("target", "methods", "scores", "message"),
    [
        *[("boxes", [method], "", "boxes.beton has boxes of objects") for method in OTHERS],
        ("boxes", OTHERS, "", "boxes.beton has boxes of objects"),
        ("boxes", [], "knn", "boxes.beton has boxes of objects"),
        ("boxes", [DETECTION], "knn", "scores: need a target with labels"),
        ("one", [DETECTION], "", "one.beton has no boxes"),
        ("many", [DETECTION], "", "many.beton has no boxes"),
        ("adopted", [DETECTION], "", "adopted.beton has no boxes"),
        ("one", [DETECTION, "full: {}"], "", "methods.detection: needs a target with boxes"),
        (
            "{dataset: beton, path: boxes.beton, metric: map11}",
            ["full: {}"],
            "",
            "map11 does not fit boxes.beton: images have boxes of objects",
        ),
        (
            "{dataset: beton, path: one.beton, metric: map50_11}",
            [DETECTION],
            "",
            "map50_11 does not fit one.beton: images have one label",
        ),
    ],
)
def test_methods_scores_and_metrics_that_do_not_fit_the_labels_are_refused(
    folder: Path, target: str, methods: Sequence[str], scores: str, message: str
) -> None:
    result = plan(folder, target, methods, scores)
    assert message in refusal(result) and len(refusal(result).splitlines()) <= 2


def test_run_refuses_before_anything_is_written(folder: Path) -> None:
    plan(folder, "boxes", ["full: {}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ["run", "recipe.yaml", "--data-dir", "new", "--raw-dir", ".", "--runs-dir", "r"]
        result = CliRunner().invoke(cli, arguments)
    assert "has boxes of objects" in refusal(result)
    assert not (folder / "new").exists() and not (folder / "r" / "stages").exists()


def test_a_source_with_boxes_is_refused(folder: Path) -> None:
    result = plan(folder, "{dataset: synthetic_scenes}", ["full: {}"])
    recipe = (folder / "recipe.yaml").read_text()
    changed = recipe.replace("synthetic_things", "beton, path: boxes.beton")
    (folder / "recipe.yaml").write_text(changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(cli, ["plan", "recipe.yaml", *FOLDERS])
    assert "it can only be a target" in refusal(result)


def test_a_missing_beton_is_assumed_to_fit_the_methods_of_the_recipe(folder: Path) -> None:
    for method in (DETECTION, "full: {}"):
        result = plan(folder, "missing", [method], "", "--json")
        assert [stage["axes"]["method"] for stage in transfers(result)] == [method.split(":")[0]]
    assert "There is no" in plan(folder, "missing", [DETECTION]).stderr


def test_a_deleted_beton_keeps_the_kind_of_labels_of_the_last_plan(folder: Path) -> None:
    write(source_of(range(6)), folder / "gone.beton")
    mixed = [DETECTION, "full: {}"]
    targets = "{dataset: beton, path: gone.beton, name: gone}, {dataset: synthetic_scenes}"
    before = transfers(plan(folder, targets, mixed, "", "--json"))
    for file in folder.glob("gone.beton*"):
        file.unlink()
    after = transfers(plan(folder, targets, mixed, "", "--json"))
    assert [stage["name"] for stage in after] == [stage["name"] for stage in before]
    assert {(stage["axes"]["target"], stage["axes"]["method"]) for stage in after} == {
        ("gone", "detection"),
        ("synthetic_scenes", "full"),
    }


@pytest.mark.parametrize("max_resolution", [None, 40])
def test_boxes_and_labels_survive_writing_a_beton_again(
    folder: Path, tmp_path: Path, max_resolution: int | None
) -> None:
    settings = SplitSettings(val=0.0)
    source = open_betons(folder / "boxes.beton", settings)
    assert source.has_boxes and source.multi_label
    encoding = Encoding(format="jpeg", max_resolution=max_resolution)
    file = tmp_path / "again.beton"
    write_split(source, "train", everything(source.classes), encoding, file, num_threads=1)
    before, after = open_beton(folder / "boxes.beton"), open_beton(file)
    ids = {f"{sample:016x}": number for number, sample in enumerate(before.ids.tolist())}
    names = {example.name: example for example in source.splits["train"]}
    assert names.keys() == ids.keys()
    found = sorted(map(tuple, np.concatenate([after.boxes(n) for n in range(6)]).tolist()))
    scaled = []
    for number in range(6):
        boxes = before.boxes(number).copy()
        longest = max(before.rows[number]["width"], before.rows[number]["height"])
        if max_resolution and longest > max_resolution:
            size = [int(before.rows[number][side]) for side in ("width", "height")]
            new = [max(1, round(side * max_resolution / max(size))) for side in size]
            boxes[:, :4] *= np.array([*new, *new]) / np.array([*size, *size])
        scaled += boxes.tolist()
    assert np.allclose(found, sorted(map(tuple, scaled)), atol=1e-4)
    assert sorted(after.labels.tolist()) == sorted(before.labels.tolist())
    assert len(found) == sum(len(expected(number)) for number in range(6))


def test_betons_of_different_kinds_are_refused(folder: Path, tmp_path: Path) -> None:
    write(source_of(range(6)), tmp_path / "a.beton")
    plain = source_of(range(6), has_boxes=False)
    plain.splits["test"] = plain.splits["train"]
    write_split(plain, "test", everything(plain.classes), Encoding(), tmp_path / "b.beton")
    with pytest.raises(UserError, match="have boxes of objects, and those of"):
        open_betons(tmp_path, SplitSettings(val=0.0))
