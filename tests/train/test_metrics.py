"""Classification scores, compared with scikit-learn, in edge cases and with NaN."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score

from harness.train.divergence import DivergedError
from harness.train.metrics import Counts
from writers.errors import UserError


def counted(
    outputs: torch.Tensor, truth: torch.Tensor, num_batches: int = 3, **view: object
) -> Counts:
    counts = Counts(outputs.shape[1], "cpu", **view)
    for part, part_labels in zip(outputs.chunk(num_batches), truth.chunk(num_batches), strict=True):
        counts.add(part, part_labels)
    return counts


@pytest.fixture
def outputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [500, 12] that are better than chance, and labels [500] of unbalanced classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 12, (500,), generator=generator) * torch.randint(
        0, 2, (500,), generator=generator
    )
    logits = torch.randn(500, 12, generator=generator)
    logits[torch.arange(500), labels] += 1
    return logits, labels


def test_scores_equal_those_of_scikit_learn(outputs):
    logits, labels = outputs
    scores = counted(logits, labels).scores()
    probs = torch.softmax(logits.double(), 1).numpy()
    numbers = np.arange(12)
    assert scores["top1"] == pytest.approx(
        top_k_accuracy_score(labels, probs, k=1, labels=numbers), abs=1e-12
    )
    assert scores["top5"] == pytest.approx(
        top_k_accuracy_score(labels, probs, k=5, labels=numbers), abs=1e-12
    )
    assert scores["mean_per_class"] == pytest.approx(
        balanced_accuracy_score(labels, logits.argmax(1)), abs=1e-12
    )
    assert scores["loss"] == pytest.approx(log_loss(labels, probs, labels=numbers), rel=1e-6)
    assert (scores["num_images"], scores["num_correct"]) == (
        500,
        int((logits.argmax(1) == labels).sum()),
    )


def test_mean_per_class_ignores_absent_classes():
    logits, labels = torch.eye(4)[[0, 0, 1, 1]], torch.tensor([0, 0, 0, 1])
    counts = counted(logits, labels, 1)
    assert counts.scores()["mean_per_class"] == (2 / 3 + 1) / 2
    correct, total = counts.per_class()
    assert correct.tolist() == [2, 1, 0, 0]
    assert total.tolist() == [3, 1, 0, 0]
    assert total.dtype == torch.int64


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_top5_is_1_with_fewer_than_six_classes(num_classes):
    scores = counted(torch.randn(20, num_classes), torch.arange(20) % num_classes).scores()
    assert scores["top5"] == 1.0


def test_views_equal_scores_of_selected_images_and_logits(outputs):
    logits, labels = outputs
    chosen = [1, 4, 5, 7, 8, 9, 11]
    inside = torch.isin(labels, torch.tensor(chosen))
    seen = counted(logits, labels, labels=chosen).scores()
    assert seen["num_images"] == inside.sum()
    assert seen["num_correct"] == (logits.argmax(1) == labels)[inside].sum()
    assert seen["top5"] == top_k_accuracy_score(
        labels[inside], logits[inside], k=5, labels=np.arange(12)
    )
    masked = counted(logits, labels, labels=chosen, logits=chosen)
    new_labels = torch.tensor([chosen.index(int(label)) for label in labels[inside]])
    alone = counted(logits[inside][:, chosen], new_labels)
    assert masked.scores() == pytest.approx(alone.scores(), rel=1e-6)
    assert torch.allclose(masked.mean_probability()[chosen], alone.mean_probability(), atol=1e-6)


def test_predictions_are_argmax_within_the_view_and_agree_with_the_counts(outputs):
    logits, labels = outputs
    logits = logits.round()  # many ties
    chosen = [1, 4, 5, 7, 8, 9, 11]
    predicted, right = counted(logits, labels, keep_predictions=True).predictions()
    assert predicted.tolist() == logits.numpy().argmax(1).tolist() and predicted.dtype == np.int32
    assert right.tolist() == (predicted == labels.numpy()).tolist()
    counts = counted(logits, labels, labels=chosen, logits=chosen, keep_predictions=True)
    predicted, right = counts.predictions()
    inside = np.isin(labels, chosen)
    assert set(predicted[~inside]) == {-1} and not right[~inside].any()
    assert (
        predicted[inside].tolist()
        == np.array(chosen)[logits[inside][:, chosen].numpy().argmax(1)].tolist()
    )
    assert right.sum() == counts.scores()["num_correct"]


def test_mean_probability_equals_a_hand_calculation():
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    mean_probability = counted(logits, torch.tensor([0, 0, 0]), 1).mean_probability()
    probs = torch.softmax(logits.double(), 1)[:, 0]
    # The probabilities are summed in float32.
    assert torch.allclose(
        mean_probability,
        torch.stack([probs.mean(), torch.tensor(0.0, dtype=torch.float64)]),
        atol=1e-6,
    )


def test_equal_logits_are_ranked_by_class_number():
    logits = torch.randn(300, 12).round().to(torch.bfloat16)  # many ties
    labels = torch.arange(300) % 12
    scores = counted(logits, labels).scores()
    assert scores["num_correct"] == (logits.float().numpy().argmax(1) == labels.numpy()).sum()
    first5 = np.argsort(-logits.float().numpy(), axis=1, kind="stable")[:, :5]
    assert scores["top5"] == np.mean(
        [label in five for label, five in zip(labels.tolist(), first5, strict=True)]
    )


def test_a_nan_logit_is_never_correct_and_is_reported():
    logits = torch.full((3, 6), float("nan"))
    # Class 0 has the highest finite logit.
    logits[2] = torch.tensor([9.0, 0, 0, 0, 0, float("nan")])
    counts = counted(logits, torch.tensor([0, 5, 0]), 1)
    assert counts.per_class()[0].sum() == 0
    with pytest.raises(DivergedError, match="loss over 3 images is nan"):
        counts.scores()


def test_counts_are_exact_beyond_float_precision():
    """In half precision, as in the code of Jain et al. (2023), this accuracy would round to 1."""
    counts = Counts(2, "cpu")
    right = torch.tensor([[1.0, 0.0]]).expand(4099, 2)
    counts.add(right, torch.zeros(4099, dtype=torch.int64))
    counts.add(right[:1], torch.ones(1, dtype=torch.int64))
    assert counts.scores()["num_correct"] == 4099 and counts.scores()["top1"] == 4099 / 4100


def test_scores_without_images_are_refused():
    with pytest.raises(UserError, match="no image"):
        Counts(3, "cpu").scores()
    with pytest.raises(UserError, match="no image"):
        counted(torch.randn(6, 3), torch.zeros(6, dtype=torch.int64), labels=[1]).scores()
