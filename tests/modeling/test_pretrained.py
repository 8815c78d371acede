"""Pretrained models: where weights are found, equality with libraries, and use in a recipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.transforms.v2.functional import normalize

from harness.config.model import ModelSettings
from harness.config.zoo_names import matching
from harness.modeling import classifier, pretrained, zoo
from harness.modeling.published_accuracy import timm_accuracy
from harness.stages.adopt import run as adopt
from harness.stages.pretrain.spec import MODEL_FILE
from tests.helpers import ROOT
from tests.helpers.tiny_stages import context_of, write_colors
from writers.errors import UserError


def logits_equal(
    model: classifier.Classifier, theirs: torch.nn.Module, network: zoo.Network
) -> bool:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs.eval()(normalize(images / 255, list(network.mean), list(network.std)))
        # Rounding in float32 changes the logits by less than 1e-5 standard deviations. The tolerance
        # is relative because random weights give small logits.
        return torch.allclose(
            model.eval()(images), expected, rtol=0, atol=1e-4 * float(expected.std())
        )


def test_torchvision_weights_load_under_their_published_name(tmp_path: Path):
    torch.manual_seed(0)
    theirs = torchvision.models.shufflenet_v2_x0_5()
    file = zoo.pretrained_weights("torchvision/shufflenet_v2_x0_5").file_names[0]
    assert file.startswith("shufflenetv2_x0.5-") and file.endswith(".pth")
    torch.save(theirs.state_dict(), tmp_path / file)
    context = context_of(
        tmp_path,
        "adopt",
        {"model": {"name": "torchvision/shufflenet_v2_x0_5"}, "weights_dir": "."},
        {},
    )
    metrics = adopt.run(context).metrics
    model, about = classifier.load(tmp_path / "adopt" / MODEL_FILE)
    assert logits_equal(model, theirs, zoo.build("torchvision/shufflenet_v2_x0_5"))
    assert metrics["imagenet_top1"] == 0.60552
    assert metrics["num_classes"] == 1000
    assert metrics["feature_dim"] == 1024
    assert (
        metrics["num_parameters"]
        == sum(parameter.numel() for parameter in theirs.parameters())
        == 1366792
    )
    # torchvision's metadata has the rounded value of 0.04 giga multiply-adds.
    assert metrics["flops"] == pytest.approx(2 * 0.04e9, rel=0.05)
    assert about["classes"][0] == "n01440764"
    assert metrics["weights"] == file
    assert len(metrics["sha256"]) == 64


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_with_input_transforms_and_auxiliary_heads_equal_torchvisions(name: str):
    """These networks convert the usual normalization to their own if `transform_input` is set."""
    theirs = getattr(torchvision.models, name)(init_weights=False, transform_input=True)
    published = zoo.pretrained_weights(f"torchvision/{name}")
    tensors = published.rename_keys(theirs.state_dict())
    assert len(tensors) < len(theirs.state_dict())
    network = zoo.build(f"torchvision/{name}")
    model = classifier.from_network(network, 1000)
    zoo.load_weights(name, network, model.head, tensors)
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs.eval()(normalize(images / 255, list(network.mean), list(network.std)))
        # The tolerance is relative, as in logits_equal.
        assert torch.allclose(
            model.eval()(images), expected, rtol=0, atol=1e-4 * float(expected.std())
        )


def test_old_densenet_weights_with_dots_in_names_load():
    with torch.device("meta"):
        theirs = torchvision.models.densenet121().state_dict()
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for key, value in theirs.items()
        if not key.endswith("num_batches_tracked")
    }
    assert old.keys() != theirs.keys()
    renamed = zoo.pretrained_weights("torchvision/densenet121").rename_keys(old)
    assert renamed.keys() == {key for key in theirs if not key.endswith("num_batches_tracked")}


def test_files_without_batch_counters_load():
    theirs = torchvision.models.shufflenet_v2_x0_5()
    network = zoo.build("torchvision/shufflenet_v2_x0_5")
    model = classifier.from_network(network, 1000)
    zoo.load_weights(
        "torchvision/shufflenet_v2_x0_5",
        network,
        model.head,
        {
            key: value
            for key, value in theirs.state_dict().items()
            if not key.endswith("num_batches_tracked")
        },
    )
    assert logits_equal(model, theirs, network)


def test_timm_weights_load_with_timms_conversion(tmp_path: Path):
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", pretrained=False)
    save_file(theirs.state_dict(), tmp_path / "resnet10t.c3_in1k.safetensors")
    adopted = pretrained.load_pretrained(ModelSettings(name="timm/resnet10t"), tmp_path)
    assert logits_equal(adopted.model, theirs, zoo.build("timm/resnet10t"))
    assert (
        adopted.license == "apache-2.0"
        and adopted.about["resolution"] == 176
        and adopted.imagenet_top1 == pytest.approx(0.66724)  # timm's results, at 176 pixels
    )
    assert (
        pretrained.load_pretrained(ModelSettings(name="timm/resnet10t.c3_in1k"), tmp_path).about[
            "sha256"
        ]
        == adopted.about["sha256"]
    )


@pytest.mark.parametrize(
    ("settings", "expected"), [({}, "bicubic"), ({"interpolation": "area"}, "area")]
)
def test_published_weights_come_with_their_interpolation(
    tmp_path: Path, settings: dict[str, str], expected: str
):
    name = "timm/resnet10t"  # bicubic in timm's configuration
    assert zoo.build("torchvision/shufflenet_v2_x0_5").interpolation == "bilinear"
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet10t.safetensors")
    config = {"model": {"name": name, **settings}, "weights_dir": "."}
    metrics = adopt.run(context_of(tmp_path, "adopt", config, {})).metrics
    _, about = classifier.load(tmp_path / "adopt" / MODEL_FILE)
    assert metrics["interpolation"] == about["interpolation"] == expected


def test_a_version_of_weights_can_be_chosen_by_torchvisions_name(tmp_path: Path):
    """V1 and V2 of a network differ in file, accuracy and crop."""
    theirs = torchvision.models.mobilenet_v2()
    first, second = (f"torchvision/mobilenet_v2@IMAGENET1K_V{version}" for version in (1, 2))
    for name, weights in zip((first, second), torchvision.models.MobileNet_V2_Weights, strict=True):
        published = zoo.pretrained_weights(name)
        assert published.url == weights.url
        assert published.imagenet_top1 == pytest.approx(
            weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100
        )
    assert zoo.pretrained_weights("torchvision/mobilenet_v2").url == (
        zoo.pretrained_weights(second).url
    )
    crops = [zoo.build(name).crop_fraction for name in (first, second)]
    assert crops == [224 / 256, 224 / 232]
    torch.save(theirs.state_dict(), tmp_path / zoo.pretrained_weights(first).file_names[0])
    adopted = pretrained.load_pretrained(ModelSettings(name=first), tmp_path)
    assert logits_equal(adopted.model, theirs, zoo.build(first))
    classifier.save(tmp_path / MODEL_FILE, adopted.model, adopted.about)
    assert classifier.load(tmp_path / MODEL_FILE)[1]["arch"] == first
    with pytest.raises(UserError, match="not on this machine"):
        pretrained.load_pretrained(ModelSettings(name=second), tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("torchvision/mobilenet_v2@IMAGENET1K_V3", "IMAGENET1K_V2"),
        ("torchvision/mobilenet_v9@IMAGENET1K_V1", "mobilenet_v2"),
        ("timm/resnet10t@c3_in1k", "NAME.TAG"),
    ],
)
def test_weights_that_do_not_exist_are_refused(name: str, hint: str):
    with pytest.raises(UserError) as error:
        zoo.pretrained_weights(name)
    assert hint in f"{error.value.message} {error.value.hint}"


def test_accuracies_that_timm_published_belong_to_the_weights_and_their_input():
    found = [
        zoo.pretrained_weights(f"timm/{name}").imagenet_top1
        for name in ("inception_v3.tv_in1k", "inception_v3.gluon_in1k", "mobilenetv1_100")
    ]
    # These are the results at 224 pixels. The same weights also have results at 256 pixels.
    assert found == pytest.approx([0.77472, 0.78806, 0.75388])
    assert zoo.pretrained_weights("timm/inception_v3").imagenet_top1 == pytest.approx(0.77472)
    assert timm_accuracy("resnet10t.no_such_tag", 224, 0.875) is None


def test_a_pattern_with_weights_matches_networks_that_have_them():
    found = matching("torchvision/resnet*@IMAGENET1K_V1")
    assert found == [f"torchvision/resnet{depth}@IMAGENET1K_V1" for depth in (101, 152, 18, 34, 50)]
    with pytest.raises(UserError):
        matching("torchvision/resnet18@IMAGENET1K_V2")


def test_caches_of_libraries_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = zoo.pretrained_weights("torchvision/shufflenet_v2_x0_5").file_names[0]
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    with pytest.raises(
        UserError,
        match=r"are not on this machine. They are published at https://.*shufflenetv2_x0.5",
    ):
        pretrained.load_pretrained(ModelSettings(name="torchvision/shufflenet_v2_x0_5"), tmp_path)
    torch.save(
        torchvision.models.shufflenet_v2_x0_5().state_dict(),
        tmp_path / "torch" / "hub" / "checkpoints" / file,
    )
    assert (
        pretrained.load_pretrained(
            ModelSettings(name="torchvision/shufflenet_v2_x0_5"), tmp_path
        ).about["imported_from"]
        == file
    )


def test_checkpoints_load_with_and_without_a_usable_head(tmp_path: Path):
    theirs = torchvision.models.shufflenet_v2_x0_5()
    state = theirs.state_dict()
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "c.pt"
    )
    settings = {"name": "mine", "checkpoint": "c.pt", "arch": "torchvision/shufflenet_v2_x0_5"}
    adopted = pretrained.load_pretrained(
        ModelSettings(**settings, eps=3, imagenet_top1=0.6), tmp_path
    )
    assert adopted.about["eps"] == 3 and adopted.about["has_head"] and adopted.imagenet_top1 == 0.6
    self_supervised = {key: value for key, value in state.items() if not key.startswith("fc.")}
    torch.save(self_supervised | {"fc.weight": torch.zeros(128, 1024)}, tmp_path / "c.pt")
    config = {"model": {**settings, "classes": None}, "weights_dir": "."}
    metrics = adopt.run(context_of(tmp_path, "headless", config, {})).metrics
    assert metrics["num_classes"] is None
    headless, about = classifier.load(tmp_path / "headless" / MODEL_FILE)
    assert about["has_head"] is False
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(headless.eval().features(images), adopted.model.eval().features(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet18"}, "no published weights.\nName published ones, such as torchvision/"),
        ({"name": "torchvision/resnet19"}, "no torchvision model named"),
        ({"name": "timm/resnet10x"}, "no timm model named"),
        ({"name": "keras/x"}, "torchvision/NAME or timm/NAME"),
        ({"name": "timm/resnet10t"}, "resnet10t.c3_in1k.safetensors into"),
        ({"name": "timm/test_vit4"}, "publishes no weights"),
        (
            {"name": "mine", "checkpoint": "c.pt", "arch": "torchvision/resnet18"},
            "c.pt cannot be read",
        ),
    ],
)
def test_unusable_weights_are_refused(
    settings, message, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        pretrained.load_pretrained(ModelSettings(**settings), tmp_path)
    assert message in f"{caught.value} {caught.value.hint}"


def test_patterns_match_classifiers_with_weights():
    assert matching("torchvision/resnet*") == [
        f"torchvision/resnet{depth}" for depth in (101, 152, 18, 34, 50)
    ]
    assert matching("torchvision/*", 3) == [
        "torchvision/alexnet",
        "torchvision/convnext_base",
        "torchvision/convnext_large",
    ]
    names = matching("timm/resnet1*")
    assert {"timm/resnet10t", "timm/resnet18", "timm/resnet101"} <= set(names)
    assert names == sorted(names)
    for wrong in ("keras/*", "*", "torchvision/none*"):
        with pytest.raises(UserError):
            matching(wrong)


RECIPE = """\
name: small_zoo
models:
  - torchvision/shufflenet_v2_x0_5
  - torchvision/shufflenet_v2_x1_0
  - {name: robust, checkpoint: c.pt, arch: torchvision/squeezenet1_1, eps: 3}
