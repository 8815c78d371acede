"""Faster R-CNN on ResNets: frozen stages, learning, resume, coordinates of boxes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.modeling import classifier
from harness.modeling.module_modes import BatchNorm
from harness.profiling.timer import Timer
from harness.runner.context import Stopped
from harness.stages._timed_steps import find_step
from harness.stages.transfer.spec import DETECTION_SETTINGS
from harness.train.checkpoint import Checkpoints
from harness.train.fit import Clock, Hooks, TrainingPlan, fit
from harness.train.optimizer import make_sgd
from harness.transfer.methods.detection.batches import FedLoader, FitPlan, targets_of
from harness.transfer.methods.detection.evaluation import detect
from harness.transfer.methods.detection.method import check_boxes
from harness.transfer.methods.detection.network import Detector, split_resnet
from harness.transfer.methods.detection.settings import DetectionSettings
from harness.transfer.methods.detection.step import DetectionStep
from tests.helpers.tiny_stages import context_of, write_colors
from writers.errors import UserError

TINY = DetectionSettings(
    method="detection",
    short_side=64,
    long_side=96,
    anchors=(32.0,),
    batch_size=4,
    regions_per_image=32,
)
NUM_CLASSES = 2


@dataclass(frozen=True)
class Batch:
    images: list[Tensor]
    boxes: list[Tensor]
    labels: list[Tensor]
    difficult: list[Tensor]


class Squares:
    """Loader of images of varying size, each with a bright (class 0) or dark (class 1) square."""

    def __init__(self, num_images: int, batch_size: int = 4) -> None:
        self.num_samples, self._batch_size = num_images, batch_size

    def epoch(self, number: int, start_batch: int = 0) -> Iterator[Batch]:
        numbers = list(range(self.num_samples))[start_batch * self._batch_size :]
        for first in range(0, len(numbers), self._batch_size):
            rows = [self._image(one) for one in numbers[first : first + self._batch_size]]
            yield Batch(*(list(column) for column in zip(*rows, strict=True)))

    def _image(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        draw = torch.Generator().manual_seed(number)
        height, width = (64, 80) if number % 2 else (72, 64)
        image = torch.randint(110, 146, (3, height, width), dtype=torch.uint8, generator=draw)
        left, top = torch.randint(2, 30, (2,), generator=draw).tolist()
        side, label = 32, number % 2
        image[:, top : top + side, left : left + side] = 0 if label else 255
        box = torch.tensor([[left, top, left + side, top + side]], dtype=torch.float32)
        return image, box, torch.tensor([label]), torch.tensor([False])


def tiny_model(arch: str = "resnet10", **options: Any) -> classifier.Classifier:
    torch.manual_seed(0)
    channels = (16, 16, 16, 16) if arch == "resnet10" else None
    return classifier.build(arch, 3, channels=channels, **options)


def detector(settings: DetectionSettings = TINY, arch: str = "resnet10") -> Detector:
    model = tiny_model(arch)
    torch.manual_seed(0)
    return Detector(model, NUM_CLASSES, settings)


def step_of(model: Detector, lr: float = 0.02) -> DetectionStep:
    return DetectionStep(
        model.train(),
        make_sgd(model, TINY.optimizer, lr),
        peak_lr=lr,
        device="cpu",
        precision="float32",
        timer=Timer("cpu"),
    )


def train(step: DetectionStep, num_epochs: int, folder: Path | None = None, **options: Any) -> None:
    """Train on 16 images of squares; save checkpoints if `folder` is given."""
    loader: Any = FedLoader(Squares(16), FitPlan(4, 64), "cpu")
    checkpoints = Checkpoints(folder) if folder else None
    for _ in fit(
        step,  # type: ignore[arg-type]
        loader,
        TrainingPlan(TINY.optimizer, num_epochs),
        timer=Timer("cpu"),
        clock=Clock(),
        checkpoints=checkpoints,
        **options,
    ):
        pass


def test_training_improves_the_detection_of_squares() -> None:
    model = detector(TINY.model_copy(update={"train_from": 0, "bn_stats": "update"}))
    before = detect(model, Squares(16), NUM_CLASSES, "cpu", "float32").scores()
    torch.manual_seed(1)
    train(step_of(model, 0.1), 10)
    after = detect(model, Squares(16), NUM_CLASSES, "cpu", "float32").scores()
    assert after["map50_11"] > before["map50_11"] + 0.1, (before, after)
    assert after["num_images"] == 16 and model.training


def test_the_pyramid_trains_and_detects() -> None:
    anchors = (8.0, 16.0, 32.0, 48.0, 64.0)
    model = detector(TINY.model_copy(update={"neck": "fpn", "anchors": anchors, "batch_size": 2}))
    step, batch = step_of(model), next(Squares(2, 2).epoch(0))
    before = {name: value.clone() for name, value in model.named_parameters()}
    step.train_batch(batch.images, targets_of(batch, "cpu"))
    assert step.first_bad_step() is None and step.totals()["loss"] > 0
    for part in ("backbone.stages.4", "backbone.pyramid", "rpn", "roi_heads"):
        own = [name for name in before if name.startswith(part)]
        assert any((model.get_parameter(name) != before[name]).any() for name in own), part
    assert detect(model, Squares(2, 2), NUM_CLASSES, "cpu", "float32").scores()["num_images"] == 2


@pytest.mark.parametrize("train_from", [0, 2, 4])
def test_frozen_stages_and_batch_norm_keep_their_values(train_from: int) -> None:
    model = detector(TINY.model_copy(update={"train_from": train_from}))
    stages = [*model.backbone.stages, model.roi_heads.box_head.stage]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(step_of(model), 1)
    for number, stage in enumerate(stages):
        for module in stage.modules():
            if isinstance(module, BatchNorm):
                assert not module.training and not module.weight.requires_grad
            if isinstance(module, nn.Conv2d):
                assert module.weight.requires_grad == (number >= train_from)
    after = model.state_dict()
    prefixes = [*(f"backbone.stages.{number}." for number in range(4)), "roi_heads.box_head.stage."]
    moved = {key for key in after if (after[key] != before[key]).any()}
    convolutions = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    }
    trained = tuple(prefixes[train_from:])
    assert {key for key in moved if key.startswith(tuple(prefixes))} == {
        name for name in convolutions if name.startswith(trained)
    }
    assert (
        after["rpn.head.module.cls_logits.weight"] != before["rpn.head.module.cls_logits.weight"]
    ).any()


def test_trained_stages_may_update_their_batch_norm() -> None:
    model = detector(TINY.model_copy(update={"bn_stats": "update", "train_from": 1})).train()
    stem, first = model.backbone.stages[0], model.backbone.stages[1]
    assert not any(module.training for module in stem.modules() if isinstance(module, BatchNorm))
    assert all(module.training for module in first.modules() if isinstance(module, BatchNorm))


def test_a_killed_training_resumes_to_equal_weights(tmp_path: Path) -> None:
    """The samplers of Faster R-CNN draw from torch's generator, whose state is saved."""
    torch.manual_seed(5)
    whole = step_of(detector())
    torch.manual_seed(5)
    train(whole, 2, tmp_path / "whole")
    torch.manual_seed(5)
    part, stop_requests = step_of(detector()), iter([False] * 5 + [True] * 9)
    torch.manual_seed(5)
    with pytest.raises(Stopped):
        train(part, 2, tmp_path / "part", hooks=Hooks(lambda: next(stop_requests)))
    torch.manual_seed(99)
    again = step_of(detector())
    train(again, 2, tmp_path / "part")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_images_are_normalized_once_with_the_mean_and_std_of_the_network() -> None:
    model = tiny_model()
    classifier.set_normalization(model, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    images, _ = Detector(model, NUM_CLASSES, TINY).transform([torch.ones(3, 64, 64)])
    expected = (1 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.6, 0.7])
    assert torch.allclose(images.tensors[0, :, 5, 5], expected)
    seen: list[Tensor] = []
    found = Detector(model, NUM_CLASSES, TINY).eval()
    found.transform.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    found([torch.full((3, 64, 64), 255, dtype=torch.uint8)])
    assert seen[0].dtype == torch.float32 and float(seen[0].max()) == 1


