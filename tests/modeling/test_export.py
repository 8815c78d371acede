"""Exported models: loaded by the target library, they return equal logits."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2.functional import normalize

from harness.cli.commands._model_and_images import load_file as load_file_or_export
from harness.cli.commands.export import command
from harness.modeling import classifier, model_card
from loaders import LoaderPlan, open_loader
from loaders.interpolation import Interpolation
from tests.helpers.tiny_betons import photo, write_beton
from tests.helpers.tiny_stages import as_result
from writers.errors import UserError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def saved_model(folder: Path, arch: str, num_classes: int = 7, **options):
    """Save a model with its own normalization and running statistics; return it and the file."""
    torch.manual_seed(0)
    model = classifier.build(arch, num_classes, **options)
    classifier.set_normalization(model, MEAN, STD)
    model(torch.rand(4, 3, 64, 64))  # updates the running statistics
    file = folder / "model.pt"
    about = {
        "arch": arch,
        "classes": [f"class {number}" for number in range(num_classes)],
        "resolution": 64,
        "eps": 0.5,
        "norm": "l2",
        **{name: list(v) if isinstance(v, tuple) else v for name, v in options.items()},
    }
    classifier.save(file, model, about)
    return model.eval(), file


def export(file: Path, form: str, out: Path) -> str:
    ended = CliRunner().invoke(command, [str(file), "--format", form, "--out", str(out)])
    if ended.exception and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code == 0, ended.output
    return (out / "README.md").read_text()


def code_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_decides_who_may_read_the_exported_weights(tmp_path: Path, umask: int):
    _, file = saved_model(tmp_path, "resnet18")
    before = os.umask(umask)
    try:
        export(file, "torchvision", tmp_path / "out")
    finally:
        os.umask(before)
    exported = tmp_path / "out" / "model.safetensors"
    assert exported.stat().st_mode & 0o777 == 0o666 & ~umask


def test_torchvision_loads_the_weights_in_two_lines(tmp_path: Path):
    model, file = saved_model(tmp_path, "resnet18")
    export(file, "torchvision", tmp_path / "out")
    images = torch.rand(5, 3, 64, 64)
    theirs = torchvision.models.resnet18(num_classes=7)
    theirs.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    with torch.no_grad():
        logits = theirs.eval()(normalize(images, MEAN, STD))
        torch.testing.assert_close(logits, model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "form"),
    [("resnet18", "torchvision"), ("resnet18", "timm"), ("timm/resnet10t", "timm")],
)
def test_commands_read_exported_weights_as_they_read_the_model(
    arch: str, form: str, tmp_path: Path
):
    model, file = saved_model(tmp_path, arch)
    export(file, form, tmp_path / "out")
    read, about = load_file_or_export(tmp_path / "out" / "model.safetensors")
    assert about["classes"] == [f"class {number}" for number in range(7)]
    assert (about["arch"], about["resolution"], about["eps"]) == (arch, 64, 0.5)
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(read.eval()(images), model(images), rtol=0, atol=1e-5)


def test_the_card_of_a_transferred_model_has_its_test_accuracy_and_terms_of_both_sources(
    tmp_path: Path,
):
    folder = tmp_path / ("0" * 20)
    folder.mkdir()
    _, file = saved_model(folder, "resnet18")
    weights, about = classifier.load(file)
    about |= {"imported_from": "published.pth", "eval_crop": 0.875, "interpolation": "area"}
    classifier.save(file, weights, about)
    stage = as_result("transfer", {"val": {"top1": 0.25}, "test": {"top1": 0.75}})
    stage = stage.model_copy(update={"axes": {"target": "my-photos"}})
    (folder / "result.json").write_text(stage.model_dump_json())
    card = export(file, "torchvision", tmp_path / "out")
    assert "## Accuracy on the test split of its classes" in card
    assert "| top1 | 75.0 % |" in card and "25.0 %" not in card
    assert "center crop of 87.5 %" in card and "64 x 64 pixels (interpolation: area)" in card
    assert "terms of their publisher" in card and "training data my-photos apply" in card


def test_weights_of_others_are_refused_with_the_command_that_converts_them(tmp_path: Path):
    weights = tmp_path / "other.safetensors"
    save_file(torchvision.models.resnet18(num_classes=7).state_dict(), weights)
    with pytest.raises(UserError, match="does not state its network") as refused:
        load_file_or_export(weights)
    assert "import-checkpoint" in refused.value.hint
    weights.write_bytes(b"damaged")
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load_file_or_export(weights)
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(UserError, match="is an ONNX file") as refused:
        load_file_or_export(tmp_path / "model.onnx")
    assert "model.pt" in refused.value.hint


@pytest.mark.parametrize(
    ("arch", "form"),
    [
        ("resnet18", "timm"),
        ("torchvision/mobilenet_v3_small", "torchvision"),
        ("torchvision/googlenet", "torchvision"),
        ("timm/mobilenetv3_small_050", "timm"),
        ("resnet10", "onnx"),
        ("torchvision/resnet18", "onnx"),
    ],
)
def test_the_code_of_the_model_card_gives_the_same_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, form: str
):
    if form == "timm":
        pytest.importorskip("timm")
    if form == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    pytest.importorskip("cv2")
    model, file = saved_model(tmp_path, arch)
    card = export(file, form, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    Image.fromarray(photo(90, 120, seed=1)).save("photo.jpg")
    names: dict = {}
    with torch.no_grad():
        exec(code_of(card), names)
        expected = model(names["images"])
    assert names["images"].shape == (1, 3, 64, 64)
    np.testing.assert_allclose(np.asarray(names["logits"]), expected.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(91, 120), (131, 88), (40, 50), (64, 64)])
@pytest.mark.parametrize("fraction", [224 / 256, 1.0])
def test_the_card_prepares_images_as_the_loader_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interpolation: Interpolation,
    width: int,
    height: int,
    fraction: float,
):
    if interpolation == "area":
        pytest.importorskip("cv2")
    pixels = photo(width, height, seed=1)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pixels).save("photo.jpg", format="PNG")  # lossless, as the raw beton
    file = write_beton(tmp_path / "one.beton", [pixels], [0], raw=[True])
    plan = LoaderPlan(file, 1, 48, center_fraction=fraction, interpolation=interpolation)
    with open_loader(plan) as loader, loader.epoch(0) as batches:
        expected = next(images.clone() for images, _ in batches)
    names: dict = {}
    exec(model_card.preparation(fraction, 48, interpolation), names)
    difference = 255 * names["images"] - expected.float()
    assert float(difference.abs().max()) < 1.01


def test_all_written_files_are_printed(tmp_path: Path):
    _, file = saved_model(tmp_path, "resnet18")
    out = tmp_path / "out"
    ended = CliRunner().invoke(command, [str(file), "--format", "torchvision", "--out", str(out)])
    assert sorted(ended.stdout.split()) == sorted(map(str, out.iterdir()))


def test_the_card_has_facts_and_the_folder_has_the_classes(tmp_path: Path):
    _, file = saved_model(tmp_path, "resnet18", num_classes=60)
    card = export(file, "torchvision", tmp_path / "out")
    assert "adversarial, l2 eps 0.5" in card and "| classes | 60 |" in card
    assert "and 10 more" in card and "License" in card
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines()[59] == "class 59"


def test_the_card_states_the_crop_of_the_evaluated_images(tmp_path: Path):
    _, file = saved_model(tmp_path, "resnet18")
    record = {
        "schema_version": 1,
        "kind": "pretrain",
        "key": tmp_path.name,
        "name": "pretrain/all/eps0/seed0",
        "config": {"settings": {"epochs": 1, "resolution": 128, "eval_crop": 0.8}},
        "metrics": {"val": {"top1": 0.5, "top5": 1.0}},
        **{name: {} for name in ("axes", "needs", "environment")},
        "started_at": "2026-01-01T00:00:00+00:00",
        "wall_s": 1.0,
    }
    (tmp_path / "result.json").write_text(json.dumps(record))
    card = export(file, "torchvision", tmp_path / "out")
    assert "center crop of 80 % of the shorter side, resized to 128 x 128 pixels" in card
    accuracy = "## Accuracy on the validation split of its classes"
    assert "| top5 | 100.0 % |" in card
    assert card.index(accuracy) < card.index("center crop") < card.index("## License notes")


@pytest.mark.parametrize(("num_classes", "is_shown"), [(5, False), (6, True)])
def test_the_card_omits_top5_if_it_cannot_fail(tmp_path: Path, num_classes: int, is_shown: bool):
    (tmp_path / "model.onnx").write_bytes(b"")
    text = model_card.card(
        name="x",
        about={"classes": range(num_classes)},
        file=tmp_path / "model.onnx",
        usage="",
        input_text="",
        max_difference=None,
        metrics={"val": {"top1": 0.5, "top5": 1.0}},
        inputs={},
        license_notes=[],
    )
    assert "top1" in text and ("top5" in text) == is_shown


def test_a_network_that_the_target_library_lacks_is_refused_with_a_hint(tmp_path: Path):
    _, file = saved_model(tmp_path, "resnet10")
    with pytest.raises(UserError, match="no network resnet10") as info:
        export(file, "torchvision", tmp_path / "out")
    assert "onnx" in info.value.hint
    _, file = saved_model(tmp_path, "resnet18", blur_pool=True)
    with pytest.raises(UserError):
        export(file, "torchvision", tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    _, file = saved_model(tmp_path, "torchvision/mobilenet_v3_small")
    with pytest.raises(UserError, match="cannot be exported to timm"):
        export(file, "timm", tmp_path / "out")


def test_a_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, file = saved_model(tmp_path, "resnet18")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="onnx") as info:
        export(file, "onnx", tmp_path / "out")
    assert "harness[onnx]" in info.value.hint


@pytest.mark.parametrize("name", ["missing/model.pt", "resnet81", "torchvision/resnet81"])
def test_wrong_names_are_user_errors(tmp_path: Path, name: str):
    arguments = [
        name,
        "--format",
        "onnx",
        "--out",
        str(tmp_path / "o"),
        "--runs-dir",
        str(tmp_path),
    ]
    ended = CliRunner().invoke(command, arguments)
    assert isinstance(ended.exception, UserError), ended.output
    assert name.rpartition("/")[2] in ended.exception.message
