"""Inputs of a recipe that cannot be read are reported, with a fix that depends on their location."""

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config import load, missing_inputs

RECIPE = """\
name: mine
models:
  - {name: lost, checkpoint: lost.pt, arch: resnet10, classes: list.txt}
  - {name: other, checkpoint: other.pt, arch: resnet10}
  - torchvision/resnet18
targets:
  - {path: photos}
  - {path: listed, labels: [a.csv, b.csv]}
  - {dataset: beton, path: betons, name: betons}
  - {dataset: pets}
  - {dataset: synthetic_patterns}
methods: {logreg: {}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def missing(tmp_path: Path) -> Callable[[str], str]:
    """Return a function from a source's path to the message that it is missing, or ""."""

    def found(path: str) -> str:
        file = tmp_path / "mine.yaml"
        file.write_text(f"source: {{path: {path}}}\nsubsets: [all]\n")
        recipe = load.read(file, ["name=mine"])
        assert recipe.source is not None
        label = recipe.source.label
        lines = missing_inputs.find(recipe, tmp_path / "raw", [label], [])
        assert all(line.label == f"images of {label}" for line in lines)
        return " ".join(line.reason for line in lines)

    return found


def test_images_in_the_current_folder_suggest_raw_dir(missing, tmp_path: Path):
    (tmp_path / "my-photos").mkdir()
    text = missing("my-photos")
    assert str(tmp_path / "raw/my-photos") in text and "--raw-dir ." in text


def test_absent_images_do_not_suggest_raw_dir(missing):
    assert "--raw-dir" not in missing("my-photos")
    assert missing("/no/such/folder") == "There is no /no/such/folder."


def test_similar_names_next_to_a_missing_one_are_suggested(missing, tmp_path: Path):
    (tmp_path / "raw/my-photos").mkdir(parents=True)
    assert missing("my-photo").endswith("raw/my-photo. Did you mean my-photos?")
    assert missing("x/my-photo").endswith("raw/x/my-photo.")
    assert missing("my-cats").endswith("raw/my-cats."), "names that are less similar are no typos"


def test_images_in_place_are_not_missing(missing, tmp_path: Path):
    folder = tmp_path / "raw/my-photos"
    folder.mkdir(parents=True)
    assert missing("my-photos") == f"{folder} is empty."
    (folder / "cat").mkdir()
    assert missing("my-photos") == ""


def test_every_missing_input_is_found_at_once(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    recipe, raw = load.read("mine.yaml"), tmp_path / "raw"
    datasets = ["photos", "listed", "betons", "pets", "synthetic_patterns"]
    models = ["lost", "other", "torchvision/resnet18"]

    def found(datasets: list[str], models: list[str]) -> dict[str, list[str]]:
        reasons: dict[str, list[str]] = {}
        for item in missing_inputs.find(recipe, raw, datasets, models):
            reasons.setdefault(item.label, []).append(item.reason)
        return reasons

    everything = found(datasets, models)
    assert everything.pop("images of pets")[0].startswith(
        f"There is no {raw / 'pets'}. Oxford-IIIT Pets: https://"
    )
    assert everything == {
        "images of photos": [f"There is no {raw / 'photos'}."],
        "images of listed": [
            f"There is no {raw / 'listed'}.",
            f"There is no table of labels {raw / 'a.csv'}.",
            f"There is no table of labels {raw / 'b.csv'}.",
        ],
        "images of betons": [f"There is no {raw / 'betons'}."],
        "weights of lost": [f"There is no {raw / 'weights/lost.pt'}."],
        "classes of lost": ["There is no file list.txt."],
        "weights of other": [f"There is no {raw / 'weights/other.pt'}."],
    }
    assert found([], []) == {}
    assert list(found(["photos"], ["other"])) == ["images of photos", "weights of other"]

    for folder in ("photos/cat", "listed/cat", "betons/cat", "pets/images", "weights"):
        (raw / folder).mkdir(parents=True)
    for file in ("a.csv", "b.csv", "weights/other.pt"):
        (raw / file).touch()
    for file in ("lost.pt", "list.txt"):
        Path(file).write_text("cat\ncat\n")
    rest = found(datasets, models)
    assert rest["classes of lost"][0].startswith("list.txt is not a list of classes")
    assert rest == {
        "images of betons": [f"{raw / 'betons'} has no betons."],
        "weights of lost": [
            f"There is no {raw / 'weights/lost.pt'}. lost.pt is in the current folder: move it, or "
            "give its absolute path."
        ],
        "classes of lost": rest["classes of lost"],
    }
    for name in ("test.beton", "train.beton", "train.beton.json"):
        (raw / "betons" / name).touch()
    foreign = raw / "betons/test.beton"
    assert found(["betons"], []) == {
        "images of betons": [
            f"{foreign} has no manifest (test.beton.json). If FFCV wrote it, run harness "
            f"adopt-beton {foreign}."
        ]
    }
    (raw / "betons/test.beton.json").touch()
    (raw / "weights/lost.pt").touch()
    Path("list.txt").write_text("cat\ndog\n")
    assert found(datasets, models) == {}
