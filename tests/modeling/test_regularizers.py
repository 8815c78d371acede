"""Regularizers of pretraining: their effect in training, and on the saved model."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.config import load as recipe
from harness.config.recipe import Recipe
from harness.config.train import PretrainSettings
from harness.matrix.expand import expand
from harness.modeling import classifier
from harness.modeling.regularizers import AuxiliaryHead
from harness.profiling.timer import Timer
from harness.runner.context import Stopped
from harness.runner.result import Result
from harness.stages.pretrain import run as pretrain
from harness.train.step import StepConfig, make_step
from tests.helpers.tiny_stages import pretrain_context, write_colors
from writers.errors import UserError

CHANNELS = (16, 16, 24, 32)


@pytest.fixture(scope="module")
def source(root: Path) -> Result:
    return write_colors(root / "data")


def build(seed: int = 0, **options: bool) -> classifier.Classifier:
    torch.manual_seed(seed)
    return classifier.build("resnet10", 3, channels=CHANNELS, **options)


def trained(root: Path, source: Result, name: str, **settings: object) -> classifier.Classifier:
    pretrain.run(pretrain_context(root, source, name, settings=settings))
    return classifier.load(root / name / pretrain.MODEL_FILE)[0]


def test_batch_norm_without_a_scale_keeps_weights_of_one(root: Path, source: Result):
    usual, without_scale = (
        trained(root, source, "usual"),
        trained(root, source, "no scale", batch_norm_scale=False),
    )
    norms = [module for module in without_scale.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all((norm.weight == 1).all() for norm in norms)
    assert any((norm.bias != 0).any() for norm in norms), "the layers must have been trained"
    assert any(
        (norm.weight != 1).any() for norm in usual.modules() if isinstance(norm, nn.BatchNorm2d)
    )
    assert usual.state_dict().keys() == without_scale.state_dict().keys()
    assert len(list(usual.parameters())) - len(list(without_scale.parameters())) == len(norms), (
        "a transfer must not train the scales, either"
    )


def test_a_regularizer_without_effect_is_refused():
    with pytest.raises(
        UserError, match="batch_norm_scale has no effect on timm/vit_tiny_patch16_224"
    ):
        classifier.build("timm/vit_tiny_patch16_224", 3, batch_norm_scale=False)
    with pytest.raises(UserError, match="aux_head has no effect"):
        AuxiliaryHead(classifier.build("timm/vit_tiny_patch16_224", 3).backbone, 3)


def test_dropout_applies_to_features_in_training_only():
    model, images = build(), torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    model.dropout = 0.5
    plain = model.eval()(images)
    assert torch.equal(plain, model.head(model.features(images)))
    model.train()
    torch.manual_seed(3)
    logits = model(images)
    torch.manual_seed(3)
    features = model.features(images)
    mask = torch.empty_like(features).bernoulli_(0.5) * 2
    # Equality is exact, because factors of 0 and 2 cause no rounding.
    assert torch.equal(logits, model.head(features * mask))


def test_pretraining_with_dropout_resumes_exactly_and_leaves_a_model_without_it(
    root: Path, source: Result
):
    settings = {"dropout": 0.4, "epochs": 3}
    whole = trained(root, source, "whole", **settings)
    for _ in range(20):
        calls = iter(range(10**6))
        try:
            pretrain.run(
                pretrain_context(
                    root,
                    source,
                    "parts",
                    settings=settings,
                    stop_requested=lambda calls=calls: next(calls) >= 3,
                )
            )
            break
        except Stopped:
            pass
    parts, _ = classifier.load(root / "parts" / pretrain.MODEL_FILE)
    assert all(
        torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items()
    )
    assert whole.dropout == 0.0
    plain = trained(root, source, "without", epochs=3)
    assert not torch.equal(whole.head.weight, plain.head.weight)


def test_gradients_with_an_auxiliary_head_are_those_of_the_weighted_sum_of_losses():
    """The reference is autograd on the explicit sum of both losses."""
    model = build()
    model.auxiliary = AuxiliaryHead(model.backbone, 3)
    assert model.auxiliary.linear.in_features == CHANNELS[1], (
        "the head must be half-way: after the second of four stages"
    )
    twin = build()
    second = nn.Linear(CHANNELS[1], 3)
    second.load_state_dict(model.auxiliary.linear.state_dict())
    images, labels = (
        torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8),
        torch.tensor([0, 1, 2, 0, 1, 2]),
    )

    seen: list[torch.Tensor] = []
    twin.backbone.stage2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    twin.train()
    logits = twin(images)
    loss = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    loss = loss + 0.4 * functional.cross_entropy(
        second(seen[0].mean((2, 3))), labels, label_smoothing=0.1
    )
    loss.backward()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = {name: value.clone() for name, value in model.named_parameters()}
    config = StepConfig(0.5, label_smoothing=0.1)
    step = make_step(model.train(), optimizer, config, Timer("cpu"))
    step.train_batch(images, labels)
    expected = dict(twin.named_parameters()) | {
        f"auxiliary.linear.{name}": value for name, value in second.named_parameters()
    }
    assert expected.keys() == before.keys()
    for name, value in model.named_parameters():
        # The two float32 backward passes may sum in another order.
        torch.testing.assert_close(
            before[name] - value, 0.5 * expected[name].grad, rtol=1e-4, atol=1e-6
        )
    assert step.totals()["loss"] == pytest.approx(loss.item())


def test_a_pretrained_model_has_no_auxiliary_head(root: Path, source: Result):
    pretrained = trained(root, source, "two heads", aux_head=True)
    assert pretrained.auxiliary is None
    assert pretrained.state_dict().keys() == trained(root, source, "usual").state_dict().keys()
    assert pretrained(torch.zeros(2, 3, 24, 24)).shape == (2, 3)
    again = trained(root, source, "two heads again", aux_head=True, accumulate=2, ema_decay=0.9)
    assert again.state_dict().keys() == pretrained.state_dict().keys()


def test_a_regularizer_or_order_set_to_its_default_changes_no_settings():
    def settings_of(**pretrain: object) -> dict[str, object]:
        recipe = Recipe.model_validate(
            {"name": "a", "source": {"path": "a"}, "subsets": ["all"], "pretrain": pretrain}
        )
        return next(
            stage.config["settings"] for stage in expand(recipe).stages if stage.kind == "pretrain"
        )

    off = {"batch_norm_scale": True, "dropout": 0.0, "aux_head": False, "order": "random"}
    assert settings_of(**off) == settings_of() and settings_of().items() >= off.items()
    on = {"batch_norm_scale": False, "dropout": 0.2, "aux_head": True, "order": "quasi_random"}
    assert settings_of(**on).items() >= on.items()
    assert PretrainSettings.model_validate(settings_of(**on)).model_dump(include=set(on)) == on


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "eps: [0, 1]\npretrain: {aux_head: true}",
            "tiny.yaml:5: pretrain.aux_head: needs clean training",
        ),
        (
            "eps: [0, 1]\nvariants: {plain: {}, two: {aux_head: true}}",
            "tiny.yaml:5: variants.two.aux_head: needs clean",
        ),
        (
            "pretrain: {aux_head: true, compile: auto}",
            "tiny.yaml:4: pretrain: aux_head cannot be used with compile.",
        ),
    ],
)
def test_an_impossible_auxiliary_head_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(f"name: tiny\nsource: {{path: a}}\nsubsets: [all]\n{text}\n")
    with pytest.raises(UserError) as caught:
        recipe.read("tiny.yaml")
    assert caught.value.message.startswith(expected)
    if "variants" in text:
        Path("tiny.yaml").write_text(
            Path("tiny.yaml").read_text() + "exclude: [{variant: two, eps: 1}]\n"
        )
        recipe.read("tiny.yaml")
