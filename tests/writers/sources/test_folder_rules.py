"""Trees whose folders are ambiguous are refused; the error names an option that reads them."""

from pathlib import Path

import pytest

from harness.config.load import read
from harness.runner.inputs import plan
from harness.system.folders import Folders
from tests.helpers.pictures import picture
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.folder_rules import BY_NAME, FolderRules
from writers.source import Source

NEVER = FolderRules(split_folders="never")


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(1, 30, 20).save(root / name)
    return root


def opened(path: Path, rules: FolderRules = BY_NAME) -> Source:
    return open_dataset("folder", path, SplitSettings(val=0, folders=rules))


def names_of(source: Source) -> list[str]:
    return sorted(example.name for example in source.splits["train"])


@pytest.fixture
def sides(tmp_path: Path) -> Path:
    return make(
        tmp_path / "t",
        *(f"{top}/{side}/{i}.png" for top in "ab" for side in ("left", "right") for i in range(2)),
    )


def test_classes_with_equal_subfolders(sides: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--class-level 1 for a, --class-level 2 for left"):
        opened(sides)
    by_top = opened(sides, FolderRules(class_level=1))
    assert by_top.classes == ["a", "b"]
    assert names_of(by_top)[:3] == ["a/left/0", "a/left/1", "a/right/0"]
    by_side = opened(sides, FolderRules(class_level=2))
    assert by_side.classes == ["left", "right"]
    assert names_of(by_side)[:3] == ["left/a/0", "left/a/1", "left/b/0"]
    assert names_of(opened(sides, NEVER)) == names_of(by_top)


def test_levels_count_below_splits_and_outer_folders(tmp_path: Path):
    images = [f"{s}/{top}/{side}/1.png" for s in ("train", "val") for top in "ab" for side in "lr"]
    root = make(tmp_path / "outer", *(f"data/{name}" for name in images))
    with pytest.raises(UserError, match="--class-level"):
        opened(root)
    for level, classes in ((1, ["a", "b"]), (2, ["l", "r"])):
        source = opened(root, FolderRules(class_level=level))
        assert source.classes == classes
        assert [len(source.splits[split]) for split in ("train", "val")] == [4, 4]
    with pytest.raises(UserError, match="no images"):
        opened(root, FolderRules(class_level=3))


def test_images_above_the_level_are_counted(sides: Path):
    make(sides, "a/stray.png")
    source = opened(sides, FolderRules(class_level=2))
    (left_out,) = source.omissions
    assert (left_out.count, left_out.names) == (1, ("a/stray.png",))


def test_classes_named_like_splits_need_a_setting(tmp_path: Path):
    root = make(tmp_path / "vehicles", *(f"{name}/1.png" for name in ("bus", "car", "train")))
    with pytest.raises(UserError, match="--split-folders never"):
        opened(make(root, "bus/old/1.png"))
    assert opened(root, NEVER).classes == ["bus", "car", "train"]
    root = make(tmp_path / "exams", "test/1.png", "dev/1.png")
    with pytest.raises(UserError, match="--split-folders never"):
        opened(root)
    assert opened(root, NEVER).classes == ["dev", "test"]


def test_rules_without_effect_are_refused(sides: Path):
    settings = SplitSettings(folders=NEVER)
    with pytest.raises(UserError, match="dataset folder"):
        open_dataset("pets", sides, settings)


def test_rules_of_a_recipe_decide_its_keys(sides: Path, tmp_path: Path):
    folders = Folders(tmp_path / "data", tmp_path, tmp_path / "runs")
    recipe = tmp_path / "r.yaml"

    def key(rules: str) -> str:
        recipe.write_text(
            f"name: r\nmodels: [torchvision/resnet18]\ntargets: [{{path: t{rules}}}]\n"
            "methods: {fixed: {epochs: 1}}\n"
        )
        stages = plan(read(recipe), folders).matrix.stages
        return next(stage.key for stage in stages if stage.kind == "write")

    keys = [key(rules) for rules in ("", ", class_level: 1", ", class_level: 2")]
    assert len(set(keys)) == 3
    assert key(", split_folders: auto") == keys[0]
    with pytest.raises(UserError, match="with dataset: folder only"):
        key(", dataset: pets, split_folders: never")
