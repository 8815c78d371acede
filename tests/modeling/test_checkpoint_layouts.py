"""Layouts of self-supervised checkpoints: which copy of the network and which head is read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from click.testing import CliRunner

from harness.cli.main import cli
from harness.config.model import ModelSettings
from harness.modeling.checkpoint_import import import_checkpoint
from harness.modeling.pretrained import load_pretrained
from writers.errors import UserError

ARCH = "torchvision/resnet18"
State = dict[str, torch.Tensor]


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def projection(prefix: str) -> State:
    return {f"{prefix}{layer}.weight": torch.rand(8, 8) for layer in (0, 2)}


# Test case -> name of the layout, and a function that makes a file as the published code saves it.
# `wanted` has the weights that the authors evaluate; `other` is a second copy of other weights.
LAYOUTS: dict[str, tuple[str, Callable[[State, State], dict]]] = {
    "MoCo v1": (
        "MoCo",
        lambda wanted, other: {
            "epoch": 200,
            "arch": "resnet18",
            "state_dict": under("module.encoder_k.", other | {"fc.weight": torch.rand(128, 512)})
            | under("module.encoder_q.", wanted | {"fc.weight": torch.rand(128, 512)})
            | {"module.queue": torch.rand(128, 16), "module.queue_ptr": torch.zeros(1)},
            "optimizer": {"state": {}, "param_groups": []},
        },
    ),
    "MoCo v2": (
        "MoCo",
        lambda wanted, other: {
            "state_dict": under("module.encoder_q.", wanted | projection("fc."))
            | under("module.encoder_k.", other | projection("fc."))
        },
    ),
    "MoCo v3": (
        "MoCo v3",
        lambda wanted, other: {
            "state_dict": under("module.base_encoder.", wanted | projection("fc."))
            | under("module.momentum_encoder.", other | projection("fc."))
            | projection("module.predictor.")
        },
    ),
    "SimCLR": (
        "SimCLR",
        lambda wanted, other: under("encoder.", wanted) | projection("projector."),
    ),
    "SimCLR, lightning": (
        "SimCLR",
        lambda wanted, other: {
            "state_dict": under("backbone.", wanted) | projection("projection_head.layers."),
            "hyper_parameters": {"lr": 0.1},
        },
    ),
    "SwAV": (
        "SwAV",
        lambda wanted, other: under(
            "module.", wanted | projection("projection_head.") | {"prototypes.weight": torch.eye(8)}
        ),
    ),
    "BYOL": (
        "BYOL",
        lambda wanted, other: (
            under("online_encoder.net.", wanted)
            | projection("online_encoder.projector.")
            | under("target_encoder.net.", other)
            | projection("online_predictor.net.")
        ),
    ),
    "BYOL, other program": (
        "BYOL",
        lambda wanted, other: {
            "model": under("module.online_network.encoder.", wanted)
            | under("module.target_network.encoder.", other)
        },
    ),
    "DINO": (
        "DINO",
        lambda wanted, other: {
            "student": under("module.backbone.", other) | projection("module.head.mlp."),
            "teacher": under("backbone.", wanted) | projection("head.mlp."),
            "optimizer": {"state": {}},
            "dino_loss": {"center": torch.rand(1, 8)},
            "epoch": 100,
        },
    ),
    "Barlow Twins": (
        "Barlow Twins or VICReg",
        lambda wanted, other: {
            "epoch": 1000,
            "model": under("module.backbone.", wanted) | projection("module.projector."),
            "optimizer": {"state": {}},
        },
    ),
    "VICReg": (
        "Barlow Twins or VICReg",
        lambda wanted, other: {
            "model": under("module.backbone.", wanted) | projection("module.projector.")
        },
    ),
    "OpenSelfSup, NPID": (
        "OpenSelfSup",
        lambda wanted, other: {
            "meta": {"epoch": 200},
            "state_dict": under("backbone.", wanted) | projection("neck.fc."),
        },
    ),
    "OpenSelfSup, ODC": (
        "OpenSelfSup",
        lambda wanted, other: {
            "state_dict": under("backbone.", wanted)
            | projection("neck.fc")
            | {"head.fc_cls.weight": torch.rand(10_000, 8), "head.fc_cls.bias": torch.rand(10_000)}
        },
    ),
    "OpenSelfSup, BYOL": (
        "BYOL",
        lambda wanted, other: {
            "state_dict": under("online_net.0.", wanted)
            | projection("online_net.1.")
            | under("target_net.0.", other)
            | projection("target_net.1.")
        },
    ),
    "OpenSelfSup, MoCo": (
        "MoCo",
        lambda wanted, other: {
            "state_dict": under("encoder_q.0.", wanted)
            | under("encoder_k.0.", other)
            | under("backbone.", wanted)  # the same module under a second name
        },
    ),
    "OpenSelfSup, rotation": (
        "OpenSelfSup",
        lambda wanted, other: {
            "state_dict": under("backbone.", wanted) | linear("head.fc_cls", 4, 512)
        },
    ),
    "MMSelfSup, target generator": (
        "MMSelfSup",
        lambda wanted, other: {
            "state_dict": under("backbone.", wanted)
            | under("target_generator.", other)
            | linear("head", 16, 8)
        },
    ),
    "SimCLR, projection as fc": (
        "SimCLR",
        lambda wanted, other: {
            "state_dict": under("backbone.", wanted | projection("fc.")),
            "arch": "resnet18",
        },
    ),
    "SimCLR, convnet": (
        "SimCLR",
        lambda wanted, other: under("convnet.", wanted) | projection("projection."),
    ),
    "SimCLR, resnet": (
        "SimCLR",
        lambda wanted, other: {"resnet": wanted, "head": projection("")},
    ),
    "BYOL, numbered modules": (
        "BYOL",
        lambda wanted, other: {
            "online_network_state_dict": under("encoder.", numbered(wanted))
            | projection("projetion.net."),
            "target_network_state_dict": under("encoder.", numbered(other)),
            "optimizer_state_dict": {"state": {}},
        },
    ),
    "BYOL, online backbone": (
        "BYOL",
        lambda wanted, other: {
            "state_dict": under("target_backbone.", other)
            | under("online_backbone.", wanted)
            | projection("online_projector.")
        },
    ),
    "BYOL, whole networks": (
        "BYOL",
        lambda wanted, other: (
            under("net.", wanted | linear("fc", 1000, 512))
            | under("online_encoder.net.", wanted | linear("fc", 1000, 512))
            | projection("online_encoder.projector.")
            | under("target_encoder.net.", other | linear("fc", 1000, 512))
        ),
    ),
    "SimCLR, Lightning Bolts": (
        "SimCLR",
        lambda wanted, other: {
            "state_dict": under("encoder.", wanted | linear("fc", 1000, 512))
            | projection("projection.model.")
        },
    ),
    "DINO, Lightly": (
        "DINO",
        lambda wanted, other: {
            "state_dict": under("student_backbone.", other)
            | projection("student_head.layers.")
            | under("teacher_backbone.", wanted)
            | projection("teacher_head.layers.")
        },
    ),
    "DINO, solo-learn": (
        "solo-learn",
        lambda wanted, other: {
            "state_dict": under("momentum_backbone.", other)
            | under("backbone.", wanted)
            | projection("head.mlp.")
            | projection("momentum_head.mlp.")
        },
    ),
    "VISSL": (
        "VISSL",
        lambda wanted, other: {
            "phase_idx": 9,
            "classy_state_dict": {
                "base_model": {
                    "model": {
                        "trunk": under("_feature_blocks.", wanted),
                        "heads": projection("0.clf."),
                    },
                    "meta": {"config": {}},
                },
                "optimizer": {"state": {}},
            },
        },
    ),
    "Lightly": (
        "SimCLR",
        lambda wanted, other: {
            "state_dict": under("backbone.", numbered(wanted))
            | under("backbone_momentum.", numbered(other))
            | projection("projection_head.layers.")
        },
    ),
    "solo-learn": (
        "Barlow Twins or VICReg",
        lambda wanted, other: {
            "state_dict": under("backbone.", wanted)
            | under("momentum_backbone.", other)
            | projection("projector.")
        },
    ),
}


def linear(name: str, num_outputs: int, num_inputs: int) -> State:
    weight = torch.rand(num_outputs, num_inputs)
    return {f"{name}.weight": weight, f"{name}.bias": torch.rand(num_outputs)}


def numbered(state: State) -> State:
    """Rename tensors as in `nn.Sequential(*resnet.children())`."""
    children = [name for name, _ in torchvision.models.resnet18().named_children()]
    split = {name: name.partition(".") for name in state}
    return {f"{children.index(split[n][0])}.{split[n][2]}": value for n, value in state.items()}


def bodies() -> tuple[torch.nn.Module, State, State]:
    """Return a ResNet-18 of random weights, its state without the head, and other weights.

    The network's head is removed, so that it returns features.
    """
    torch.manual_seed(0)
    plain = torchvision.models.resnet18().eval()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    wanted = {n: v for n, v in plain.state_dict().items() if not n.startswith("fc.")}
    other = {n: v + 1 for n, v in wanted.items()}
    plain.fc = torch.nn.Identity()
    return plain, wanted, other


@pytest.mark.parametrize("name", LAYOUTS)
def test_features_equal_those_of_the_plain_network(name: str, tmp_path: Path):
    method, make = LAYOUTS[name]
    plain, wanted, other = bodies()
    torch.save(make(wanted, other), tmp_path / "c.pth")
    model, about = import_checkpoint(tmp_path / "c.pth", ARCH, "in1000")
    assert about["layout"] == method and not about["has_head"] and about["classes"] == []
    weights = model.backbone.state_dict()
    assert all(torch.equal(weights[tensor], wanted[tensor]) for tensor in wanted)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():  # another memory layout changes the order of sums
        assert torch.allclose(model.eval().backbone(images), plain(images), rtol=1e-4, atol=1e-4)


def test_another_copy_of_the_network_can_be_chosen_by_part(tmp_path: Path):
    _, wanted, other = bodies()
    torch.save(LAYOUTS["DINO"][1](wanted, other), tmp_path / "c.pth")
    model, _ = import_checkpoint(tmp_path / "c.pth", ARCH, None, part="student")
    assert torch.equal(model.backbone.state_dict()["conv1.weight"], other["conv1.weight"])
    with pytest.raises(UserError, match="no part named 'encoder_q'") as caught:
        import_checkpoint(tmp_path / "c.pth", ARCH, None, part="encoder_q")
    assert "student, teacher" in caught.value.hint
    settings = ModelSettings(
        name="mine", checkpoint="c.pth", arch=ARCH, classes=None, part="student"
    )
    loaded = load_pretrained(settings, tmp_path)
    assert torch.equal(loaded.model.backbone.state_dict()["conv1.weight"], other["conv1.weight"])
    assert loaded.training == "self-supervised"


def test_a_supervised_checkpoint_has_no_layout_and_keeps_its_head(tmp_path: Path):
    state = under("module.", torchvision.models.resnet18().state_dict())
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    _, about = import_checkpoint(tmp_path / "c.pth", ARCH, "in1000")
    assert about["layout"] is None and about["has_head"]


def test_a_file_of_a_backbone_alone_has_no_head(tmp_path: Path):
    """DINO's authors publish such files."""
    _, wanted, _ = bodies()
    torch.save(wanted, tmp_path / "c.pth")
    model, about = import_checkpoint(tmp_path / "c.pth", ARCH, "in1000")
    assert not about["has_head"] and about["classes"] == [] and about["left_out"] == []
    assert torch.equal(model.backbone.state_dict()["conv1.weight"], wanted["conv1.weight"])
    # Other tensors that are left out may be a head, so the user must decide.
    torch.save(wanted | linear("fc", 10, 512), tmp_path / "c.pth")
    with pytest.raises(UserError, match="10 classes"):
        import_checkpoint(tmp_path / "c.pth", ARCH, "in1000")


