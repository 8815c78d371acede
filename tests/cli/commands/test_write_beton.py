"""`harness write-beton`, `verify`, `subset show`: presets, copies, parts, refused options."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from harness.cli.main import cli
from writers.errors import UserError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for split, number in (("train", 3), ("val", 1)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                Image.fromarray(np.full((120, 150, 3), 60 * label + index, np.uint8)).save(
                    folder / f"{index}.jpg"
                )
    return tmp_path / "photos"


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def manifests(*arguments: str) -> list[dict]:
    return json.loads(harness("write-beton", *arguments, "--json").stdout)


def test_a_preset_sets_the_encoding(tree: Path):
    (train, val) = manifests("--source", "photos", "--preset", "110_0.50_85", "--out", "a")
    assert train["encoding"] == {
        "format": "mixed",
        "max_resolution": 110,
        "jpeg_quality": 85,
        "compress_probability": 0.5,
        "restart_index": True,
    }
    assert train["max_width"] == val["max_width"] == 110
    (train, _) = manifests("--source", "photos", "--passthrough", "--check", "--out", "b")
    assert train["encoding"]["format"] == "passthrough" and train["num_jpeg"] == 6


def test_replaced_betons_are_named(tree: Path):
    arguments = ("write-beton", "--source", "photos/train", "--out", "a")
    assert "Replaced" not in harness(*arguments).stderr
    assert "Replaced" not in harness(*arguments).stderr  # the same content
    lines = harness(*arguments, "--test", "0.4").stderr.splitlines()
    assert [line for line in lines if "Replaced" in line] == [
        "Replaced a/train.beton, which had 4 images and other content.",
        "Replaced a/val.beton, which had 2 images and other content.",
    ]
    kept = "Kept a/test.beton of an earlier call; the new betons may have some of its images."
    assert kept in harness(*arguments).stderr.splitlines()
    assert "Kept" not in harness(*arguments, "--split", "val").stderr


def test_copy_from_a_folder_of_betons(tree: Path):
    written = manifests("--source", "photos", "--passthrough", "--out", "whole")
    copied = manifests("--subset", "all", "--from", "whole", "--check", "--out", "copied")
    assert [manifest["sha256"] for manifest in copied] == [
        manifest["sha256"] for manifest in written
    ]
    assert copied[1]["copied_from"] == {"file": "val.beton", "sha256": written[1]["sha256"]}
    (only,) = manifests("--subset", "all", "--from", "whole/train.beton", "--out", "only")
    assert only["split"] == "train"
    for part in ("1/3", "3/3", "1/1"):
        assert (
            harness("verify", "copied/train.beton", "copied/val.beton", "--part", part).exit_code
            == 0
        )


def test_a_budget_counts_training_images_for_every_split(tree: Path):
    """Classes have 3 images each in train and 1 in val, so a budget of 3 images keeps one class."""
    Path("few.yaml").write_text("steps:\n  - budget: {by: classes, images: 3}\n")
    (written, _) = manifests(
        "--dataset", "folder", "--source", "photos", "--subset", "few.yaml", "--out", "few"
    )
    manifests("--source", "photos", "--passthrough", "--out", "whole")
    for split, num_images in (("train", 3), ("val", 1)):
        shown = json.loads(
            harness(
                "subset", "show", "few.yaml", "--beton", f"whole/{split}.beton", "--json"
            ).stdout
        )
        assert shown["classes"] == written["classes"] and len(shown["classes"]) == 1
        assert shown["num_images"] == num_images and shown["digest"] == written["subset"]["digest"]
        (copied,) = manifests(
            "--subset", "few.yaml", "--from", "whole", "--split", split, "--out", "copied"
        )
        assert copied["classes"] == written["classes"]
    Path("whole/train.beton").rename("train.beton")
    with pytest.raises(UserError, match="images per class"):
        harness("subset", "show", "few.yaml", "--beton", "whole/val.beton")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--from", "whole", "--subset", "all", "--jpeg-quality", "90"],
            "--jpeg-quality has no effect with --from",
        ),
        (
            ["--from", "whole", "--subset", "all", "--passthrough"],
            "no effect with --from and --subset",
        ),
        (["--from", "whole", "--subset", "all", "--split", "test"], "no beton named 'test'"),
        (["--from", "whole"], "--subset NAME"),
        (["--from", "photos", "--subset", "all"], "has no betons"),
        (["--from", "none.beton", "--subset", "all"], "There is no beton"),
        (["--source", "photos", "--preset", "big"], "no preset 'big'"),
        (
            ["--source", "photos", "--preset", "400_0.10_90", "--max-resolution", "300"],
            "sets all of the encoding",
        ),
    ],
)
def test_contradicting_options_are_refused(tree: Path, arguments: list[str], message: str):
    manifests("--source", "photos", "--out", "whole")
    with pytest.raises(UserError, match=message):
        harness("write-beton", *arguments)


def test_check_refuses_to_copy_a_damaged_beton(tree: Path):
    manifests("--source", "photos", "--passthrough", "--out", "whole")
    file = Path("whole/train.beton")
    data = bytearray(file.read_bytes())
    data[2**21 + 400] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        harness("write-beton", "--subset", "all", "--from", "whole", "--check", "--out", "copied")
    verified = harness("verify", str(file))
    assert verified.exit_code == 1
    assert "sample 0 (label" in verified.stdout and "its bytes have changed" in verified.stdout


@pytest.mark.parametrize("part", ["0/3", "4/3", "a/b", "2", "-1/3"])
def test_invalid_parts_are_refused(tree: Path, part: str):
    manifests("--source", "photos", "--out", "whole")
    assert harness("verify", "whole/train.beton", "--part", part).exit_code == 2
