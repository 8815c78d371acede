"""Heads that train together in batched products, compared with single heads in plain torch."""

import pytest
import torch
from torch import nn

from harness.config.train import ScheduleSettings
from harness.train.loss import mean_loss, num_correct
from harness.train.optimizer import make_sgd, set_lr
from harness.transfer.methods import _head_stack
from harness.transfer.methods._head_stack import HeadStack

DIM, NUM_CLASSES, BATCH_SIZE, NUM_STEPS = 24, 7, 10, 6
RATES = (0.5, 0.1, 0.02, 0.003, 0.5)
DECAYS = (0.0, 1e-3, 1e-2, 0.0, 0.1)
# Largest difference after NUM_STEPS steps, relative to the largest value. Sums of float32 are taken
# in another order.
TOLERANCE = 1e-5


def make_settings(**settings) -> list[ScheduleSettings]:
    return [
        ScheduleSettings(lr=lr, weight_decay=decay, **settings)
        for lr, decay in zip(RATES, DECAYS, strict=True)
    ]


def start() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(DIM, NUM_CLASSES)


def batches(multi_label: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(NUM_STEPS):
        size = BATCH_SIZE - number % 2  # the last batch of an epoch is smaller
        features = torch.randn(size, DIM, generator=generator)
        labels = (
            torch.randint(-1, 2, (size, NUM_CLASSES), generator=generator, dtype=torch.int8)
            if multi_label
            else torch.randint(NUM_CLASSES, (size,), generator=generator)
        )
        found.append((features, labels))
    return found


def alone(settings: ScheduleSettings, multi_label: bool, smoothing: float) -> tuple:
    """Train one head by autograd and torch's SGD.

    Returns the head and, for each step, the loss and the number of correct predictions.
    """
    head = start()
    optimizer = make_sgd(head, settings, settings.lr)
    losses, right = [], []
    for number, (features, labels) in enumerate(batches(multi_label)):
        set_lr(optimizer, settings.lr / (1 + number))
        logits = head(features)
        loss = mean_loss(logits, labels, smoothing)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        right.append(int(num_correct(logits, labels)))
    return head, losses, right


def together(settings: list[ScheduleSettings], multi_label: bool, smoothing: float) -> tuple:
    stack = HeadStack(start(), settings)
    losses, right = [], []
    for number, (features, labels) in enumerate(batches(multi_label)):
        stack.set_rate(1 / (1 + number))
        loss, correct = stack.step(features, labels, smoothing)
        losses.append(loss)
        right.append(correct)
    return stack, torch.stack(losses), torch.stack(right)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max())


@pytest.mark.parametrize("heads_per_chunk", [1, 2, 100])
@pytest.mark.parametrize(
    ("multi_label", "smoothing", "settings"),
    [
        (False, 0.0, {}),
        (False, 0.1, {"nesterov": True}),
        (True, 0.1, {"decay_norm_and_bias": True}),
        (False, 0.0, {"momentum": 0.0}),
    ],
)
def test_each_head_of_a_stack_equals_the_head_that_trains_alone(
    multi_label, smoothing, settings, heads_per_chunk, monkeypatch
):
    of_head = 4 * NUM_CLASSES * (_head_stack.NUM_LOGITS * BATCH_SIZE + 2 * DIM)
    monkeypatch.setattr(_head_stack, "CHUNK_BYTES", heads_per_chunk * of_head)
    stack, losses, right = together(make_settings(**settings), multi_label, smoothing)
    for index, one in enumerate(make_settings(**settings)):
        head, own_losses, own_right = alone(one, multi_label, smoothing)
        assert close(stack.head(index).weight, head.weight), index
        assert close(stack.head(index).bias, head.bias), index
        assert close(losses[:, index], torch.tensor(own_losses)), index
        assert right[:, index].tolist() == own_right, index


def test_a_head_that_diverges_does_not_change_the_others():
    settings = make_settings()
    wild = [*settings[:2], ScheduleSettings(lr=1e30), *settings[2:]]
    stack, _, _ = together(wild, False, 0.0)
    calm, _, _ = together(settings, False, 0.0)
    assert not stack.weight[2].isfinite().all()
    rest = torch.cat([stack.weight[:2], stack.weight[3:]])
    assert close(rest, calm.weight)


def test_logits_of_only_one_chunk_of_heads_are_in_memory(monkeypatch):
    """With many heads and classes, the logits of all heads may not fit in memory."""
    largest = 0
    compute = torch.baddbmm

    def watched(*arguments: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        logits = compute(*arguments)
        largest = max(largest, logits.numel())
        return logits

    of_head = 4 * NUM_CLASSES * (_head_stack.NUM_LOGITS * BATCH_SIZE + 2 * DIM)
    monkeypatch.setattr(_head_stack, "CHUNK_BYTES", 2 * of_head)
    monkeypatch.setattr(torch, "baddbmm", watched)
    together(make_settings(), False, 0.0)
    assert largest == 2 * BATCH_SIZE * NUM_CLASSES


def test_a_stack_resumes_from_a_copy_of_its_state():
    stack, _, _ = together(make_settings(), False, 0.0)
    resumed = HeadStack(start(), make_settings())
    resumed.load_state_dict({name: value.clone() for name, value in stack.state_dict().items()})
    for one in (stack, resumed):
        one.set_rate(0.5)
        one.step(*batches()[0], 0.0)
    assert torch.equal(stack.weight, resumed.weight) and torch.equal(stack.bias, resumed.bias)