@pytest.mark.parametrize(
    ("size", "resized"),
    [((375, 500), (600, 800)), ((333, 500), (600, 900)), ((100, 500), (200, 1000))],
)
def test_images_are_resized_to_a_short_side_of_600_and_a_long_side_of_at_most_1000(
    size: tuple[int, int], resized: tuple[int, int]
) -> None:
    settings = DetectionSettings(method="detection")
    transform = Detector(tiny_model(), NUM_CLASSES, settings).transform
    images, _ = transform([torch.zeros(3, *size)])
    assert all(
        abs(own - wanted) <= 1 for own, wanted in zip(images.image_sizes[0], resized, strict=True)
    )


def test_boxes_are_in_pixels_of_the_given_image() -> None:
    """In an image of half the size, boxes stay within half the coordinates."""
    model = detector().eval()
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    model.roi_heads.score_thresh = 0.0
    with torch.inference_mode():
        (one,) = model([image])
        assert len(one["boxes"]) and float(one["boxes"].max()) <= 64
        small = nn.functional.interpolate(image[None].float(), scale_factor=0.5)[0].byte()
        (half,) = model([small])
    assert float(half["boxes"].max()) <= 32


def test_targets_omit_difficult_objects_and_their_labels_start_at_1() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [5, 5, 9, 9]])
    batch = Batch(
        [torch.zeros(3, 9, 9)], [boxes], [torch.tensor([0, 1])], [torch.tensor([True, False])]
    )
    (target,) = targets_of(batch, "cpu")
    assert torch.equal(target["boxes"], boxes[1:]) and target["labels"].tolist() == [2]