weights_dir: kept
targets: [{path: colors-images}]
scores: [knn, leep]
features: {resolution: 32}
methods:
  fixed: {epochs: 1, batch_size: 32, resolution: 32, lrs: [0.1]}
  tuned: {method: fixed, epochs: 1, batch_size: 32, resolution: 32, lrs: [0.1, 0.01]}
shortlist: {by: knn, best: 1, methods: [tuned]}
"""


def test_in_a_recipe_a_model_without_weights_fails_and_others_run(tmp_path: Path):
    write_colors(tmp_path / "raw")
    kept = tmp_path / "raw" / "kept"
    kept.mkdir()
    torch.manual_seed(0)
    name = zoo.pretrained_weights("torchvision/shufflenet_v2_x0_5").file_names[0]
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), kept / name)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), kept / "c.pt")
    (tmp_path / "small_zoo.yaml").write_text(RECIPE)
    options = ["--runs-dir", "runs", "--data-dir", "data", "--raw-dir", "raw"]

    caches = {"TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path)}

    def harness(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness.cli.main", *arguments, *options],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=240,
            env={**os.environ, **caches, "PYTHONPATH": str(ROOT)},
        )

    ended = harness("run", "small_zoo.yaml", "--jobs", "1", "--threads", "1")
    assert ended.returncode == 1, ended.stderr
    assert (
        "adopt/torchvision/shufflenet_v2_x1_0: The weights of torchvision/shufflenet_v2_x1_0 are "
        "not" in ended.stderr
    )
    assert "1 stage failed, 4 that need them did not run" in ended.stderr
    assert "Report:" in ended.stdout
    plan = json.loads(harness("plan", "small_zoo.yaml", "--json").stdout)
    assert plan["kinds"] == {
        "write": {"done": 1},
        "adopt": {"done": 2, "failed": 1},
        "features": {"done": 2, "left": 1},
        "score": {"done": 2, "left": 1},
        "transfer": {"done": 3, "left": 1, "skipped": 2},
        "shortlist": {"left": 1},  # the next run repeats it, because scores are missing
    }
    axes = {
        stage["kind"]: stage["axes"]
        for stage in plan["stages"]
        if stage["axes"].get("model") == "robust" and stage["axes"].get("method") != "tuned"
    }
    assert axes == {
        "adopt": {"model": "robust"},
        "features": {"model": "robust", "target": "colors-images"},
        "score": {"model": "robust", "target": "colors-images"},
        "transfer": {"model": "robust", "seed": 0, "target": "colors-images", "method": "fixed"},
    }
    status = harness("status", "small_zoo.yaml").stdout.splitlines()
    assert next(line.split() for line in status if line.startswith("model")) == [
        "model",
        "adopt",
        "score",
        "fixed",
        "tuned",
    ]
    rows = {line.split()[0]: line.split()[1:] for line in status if line}
    assert rows["robust"][:3] == ["done", "1/1", "1/1"]
    best = {rows[name][3] for name in ("robust", "torchvision/shufflenet_v2_x0_5")}
    assert best == {"1/1", "skipped"}  # either model may be best, because the weights are random
