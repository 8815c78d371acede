"""The write stage: reuse of existing `.beton` files, unreadable images, several labels per image."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli.main import cli
from harness.config import load as recipe
from harness.matrix import expand as matrix
from harness.matrix.stage import Stage
from harness.runner.context import Outcome, StageContext
from harness.stages.write import run as write
from writers.beton.store import open_beton
from writers.errors import UserError

RECIPE = """\
name: small
source: {path: things, val: 0.25}
subsets:
  [
    all,
    {name: three, classes: [c0, c1, c3]},
    {name: few, per_class: 4},
    {name: two, classes: [c3, c1]},
  ]
archs: [resnet10]
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    random = np.random.default_rng(0)
    for label in range(4):
        folder = tmp_path / "raw" / "things" / f"c{label}"
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = random.integers(0, 256, (100 + index, 120, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.jpg")


def stages() -> dict[str, Stage]:
    return {
        str(stage.axes["subset"]): stage
        for stage in matrix.expand(recipe.read("small.yaml")).stages
        if stage.kind == "write"
    }


def run(stage: Stage, data: str = "data") -> Outcome:
    folder = stage.folder(Path("runs"))
    folder.mkdir(parents=True, exist_ok=True)
    return write.run(
        StageContext(
            stage.config, folder, {}, {}, Path(data), Path("raw"), num_threads=1, device="cpu"
        )
    )


def sources(outcome: Outcome) -> list[str | None]:
    return [outcome.timing.get("copied_from", {}).get(split) for split in ("train", "val")]


def test_a_subset_is_copied_from_the_smallest_superset_and_equals_a_fresh_write():
    whole = run(stages()["all"])
    key = stages()["all"].key
    assert sources(whole) == [None, None] and whole.metrics["img_per_s"] > 0
    for name in ("three", "few", "two"):
        taken, alone = run(stages()[name]), run(stages()[name], "elsewhere")
        from_ = f"things-three-{stages()['three'].key}" if name == "two" else f"things-all-{key}"
        assert sources(taken) == [f"{from_}/{split}.beton" for split in ("train", "val")]
        assert sources(alone) == [None, None]
        assert taken.metrics.pop("img_per_s") is None and alone.metrics.pop("img_per_s") > 0
        assert taken.metrics == alone.metrics
        for split in taken.metrics["splits"].values():
            for file in (split["path"], split["path"] + ".json"):
                assert Path("data", file).read_bytes() == Path("elsewhere", file).read_bytes()
        shutil.rmtree("elsewhere")


def test_unreadable_images_are_left_out_with_on_error_skip(capfd: pytest.CaptureFixture[str]):
    (Path("raw") / "things" / "c1" / "3.jpg").write_bytes(b"\xff\xd8 damaged")
    stage = stages()["all"]
    with pytest.raises(UserError, match=r"c1/3\.jpg"):
        run(stage)
    Path("small.yaml").write_text(RECIPE.replace("val: 0.25", "val: 0.25, on_error: skip"))
    skipping = stages()["all"]
    assert skipping.key != stage.key and "on_error" not in stage.config["data"]
    splits = run(skipping).metrics["splits"]
    assert sum(split["num_samples"] for split in splits.values()) == 31
    skipped = [
        entry["name"]
        for split in splits.values()
        for entry in open_beton(Path("data", split["path"])).manifest.skipped
    ]
    assert skipped == ["c1/3"]
    assert "left out c1/3: " in capfd.readouterr().out


def test_classes_without_images_in_a_split_are_in_the_result_also_of_reused_betons():
    for index in range(1, 8):
        Path(f"raw/things/c2/{index}.jpg").unlink()
    stage = stages()["all"]
    written = run(stage).metrics["splits"]
    assert "classes_without_images" not in written["train"]
    assert written["val"]["classes_without_images"] == ["c2"]
    assert run(stage).metrics["splits"] == written
    assert "classes_without_images" not in run(stages()["three"]).metrics["splits"]["val"]


def test_betons_of_write_beton_are_reused_until_the_images_change():
    line = ["write-beton", "--source", "raw/things", "--val", "0.25", "--data-dir", "data"]
    assert CliRunner().invoke(cli, line, catch_exceptions=False).exit_code == 0
    taken = run(stages()["all"])
    assert sources(taken) == ["things-all/train.beton", "things-all/val.beton"]
    for split in taken.metrics["splits"].values():
        file = Path("data", split["path"])
        assert file.samefile(Path("data/things-all", file.name))
    shutil.rmtree("data/things-all")
    assert sources(run(stages()["two"])) == [
        split["path"] for split in taken.metrics["splits"].values()
    ]
    Image.new("RGB", (100, 100)).save("raw/things/c0/0.jpg")
    assert sources(run(stages()["three"])) == [None, None]


def test_copies_made_by_write_beton_are_reused():
    for line in (
        ["write-beton", "--source", "raw/things", "--val", "0.25", "--out", "whole"],
        ["write-beton", "--from", "whole", "--subset", "three.txt", "--data-dir", "data"],
    ):
        Path("three.txt").write_text("c0\nc1\nc3\n")
        assert CliRunner().invoke(cli, line, catch_exceptions=False).exit_code == 0
    assert sources(run(stages()["two"])) == ["things-three/train.beton", "things-three/val.beton"]
    assert open_beton("data/things-three/train.beton").manifest.copied_from is not None


TARGET = """\
name: target
source: {dataset: synthetic_things}
archs: [resnet10]
subsets: [all]
targets: [{dataset: folder, path: PATH, metric: map11}]
methods: {logreg: {}}
"""


def target_stage(path: str) -> Stage:
    Path("target.yaml").write_text(TARGET.replace("PATH", path))
    expanded = matrix.expand(recipe.read("target.yaml")).stages
    (stage,) = (
        stage
        for stage in expanded
        if stage.kind == "write" and stage.config["data"]["path"] == path
    )
    return stage


def test_a_folder_may_declare_several_labels_per_image_by_its_metric():
    import pyarrow
    from pyarrow import parquet

    Path("raw/several").mkdir()
    for split, folder in (("train", "c0"), ("test", "c1")):
        photos = sorted(Path("raw/things", folder).iterdir())
        images = [{"bytes": photo.read_bytes(), "path": photo.name} for photo in photos]
        table = pyarrow.table({"image": images, "label": [[0, 1], [1], [0], [0, 1]] * 2})
        parquet.write_table(table, f"raw/several/{split}-00000-of-00001.parquet")
    outcome = run(target_stage("several"))
    manifest = open_beton(Path("data") / outcome.metrics["splits"]["train"]["path"]).manifest
    assert manifest.multi_label


def test_a_metric_of_several_labels_is_refused_for_images_with_one():
    with pytest.raises(UserError, match="have one label each, and its metric is map11"):
        run(target_stage("things"))
