"""Stage keys depend on the content of input files: raw images, weights and class lists."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli.main import cli
from harness.config import load
from harness.matrix.expand import Matrix
from harness.runner import inputs
from harness.runner.context import StageContext
from harness.runner.inputs import Plan
from harness.stages.write import run as write
from harness.system.folders import Folders
from writers.errors import UserError

RECIPE = """\
name: small
source: {path: s}
subsets: [all]
archs: [resnet10]
targets: [{path: t}]
methods: {fixed: {}}
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """Two datasets of bitmaps of equal size, and a recipe that uses them."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    random = np.random.default_rng(0)
    for place in ("s/a", "s/b", "t/train/x", "t/train/y", "t/test/x", "t/test/y"):
        for index in range(4):
            save(Path("raw", place, f"{index}.bmp"), random.integers(256))
    return Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")


def save(path: Path, gray: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), (int(gray),) * 3).save(path)


def plan(folders: Folders, name: str = "small.yaml") -> Plan:
    return inputs.plan(load.read(name), folders)


def finish(folders: Folders, matrix: Matrix) -> None:
    """Run the write stages; the others get an empty result."""
    for stage in matrix.stages:
        folder = stage.folder(folders.runs)
        folder.mkdir(parents=True, exist_ok=True)
        if stage.kind == "write":
            context = StageContext(
                stage.config, folder, {}, {}, folders.data, folders.raw, 1, "cpu"
            )
            write.run(context)
        (folder / "result.json").write_text("{}")
    inputs.accept(matrix, folders.runs)


def keys(matrix: Matrix) -> dict[str, str]:
    return {stage.name: stage.key for stage in matrix.stages}


def swap_classes(folders: Folders) -> None:
    train = folders.raw / "t" / "train"
    (train / "x").rename(train / "z")
    (train / "y").rename(train / "x")
    (train / "z").rename(train / "y")


def replace_image(folders: Folders) -> None:
    save(folders.raw / "t" / "test" / "x" / "0.bmp", 7)


def remove_image(folders: Folders) -> None:
    (folders.raw / "t" / "train" / "x" / "0.bmp").unlink()


def move_image(folders: Folders) -> None:
    train = folders.raw / "t" / "train"
    (train / "x" / "0.bmp").rename(train / "y" / "moved.bmp")


@pytest.mark.parametrize("change", [swap_classes, replace_image, remove_image, move_image])
def test_changed_images_change_the_keys_of_everything_made_from_them(
    folders: Folders, change: Callable[[Folders], None]
):
    before = plan(folders).matrix
    finish(folders, before)
    shutil.copytree("raw", "kept", copy_function=shutil.copy2)
    change(folders)

    planned = plan(folders)

    assert [(item.input.label, item.num_stages) for item in planned.changes] == [("images of t", 2)]
    then, now = keys(before), keys(planned.matrix)
    assert {name for name in then if then[name] != now[name]} == {
        "write/t/all",
        "transfer/t/fixed/all/eps0/seed0",
    }
    assert keys(inputs.expand_accepted(load.read("small.yaml"), folders.runs)) == then
    finish(folders, planned.matrix)
    assert not plan(folders).changes and keys(plan(folders).matrix) == now
    # After the first images are restored, their results are valid again.
    shutil.rmtree("raw")
    shutil.copytree("kept", "raw", copy_function=shutil.copy2)
    assert keys(plan(folders).matrix) == then


def test_new_times_and_files_that_no_reader_uses_change_nothing(folders: Folders):
    before = plan(folders).matrix
    finish(folders, before)
    for file in folders.raw.rglob("*.bmp"):
        os.utime(file)
    (folders.raw / "s" / "README").write_text("Two classes.")
    (folders.raw / "s" / ".index").write_text("0")
    read: list[tuple[int, int]] = []
    planned = inputs.plan(load.read("small.yaml"), folders, lambda *counts: read.append(counts))
    assert not planned.changes and keys(planned.matrix) == keys(before)
    assert [files for files, _ in read] == [8, 16]
    # The new modification times are recorded now, so no file is read again.
    inputs.plan(load.read("small.yaml"), folders, lambda *counts: pytest.fail("read again"))


def test_results_stay_valid_without_their_images(folders: Folders):
    before = plan(folders).matrix
    finish(folders, before)
    (folders.raw / "t").rename("elsewhere")
    planned = plan(folders)
    assert keys(planned.matrix) == keys(before) and not planned.changes
    assert [item.label for item in planned.missing] == ["images of t"]


def test_an_archive_is_compared_by_its_bytes(folders: Folders):
    def pack(gray: int) -> None:
        with zipfile.ZipFile(folders.raw / "t.zip", "w") as file:
            for image in sorted((folders.raw / "t").rglob("*.bmp")):
                file.write(image, image.relative_to(folders.raw / "t"))
            save(Path("one.bmp"), gray)
            file.write("one.bmp", "train/x/one.bmp")

    Path("small.yaml").write_text(RECIPE.replace("path: t", "path: t.zip"))
    pack(1)
    before = plan(folders).matrix
    finish(folders, before)
    os.utime(folders.raw / "t.zip")
    assert keys(plan(folders).matrix) == keys(before)
    size = (folders.raw / "t.zip").stat().st_size
    pack(2)
    assert (folders.raw / "t.zip").stat().st_size == size
    assert [item.num_stages for item in plan(folders).changes] == [2]


def test_a_beton_of_replaced_images_is_written_again(folders: Folders):
    matrix = plan(folders).matrix
    finish(folders, matrix)
    written = {file: file.read_bytes() for file in folders.data.rglob("*.beton")}
    shutil.rmtree(folders.runs)  # also deletes the records of the first images
    for file in folders.raw.rglob("*.bmp"):
        save(file, 9)
    again = plan(folders).matrix
    assert keys(again) == keys(matrix)  # the first images are not recorded anywhere
    finish(folders, again)
    assert all(file.read_bytes() != content for file, content in written.items())


def test_images_that_change_after_the_plan_stop_the_write_stage(folders: Folders):
    matrix = plan(folders).matrix
    remove_image(folders)
    with pytest.raises(UserError, match="images of t have changed since this run was planned"):
        finish(folders, matrix)


def test_weights_and_class_lists_are_part_of_the_key(folders: Folders):
    Path("models.yaml").write_text(
        "name: models\n"
        "models: [{name: mine, checkpoint: m.pt, arch: resnet10, classes: list.txt}]\n"
        "targets: [{path: t}]\n"
        "methods: {fixed: {}}\n"
    )
    weights = folders.raw / "weights" / "m.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"1")
    Path("list.txt").write_text("x\ny\n")
    seen = [keys(plan(folders, "models.yaml").matrix)["adopt/mine"]]
    os.utime(weights)
    Path("list.txt").write_text("# of the head\nx\ny\n")
    assert keys(plan(folders, "models.yaml").matrix)["adopt/mine"] == seen[0]
    weights.write_bytes(b"2")
    os.utime(weights, ns=(1, 1))
    seen.append(keys(plan(folders, "models.yaml").matrix)["adopt/mine"])
    Path("list.txt").write_text("y\nx\n")
    seen.append(keys(plan(folders, "models.yaml").matrix)["adopt/mine"])
    assert len(set(seen)) == 3
    weights.unlink()
    assert keys(plan(folders, "models.yaml").matrix)["adopt/mine"] == seen[2]


def test_a_run_without_a_terminal_needs_the_option_and_status_names_the_change(folders: Folders):
    finish(folders, plan(folders).matrix)
    swap_classes(folders)
    line = "The images of t have changed: 2 stages would run again."
    for command in ("plan", "status"):
        assert line in CliRunner().invoke(cli, [command, "small.yaml"]).output
    refused = CliRunner().invoke(cli, ["run", "small.yaml", "--jobs", "1"])
    assert isinstance(refused.exception, UserError)  # exit code 2
    assert line in str(refused.exception) and "--accept-changes" in str(refused.exception)
