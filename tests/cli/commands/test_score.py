"""`harness score`: all scores of a model for a dataset, JSON output, scores that fail."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from harness.cli.commands._model_and_images import image_resolution
from harness.cli.main import cli
from harness.modeling import classifier
from harness.transfer.scores import knn
from tests.helpers.tiny_stages import write_colors
from writers.errors import UserError

ALL = [
    "gbc",
    "hscore",
    "hscore_shrunk",
    "knn",
    "knn_k5",
    "knn_k20",
    "knn_cosine",
    "leep",
    "logme",
    "nce",
    "nleep",
    "parc",
    "sfda",
    "transrate",
]


def invoke(root: Path, *arguments: str, name: str = "model.pt") -> Result:
    return CliRunner().invoke(
        cli,
        [
            "score",
            "--model",
            str(root / name),
            "--dataset",
            "folder",
            "--source",
            str(root / "data" / "colors-images"),
            "--data-dir",
            str(root / "betons"),
            *arguments,
        ],
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("command")
    (root / "data").mkdir()
    write_colors(root / "data")
    torch.manual_seed(0)
    about = {"arch": "resnet10", "channels": [16, 16, 16, 16], "resolution": 24}
    built = classifier.build("resnet10", 5, channels=(16, 16, 16, 16))
    classifier.save(root / "model.pt", built, about)
    classifier.save(root / "headless.pt", built, {**about, "has_head": False})
    classifier.save(root / "sizeless.pt", built, {**about, "resolution": None})
    return root


def test_all_scores_are_printed_as_text_and_as_json(root: Path):
    shown = invoke(root)
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.output.splitlines() if line.startswith("  ")]
    assert sorted(line[0] for line in lines) == sorted(ALL)
    content = json.loads(invoke(root, "--json").stdout)
    assert sorted(content["scores"]) == sorted(ALL)
    assert content["failed"] == {}
    assert content["num_images"] == 60
    assert ["knn", f"{100 * content['scores']['knn']:.1f}", "%"] in lines
    assert content["details"]["nleep"]["num_components"] == 15
    assert content["seconds"].keys() >= {"knn", "nleep"}


def test_scores_by_name_and_a_model_without_classes(root: Path):
    content = invoke(root, "--scores", "knn,leep", name="headless.pt")
    assert content.exit_code == 0
    assert "leep          not computed: This score needs probs" in content.output
    assert json.loads(invoke(root, "--scores", "logme", "--json").stdout)["scores"].keys() == {
        "logme"
    }
    wrong = CliRunner().invoke(
        cli, ["score", "--model", "model.pt", "--dataset", "folder", "--scores", "lep"]
    )
    assert wrong.exception is not None and "no score named 'lep'" in str(wrong.exception)


def test_a_model_may_be_named_by_its_stage(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(root)
    for key, name in (("0123456789abcdef0123", "pretrain/all"), ("ab12ab12ab12", "write/all")):
        folder = root / "runs/stages" / name.partition("/")[0] / key
        folder.mkdir(parents=True)
        (folder / "stage.json").write_text(json.dumps({"name": name}))
    trained = root / "runs/stages/pretrain/0123456789abcdef0123"
    (trained / "model.pt").write_bytes((root / "model.pt").read_bytes())
    source = ["--dataset", "folder", "--source", "data/colors-images", "--data-dir", "betons"]

    def score(model: str) -> Result:
        return CliRunner().invoke(
            cli, ["score", "--model", model, *source, "--scores", "logme, ", "--json"]
        )

    expected = json.loads(score("model.pt").stdout)["scores"]
    for name in ("pretrain/all", "0123456789abcdef0123", "01234567"):
        assert json.loads(score(name).stdout)["scores"] == expected
    for name, message in (
        ("write/all", "The stage write/all has no model.pt."),
        ("ab12ab", "The stage ab12ab has no model.pt."),
        ("pretrain/al", "No stage pretrain/al has been started"),
        ("data/model", "There is no model file data/model."),
        ("resnet1", "There is no model named 'resnet1'."),
        ("timm/no_such", "There is no timm model named 'no_such'."),
    ):
        assert message in str(score(name).exception)


def test_duplicate_images_are_reported(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(knn, "duplicates", lambda features: 7)
    assert "7 images have the features of an earlier one" in invoke(root, "--scores", "knn").output


def test_the_resolution_of_a_file_without_one_is_an_option(root: Path):
    refused = invoke(root, "--scores", "knn", name="sizeless.pt")
    assert isinstance(refused.exception, UserError) and "--resolution" in refused.exception.hint
    given = invoke(root, "--scores", "logme", "--json", "--resolution", "24", name="sizeless.pt")
    stated = invoke(root, "--scores", "logme", "--json")
    assert json.loads(given.stdout)["scores"] == json.loads(stated.stdout)["scores"]


def test_a_network_with_a_fixed_input_size_refuses_other_resolutions():
    model = classifier.build("resnet10", 2, channels=(16, 16, 16, 16))
    model.fixed_size = 299
    assert image_resolution("m", model, {"resolution": 224}, None) == 299
    assert image_resolution("m", model, {}, 299) == 299
    with pytest.raises(UserError, match="299 pixels per side only, not of 224"):
        image_resolution("m", model, {}, 224)


def test_a_probe_draws_test_images_if_there_are_none(root: Path, tmp_path: Path):
    model = str(root / "model.pt")
    options = ["--data-dir", str(tmp_path / "betons"), "--scores", "logme", "--json"]

    def score(source: Path, *more: str) -> Result:
        where = ["--dataset", "folder", "--source", str(source)]
        return CliRunner().invoke(cli, ["score", "--model", model, *where, *options, *more])

    shutil.copytree(root / "data/colors-images/train", tmp_path / "photos")
    plain = score(tmp_path / "photos")
    assert json.loads(plain.stdout)["num_images"] == 54 and "no test split" not in plain.stderr
    probed = score(tmp_path / "photos", "--probe")
    assert "has no test split: 20 % of its training images are drawn." in probed.stderr
    record = json.loads(probed.stdout)
    assert (record["num_images"], record["probe"]["num_test"]) == (42, 12)
    # the betons of other commands are kept
    assert (tmp_path / "betons/photos-all/train.beton").is_file()
    assert not (tmp_path / "betons/photos-all/test.beton").exists()
    assert (tmp_path / "betons/photos-test20-all/test.beton").is_file()
    own = score(root / "data/colors-images", "--probe")
    assert own.exit_code == 0 and "no test split" not in own.stderr
    assert not (tmp_path / "betons/colors-images-test20-all").exists()