def test_images_without_objects_can_be_trained_on() -> None:
    step = step_of(detector())
    images = [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    step.train_batch(images, [empty, empty])
    assert step.first_bad_step() is None and step.totals()["num_images"] == 2


def test_outputs_are_float32_in_bf16() -> None:
    """Coordinates in bf16 would be wrong by up to four pixels."""
    model = detector().eval()
    model.roi_heads.score_thresh = 0.0
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    dtypes = []
    model.rpn.head.register_forward_hook(
        lambda module, inputs, output: dtypes.extend(one.dtype for part in output for one in part)
    )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (found,) = model([image])
    assert {*dtypes, found["boxes"].dtype, found["scores"].dtype} == {torch.float32}


@pytest.mark.parametrize("arch", ["resnet18", "torchvision/resnet50", "timm/resnet18"])
def test_resnets_are_split_into_a_stem_and_four_stages(arch: str) -> None:
    model = tiny_model(arch).eval()
    hidden = image = torch.rand(1, 3, 64, 64)
    stages = split_resnet(model.backbone)
    assert len(stages) == 5
    with torch.no_grad():
        for stage in stages:
            hidden = stage(hidden)
        expected = model.backbone(image)
    assert torch.allclose(hidden.mean((2, 3)), expected, atol=1e-5)


def test_a_beton_without_boxes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = write_colors(tmp_path / "data")
    context = context_of(tmp_path, "detection", {}, {"data": data})
    with pytest.raises(UserError, match=r"train\.beton has no boxes of objects"):
        check_boxes(context)


@pytest.mark.parametrize("name", ["detection_training", "detection"])
def test_the_steps_that_an_estimate_times_can_run(tmp_path: Path, name: str) -> None:
    about = {"arch": "resnet10", "channels": [16] * 4, "blur_pool": False, "batch_norm_scale": True}
    settings = {**TINY.resolved(), "batch_size": 2}
    kept = {key: settings[key] for key in DETECTION_SETTINGS if key in settings}
    step = {"step": name, "model": about, "method": "detection", "settings": kept}
    with find_step(name)(step, context_of(tmp_path, "step", {}, {})) as run_step:
        run_step()
        run_step()


def test_networks_other_than_resnets_are_refused() -> None:
    with pytest.raises(UserError, match="needs a ResNet"):
        split_resnet(tiny_model("squeezenet1_1").backbone)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 224}, "resolution"),
        ({"per_class": 10}, "per_class"),
        ({"short_side": 1200}, "short_side"),
        ({"neck": "fpn", "anchors": (16.0,)}, "levels"),
        ({"grid": {"eval_crop": (0.5, 1.0)}}, "eval_crop"),
        ({"train_from": 5}, "train_from"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionSettings(method="detection", **settings)


def test_resolved_settings_can_be_read_again() -> None:
    resolved = TINY.resolved()
    assert {"neck", "short_side", "anchors", "lrs"} <= resolved.keys()
    assert not {"resolution", "order", "augment"} & resolved.keys()
    again = DetectionSettings.model_validate(resolved)
    assert again.resolved() == resolved