@pytest.mark.parametrize(
    ("network", "head"),
    [
        ("backbone.", "head.fc_cls"),  # OpenSelfSup
        ("backbone.", "head.fc"),  # MMSelfSup, MMPretrain
        ("trunk._feature_blocks.", "heads.0.clf.0"),  # VISSL
        ("backbone.", "classifier"),  # solo-learn
    ],
)
@pytest.mark.parametrize("arch", [ARCH, "resnet18"])
def test_a_linear_evaluation_keeps_its_head(network: str, head: str, arch: str, tmp_path: Path):
    _, wanted, _ = bodies()
    layer = linear(head, 1000, 512)
    state = under(network, wanted) | layer | projection("projector.")
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    model, about = import_checkpoint(tmp_path / "c.pth", arch, "in1000")
    assert about["has_head"] and len(about["classes"]) == 1000
    assert torch.equal(model.head.weight, layer[f"{head}.weight"])
    assert torch.equal(model.head.bias, layer[f"{head}.bias"])
    assert about["left_out"] == sorted(projection("projector."))
    _, about = import_checkpoint(tmp_path / "c.pth", arch, None)
    assert not about["has_head"] and f"{head}.weight" in about["left_out"]
    # solo-learn saves a second head, of the averaged network.
    second = linear(f"momentum_{head}", 1000, 512)
    torch.save({"state_dict": state | second}, tmp_path / "c.pth")
    model, _ = import_checkpoint(tmp_path / "c.pth", arch, "in1000")
    assert torch.equal(model.head.weight, layer[f"{head}.weight"])
    torch.save({"state_dict": state | linear("other", 1000, 512)}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="2 layers have the shape of the head"):
        import_checkpoint(tmp_path / "c.pth", arch, "in1000")


