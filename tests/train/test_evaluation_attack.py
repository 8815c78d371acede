"""The attack of an evaluation: memory layout, precision, compiled modes and restarts."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.config.attack import AttackSettings, EvaluationAttack
from harness.modeling import classifier
from harness.modeling.classifier import Classifier
from harness.train import autotune, evaluation_attack
from harness.train.evaluation_attack import AttackPlan, attack_modes, choose_attack_mode
from harness.train.flip_tta import FlipAverage
from writers.errors import UserError

K, SIDE, SIZE = 3, 24, 4
ATTACK = EvaluationAttack(steps=3, random_start="ball", best_iterate=True)
CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return classifier.build("resnet10", K, channels=(16, 16, 16, 16)).eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return autotune.noise_batch(SIZE, SIDE, K, "cpu")


def plan(mode: str = "eager", attack: AttackSettings = ATTACK, **settings) -> AttackPlan:
    return AttackPlan(
        attack,
        0.3,
        settings.get("precision", "float32"),
        "cpu",
        mode,
        settings.get("batch_size", SIZE),
    )


class Operands(TorchDispatchMode):
    """Records the inputs of convolutions and, in the backward pass, their output gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in CONVOLUTIONS:
            backward = func.overloadpacket is torch.ops.aten.convolution_backward
            self.seen += [(func.overloadpacket.__name__, image) for image in args[: 1 + backward]]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("flips", [False, True])
def test_all_passes_of_an_attack_are_bf16_in_channels_last(model, batch, norm, flips):
    attack = EvaluationAttack(steps=2, norm=norm, random_start="sphere")
    target = FlipAverage(model).eval() if flips else model
    with Operands() as operands:
        attacked = plan(attack=attack, precision="bf16").attack_on(target)(*batch)
    assert attacked.is_contiguous(memory_format=torch.channels_last)
    assert {name for name, _ in operands.seen} == {"convolution", "convolution_backward"}
    for name, image in operands.seen:
        assert image.dtype == torch.bfloat16, name
        assert image.is_contiguous(memory_format=torch.channels_last), name


def test_a_compiled_attack_equals_the_eager_one(model, batch, graphs):
    """With restarts, and also for a last batch, which is smaller and not compiled."""
    attack = ATTACK.model_copy(update={"restarts": 2})
    eager, compiled = (plan(mode, attack).attack_on(model) for mode in ("eager", "compiled"))
    images, labels = batch
    for size in (SIZE, SIZE, SIZE - 1):
        found = compiled(images[:size], labels[:size])
        assert torch.equal(found, eager(images[:size], labels[:size]))
        assert not torch.equal(found, images[:size].float() / 255)
    assert len(graphs) == 3, "the model with gradients, the model without, and the PGD update"


def choose(model, batch, folder, setting):
    images, labels = batch
    return choose_attack_mode([model], (images, [labels]), plan(), setting, folder)


def test_each_mode_is_tried_with_a_few_steps_without_restarts(
    model, batch, graphs, tmp_path, monkeypatch
):
    tried = []
    pgd = evaluation_attack.PgdAttack

    def note(network, settings, *args, **options):
        tried.append((options["logits_of"] is model, settings.steps, settings.restarts))
        return pgd(network, settings, *args, **options)

    monkeypatch.setattr(evaluation_attack, "PgdAttack", note)
    model.train()
    images, labels = batch
    settings = ATTACK.model_copy(update={"steps": 20, "restarts": 5})
    measured = choose_attack_mode(
        [model], (images, [labels]), plan(attack=settings), "auto", tmp_path
    )
    assert tried == [(True, 3, 1), (False, 3, 1)] and model.training
    assert set(measured) == {"chosen", "eager", "compiled"} == {"chosen", *attack_modes(False)}
    assert measured["compiled"]["deviation"] == 0


def test_off_tries_nothing_and_on_reports_a_compiler_that_fails(
    model, batch, tmp_path, monkeypatch
):
    def fail(*_: object, **options: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda model, **options: fail)
    assert choose(model, batch, tmp_path, "off") == {"chosen": "eager"}
    assert choose(model, batch, tmp_path, "auto")["chosen"] == "eager"
    with pytest.raises(UserError, match=r"torch.compile failed: no C\+\+ compiler"):
        choose(model, batch, tmp_path, "on")
