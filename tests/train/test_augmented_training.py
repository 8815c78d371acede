"""Training on augmented batches: soft labels, attacks, resume, times, and resolved settings."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.config.attack import AttackSettings
from harness.config.methods import settings_model
from harness.config.train import PretrainSettings, ScheduleSettings
from harness.modeling import classifier
from harness.profiling.timer import Timer
from harness.runner.context import Stopped
from harness.train.attack import pgd
from harness.train.checkpoint import Checkpoints
from harness.train.fit import Clock, Hooks, TrainingPlan, fit
from harness.train.loss import image_losses, mean_loss, num_correct
from harness.train.optimizer import make_sgd
from harness.train.step import StepConfig, TrainStep, make_step
from harness.transfer.methods._head_stack import HeadStack
from loaders import LoaderPlan, open_loader
from loaders.augmentations import Augmentations
from tests.helpers.tiny_betons import photo, write_beton

K = 4
SCHEDULE = ScheduleSettings(lr=0.05, weight_decay=1e-3, schedule="constant")
ALL = Augmentations.model_validate(
    {
        "randaugment": {},
        "color_jitter": {"brightness": 0.2},
        "lighting": 0.1,
        "erasing": {"fill": "noise"},
        "mixup": 0.4,
        "cutmix": 1.0,
    }
)


def soft_labels(count: int = 6) -> torch.Tensor:
    return torch.rand((count, K), generator=torch.Generator().manual_seed(3)).softmax(1)


def logits(count: int = 6) -> torch.Tensor:
    return torch.randn((count, K), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_probabilities_is_their_cross_entropy(smoothing):
    targets = (1 - smoothing) * soft_labels().double() + smoothing / K
    expected = -(targets * logits().double().log_softmax(1)).sum(1)
    found = image_losses(logits(), soft_labels(), smoothing)
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert mean_loss(logits(), soft_labels(), smoothing).item() == pytest.approx(
        expected.mean().item()
    )
    assert (
        num_correct(logits(), soft_labels())
        == (logits().argmax(1) == soft_labels().argmax(1)).sum()
    )


def make_learner(attack: AttackSettings | None = None, eps: float = 0.0) -> TrainStep:
    torch.manual_seed(0)
    model = classifier.build("resnet10", K, channels=(16, 16, 16, 16)).train()
    config = StepConfig(0.05, attack=attack, eps=eps, seed=1)
    return make_step(model, make_sgd(model, SCHEDULE, 0.05), config, Timer("cpu"))


@pytest.mark.parametrize("method", ["none", "pgd", "free"])
def test_one_hot_labels_train_as_class_numbers_do(method):
    """Losses and weights agree without an attack and with one, which also uses the labels."""
    attack = {
        "none": None,
        "pgd": AttackSettings(steps=2),
        "free": AttackSettings(method="free", replays=2),
    }[method]
    images = torch.randint(
        256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5)
    )
    numbers = torch.arange(8) % K
    learners = [make_learner(attack, 0.5 if attack else 0.0) for _ in range(2)]
    for learner, labels in zip(
        learners, (numbers, nn.functional.one_hot(numbers, K).float()), strict=True
    ):
        for _ in range(2):
            learner.train_batch(images.contiguous(memory_format=torch.channels_last), labels)
    hard, soft = (learner.totals() for learner in learners)
    assert hard["loss"] == pytest.approx(soft["loss"], rel=1e-4)
    assert hard["top1"] == soft["top1"]
    for one, other in zip(
        learners[0].model.parameters(), learners[1].model.parameters(), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-3)


def test_an_attack_raises_the_loss_of_mixed_labels():
    learner = make_learner()
    images = torch.rand((6, 3, 32, 32), generator=torch.Generator().manual_seed(6))
    attacked = pgd(learner.model, images, soft_labels(), norm="l2", eps=1.0, steps=3, step_size=0.5)
    with torch.no_grad():
        learner.model.eval()
        before, after = (image_losses(learner.model(x), soft_labels()) for x in (images, attacked))
    assert (after > before).all()


def test_a_stack_of_heads_trains_on_probabilities():
    start = nn.Linear(5, K)
    features = torch.randn((6, 5), generator=torch.Generator().manual_seed(7))
    heads = HeadStack(start, [SCHEDULE])
    losses, right = heads.step(features, soft_labels(), 0.1)
    expected = mean_loss(start(features), soft_labels(), 0.1)
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert right[0] == num_correct(start(features), soft_labels())
    (gradient,) = torch.autograd.grad(expected, start.weight)
    updated = start.weight - 0.05 * (gradient + 1e-3 * start.weight)
    assert torch.allclose(heads.head(0).weight, updated, atol=1e-6)


@pytest.fixture(scope="module")
def beton(tmp_path_factory) -> Path:
    images = [photo(40, 36, seed=number) for number in range(20)]
    path = tmp_path_factory.mktemp("augmented") / "train.beton"
    return write_beton(path, images, [number % K for number in range(20)], raw=[True] * 20)


def plan_of(beton: Path) -> LoaderPlan:
    return LoaderPlan(
        beton,
        8,
        32,
        augment="random_resized_crop",
        horizontal_flip=True,
        order="random",
        augmentations=ALL,
    )


def train(
    beton: Path, learner: TrainStep, timer: Timer | None = None, **more: object
) -> list[dict]:
    with open_loader(plan_of(beton)) as loader:
        return list(
            fit(
                learner,
                loader,
                TrainingPlan(SCHEDULE, 2, resolution_at=lambda epoch: (24, 32)[epoch]),
                timer=timer or Timer("cpu"),
                clock=Clock(),
                **more,
            )
        )


@pytest.mark.parametrize("steps_before", [1, 3, 4])
def test_training_resumes_within_and_between_epochs(beton, tmp_path, steps_before):
    """With an attack and progressive resizing, the weights equal those of a run without a stop."""
    attack = AttackSettings(steps=1)
    whole = make_learner(attack, 0.5)
    train(beton, whole)
    first, num_steps = make_learner(attack, 0.5), 0

    def count() -> None:
        nonlocal num_steps
        num_steps += 1

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Stopped):
        train(
            beton,
            first,
            checkpoints=checkpoints,
            hooks=Hooks(lambda: num_steps >= steps_before, after_step=count),
        )
    second = make_learner(attack, 0.5)
    train(beton, second, checkpoints=checkpoints)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name


def test_augmentation_is_timed_separately(beton):
    timer = Timer("cpu")
    records = train(beton, make_learner(), timer)
    assert len(records) == 2
    assert timer.seconds["augment"] > 0
    assert all(record["timing"]["percentiles_ms"]["augment"]["p50"] > 0 for record in records)


@pytest.mark.parametrize(
    "model", [PretrainSettings, settings_model("full"), settings_model("fixed")]
)
def test_settings_change_only_if_something_is_augmented(model):
    plain = model().resolved()
    assert "augment" not in plain
    assert model.model_validate({"augment": None}).resolved() == plain
    found = {
        json.dumps(model.model_validate({"augment": augment}).resolved(), sort_keys=True)
        for augment in ("salman", "non_binary", {"mixup": 0.2}, {"mixup": 0.3}, {"cutmix": 0.2})
    }
    assert len(found) == 5
    settings = model.model_validate({"augment": "salman"})
    assert settings.resolved()["augment"] == {
        "color_jitter": {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.0},
        "lighting": 0.05,
    }
    text = json.dumps(settings.resolved())
    assert model.model_validate_json(text, strict=True).resolved() == settings.resolved()


@pytest.mark.parametrize(
    "model", [PretrainSettings, settings_model("full"), settings_model("fixed")]
)
def test_a_balanced_order_changes_the_settings(model):
    plain, balanced = model(), model.model_validate({"order": "balanced"})
    assert balanced.resolved() == {**plain.resolved(), "order": "balanced"}
    assert (
        model.model_validate_json(json.dumps(balanced.resolved()), strict=True).order == "balanced"
    )