def test_networks_that_take_sobel_filtered_images_are_refused(tmp_path: Path):
    _, wanted, _ = bodies()
    sobel = wanted | {"conv1.weight": torch.rand(64, 2, 7, 7)}
    torch.save(under("backbone.", sobel) | projection("neck.fc"), tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"takes 2 channels instead of 3.*Sobel"):
        import_checkpoint(tmp_path / "c.pth", ARCH, None)
    other = wanted | {"conv1.weight": torch.rand(64, 32, 7, 7)}
    torch.save(under("backbone.", other) | projection("neck.fc"), tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"takes 32 channels instead of 3: .* another architecture"):
        import_checkpoint(tmp_path / "c.pth", ARCH, None)


def test_the_command_prints_the_layout(tmp_path: Path):
    _, wanted, other = bodies()
    torch.save(LAYOUTS["SwAV"][1](wanted, other), tmp_path / "c.pth")
    arguments = ["import-checkpoint", str(tmp_path / "c.pth"), "--arch", ARCH]
    ended = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "m.pt")])
    assert ended.exit_code == 0, ended.output
    assert "layout: SwAV (self-supervised)" in ended.output


def test_a_self_supervised_model_of_timm_has_features_and_no_head(tmp_path: Path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = timm.create_model("vit_small_patch16_224.dino", pretrained=False).eval()
    torch.save(plain.state_dict(), tmp_path / "vit_small_patch16_224.dino.pth")
    loaded = load_pretrained(ModelSettings(name="timm/vit_small_patch16_224.dino"), tmp_path)
    assert loaded.training == "self-supervised"
    assert not loaded.about["has_head"] and loaded.about["classes"] == []
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(
            loaded.model.eval().backbone(images), plain(images), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(("arch", "fits"), [("vit_small", False), ("vit_base", True)])
def test_vision_transformers_of_moco_v3_have_twelve_heads(arch: str, fits: bool, tmp_path: Path):
    """ViT-Small's weights also fit timm's network with 6 heads, which computes other features."""
    timm = pytest.importorskip("timm")
    name = f"{arch}_patch16_224"
    plain = timm.create_model(name, pretrained=False, num_classes=0, num_heads=12)
    state = under("module.base_encoder.", plain.state_dict()) | projection("module.predictor.")
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    if fits:
        _, about = import_checkpoint(tmp_path / "c.pth", f"timm/{name}", None)
        assert about["layout"] == "MoCo v3" and not about["has_head"]
    else:
        with pytest.raises(UserError, match=r"has 6 attention heads.*MoCo v3 have 12"):
            import_checkpoint(tmp_path / "c.pth", f"timm/{name}", None)
