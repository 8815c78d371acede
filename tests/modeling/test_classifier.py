"""Classifiers: normalization, equality with torchvision, heads, files."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms.v2.functional import normalize

from harness.cli.commands._model_and_images import load_model
from harness.modeling import classifier
from harness.modeling.precision import autocast, choose
from harness.system.folders import Folders
from writers import names
from writers.errors import UserError


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_model_equals_torchvisions_network_on_normalized_pixels(arch):
    torch.manual_seed(0)
    model = classifier.build(arch, 7).eval()
    theirs = getattr(torchvision.models, arch)(weights=None, num_classes=7).eval()
    weights = {name: value for name, value in model.backbone.state_dict().items()}
    theirs.load_state_dict(weights | {"fc.weight": model.head.weight, "fc.bias": model.head.bias})
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    expected = theirs(normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    # float32 through 18 or 50 layers: differences of 3e-6 standard deviations were seen.
    assert torch.allclose(model(images), expected, rtol=0, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("arch", names.names("harness.modeling.archs"))
def test_every_architecture_has_equal_shapes_layout_and_initialization(arch):
    torch.manual_seed(0)
    model = classifier.build(arch, 3).eval()
    pixels = torch.randint(0, 256, (2, 3, 36, 36), dtype=torch.uint8).to(
        memory_format=torch.channels_last
    )
    kept = pixels.clone()
    assert model(pixels).shape == (2, 3)
    assert model.features(pixels).shape == (2, model.feature_dim)
    assert torch.equal(model(pixels), model(pixels / 255)) and torch.equal(pixels, kept)
    torch.manual_seed(0)
    again = classifier.build(arch, 3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_resnet10_has_the_requested_widths():
    model = classifier.build("ResNet10", 4, channels=(16, 20, 24, 28))
    assert model.feature_dim == 28 and model.backbone.stage2.conv2.out_channels == 20
    assert (
        sum(
            isinstance(module, nn.Conv2d | nn.Linear)
            for name, module in model.named_modules()
            if "shortcut" not in name
        )
        == 10
    )
    sizes = []
    model.backbone.stage4.register_forward_hook(
        lambda _, __, output: sizes.append(tuple(output.shape))
    )
    model(torch.rand(1, 3, 64, 64))
    assert sizes == [(1, 28, 2, 2)]  # 64 / 32: strides 2 (stem), 2 (its pooling), 1, 2, 2, 2


@pytest.mark.parametrize(
    ("arch", "channels", "message"),
    [
        ("resnet18", (16, 16, 16, 16), "resnet18 has fixed widths"),
        ("resnet50", (16,), "resnet50 has fixed widths"),
        ("resnet10", (16, 16), "channels has 2"),
        ("resnet11", None, "resnet10|resnet18"),
        ("torchvision/resnet18", (16,), "torchvision/resnet18 has fixed widths"),
        ("torchvision/resnet19", (16,), "no torchvision model named 'resnet19'"),
    ],
)
def test_unknown_architectures_are_refused(arch, channels, message):
    with pytest.raises(UserError, match=message):
        classifier.build(arch, 3, channels=channels)


def test_a_new_head_depends_only_on_its_generator():
    model = classifier.build("resnet10", 3, channels=(16, 16, 16, 64))
    backbone = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    before = torch.get_rng_state()
    heads = []
    for seed in (5, 5, 6):
        classifier.replace_head(model, 40, torch.Generator().manual_seed(seed))
        heads.append(model.head.weight.detach().clone())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert model(torch.rand(2, 3, 24, 24)).shape == (2, 40)
    reference = nn.Linear(64, 40).weight  # drawn from the same uniform distribution
    # The standard deviation of 2560 draws has a standard error of 1 %.
    assert abs(heads[0].std() / reference.std() - 1) < 0.05 and heads[0].abs().max() <= 1 / 8
    model.backbone.load_state_dict(backbone, strict=True)
    assert model.head.weight.requires_grad


def test_a_saved_model_loads_unchanged(tmp_path):
    model = classifier.build("resnet10", 3, channels=(16, 16, 16, 24)).eval()
    about = {
        "arch": "resnet10",
        "channels": [16, 16, 16, 24],
        "classes": ["a", "b", "c"],
        "eps": 0.5,
    }
    classifier.save(tmp_path / "deep" / "model.pt", model, about)
    loaded, metadata = classifier.load(tmp_path / "deep" / "model.pt")
    images = torch.rand(2, 3, 24, 24)
    assert torch.equal(loaded.eval()(images), model(images)) and metadata == about
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.pt"]


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize(
    "content", ["truncated", "text", "foreign", "evil", "empty", "wrong_weights"]
)
def test_incomplete_model_files_are_refused(tmp_path, content, capsys):
    path = tmp_path / "model.pt"
    model = classifier.build("resnet10", 3, channels=(16, 16, 16, 24))
    classifier.save(path, model, {"arch": "resnet10", "channels": [16, 16, 16, 24]})
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif content == "text":
        path.write_text("hello")
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "foreign":
        torch.save({"model": torch.zeros(2)}, path)
    elif content == "evil":
        torch.save({"state_dict": {}, "about": Evil()}, path)
    else:
        classifier.save(path, model, {"arch": "resnet10"})
    with pytest.raises(UserError, match="not a complete model"):
        classifier.load(path)
    assert "unpickled" not in capsys.readouterr().out
    with pytest.raises(UserError, match="no model at"):
        classifier.load(tmp_path / "none.pt")


def test_precision_follows_setting_and_device(monkeypatch):
    assert [choose(setting, "cpu") for setting in ("float32", "bf16", "fp16")] == [
        "float32",
        "bf16",
        "fp16",
    ]
    assert choose("auto", "cpu") == "float32"
    for native, expected in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native
        )
        assert choose("auto", "cuda:0") == expected
    with autocast("bf16", "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast("float32", "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_large_file_that_is_not_a_model_is_not_read(tmp_path: Path, monkeypatch):
    with (tmp_path / "model.pt").open("wb") as file:
        file.truncate(2**35)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file must not be read"))
    with pytest.raises(UserError, match="not a complete model"):
        classifier.load(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["", " ", "a\nb"])
def test_a_name_that_no_model_can_have_is_refused(tmp_path: Path, name: str):
    with pytest.raises(UserError, match="not a model name"):
        load_model(name, Folders(tmp_path, tmp_path, tmp_path))
