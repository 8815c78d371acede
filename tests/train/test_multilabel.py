"""Several labels per image: loss and average precision against references, and transfer."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch.nn import functional

from harness.stages.pretrain import run as pretrain
from harness.stages.transfer import run as transfer
from harness.train.attack import pgd
from harness.train.average_precision import MultiLabelCounts, average_precision, eleven_point_ap
from harness.train.evaluate import EvaluationPlan, View, evaluate
from harness.train.loss import image_losses, mean_loss, num_correct
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_stages import (
    PRETRAIN,
    TRANSFER,
    as_result,
    context_of,
    pretrain_context,
    write_colors,
)
from writers.beton.concat import concat_splits
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.errors import UserError
from writers.formats.files import open_files
from writers.source import Example, Source
from writers.subset.spec import Subset, everything


def slow_eleven_point(scores: list[float], labels: list[int]) -> Fraction:
    """Compute 11-point AP as VOCevalcls.m of the VOC devkit does, in exact fractions.

    The scores must differ.
    """
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    num_positive = sum(label > 0 for label in labels)
    true = false = 0
    recalls, precisions = [], []
    for index in order:
        true, false = true + (labels[index] > 0), false + (labels[index] < 0)
        recalls.append(Fraction(true, num_positive))
        precisions.append(Fraction(true, true + false) if true + false else Fraction(0))
    total = Fraction(0)
    for tenth in range(11):
        reached = [
            precision
            for recall, precision in zip(recalls, precisions, strict=True)
            if recall >= Fraction(tenth, 10)
        ]
        total += max(reached, default=Fraction(0)) / 11
    return total


def test_eleven_point_ap_equals_a_hand_calculation():
    # Sorted by score: present, absent, present, absent. Precision is 1 up to a recall of 1/2
    # (6 of the 11 points), and 2/3 above it (5 points).
    assert eleven_point_ap(np.array([4.0, 3, 2, 1]), np.array([1, -1, 1, -1])) == pytest.approx(
        (6 + 5 * 2 / 3) / 11
    )
    assert eleven_point_ap(np.array([4.0, 3, 2]), np.array([-1, -1, 1])) == pytest.approx(1 / 3)
    difficult = eleven_point_ap(np.array([5.0, 4, 3, 2.5, 2, 1]), np.array([0, 1, -1, 0, 1, -1]))
    assert difficult == pytest.approx((6 + 5 * 2 / 3) / 11)  # label 0 is difficult and is ignored


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_equals_the_devkit_and_scikit_learn(seed: int):
    random = np.random.default_rng(seed)
    labels = random.choice([-1, -1, -1, 0, 1], 10 + 30 * seed)
    labels[0] = 1
    scores = random.normal(size=len(labels)) + labels
    slow = float(slow_eleven_point(scores.tolist(), labels.tolist()))
    assert eleven_point_ap(scores, labels) == pytest.approx(slow, abs=1e-12)
    sure = labels != 0
    tied = np.round(scores)
    for outputs in (scores, tied):
        assert average_precision(outputs, labels) == pytest.approx(
            average_precision_score(labels[sure] == 1, outputs[sure])
        )
    again = random.permutation(len(labels))
    assert eleven_point_ap(tied[again], labels[again]) == pytest.approx(
        eleven_point_ap(tied, labels), abs=1e-12
    )


def test_a_recall_of_exactly_a_tenth_reaches_its_point():
    """In floating point 3/10 is below 3 * 0.1, so the point at 0.3 would use a later image."""
    labels = np.array([1] * 3 + [-1] * 90 + [1] * 7)
    scores = -np.arange(100.0)
    assert eleven_point_ap(scores, labels) == pytest.approx((4 * 1 + 7 * 10 / 100) / 11)


def test_multilabel_scores_equal_their_definitions():
    logits = torch.tensor([[3.0, 1, 0], [0, 2, 1], [1, 3, 2], [2, 1, 0]])
    labels = torch.tensor([[1, -1, -1], [-1, -1, 1], [0, 1, -1], [-1, 1, -1]], dtype=torch.int8)
    counts = MultiLabelCounts()
    buffer = torch.empty(2, 3, dtype=torch.int8)
    for part in (0, 2):
        counts.add(logits[part : part + 2], buffer.copy_(labels[part : part + 2]))
    buffer.zero_()  # as loaders do, which reuse their memory
    scores = counts.scores()
    by_class = [eleven_point_ap(logits[:, k].numpy(), labels[:, k].numpy()) for k in range(3)]
    assert scores["map11"] == pytest.approx(np.mean(by_class))
    assert (scores["num_images"], scores["num_correct"], scores["top1"], scores["top5"]) == (
        4,
        2,
        0.5,
        1.0,
    )
    assert scores["loss"] == pytest.approx(float(image_losses(logits, labels).mean()))
    counts = MultiLabelCounts()
    counts.add(
        torch.full((2, 3), float("nan")), torch.tensor([[1, -1, -1], [-1, 1, -1]], dtype=torch.int8)
    )
    with pytest.raises(UserError, match="loss over 2 images is nan"):
        counts.scores()
    nothing, truth = np.full(2, np.nan), np.array([1, -1])
    # NaN scores rank the present image last, so precision is 1/2 at every recall.
    assert eleven_point_ap(nothing, truth) == 0.5
    with pytest.raises(UserError, match="no image"):
        MultiLabelCounts().scores()


def test_the_loss_ignores_difficult_classes():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[1, 0, -1, -1, 1]] * 3 + [[0, 0, -1, 1, -1]] * 3, dtype=torch.int8)
    slow = []
    for row, truth in zip(logits.detach().double(), labels.tolist(), strict=True):
        probabilities = [float(1 / (1 + np.exp(-float(logit)))) for logit in row]
        slow.append(
            -sum(
                np.log(p if label == 1 else 1 - p)
                for p, label in zip(probabilities, truth, strict=True)
                if label != 0
            )
        )
    assert image_losses(logits, labels).tolist() == pytest.approx(slow, rel=1e-5)
    mean_loss(logits, labels).backward()
    assert logits.grad is not None
    assert (logits.grad[labels == 0] == 0).all() and (logits.grad[labels != 0] != 0).all()
    expected = (torch.sigmoid(logits.detach()) - (labels == 1).float()) / 6
    assert torch.allclose(logits.grad[labels != 0], expected[labels != 0])
    smooth = mean_loss(logits, labels, 0.2)
    by_hand = functional.binary_cross_entropy_with_logits(
        logits, (labels == 1) * 0.8 + 0.1, reduction="none"
    )
    assert torch.allclose(smooth, by_hand[labels != 0].sum() / 6)
    assert int(num_correct(torch.eye(5)[[0, 1, 2]], labels[:3])) == 1


def test_the_loss_with_one_label_is_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(9, 4, generator=generator),
        torch.randint(0, 4, (9,), generator=generator),
    )
    assert torch.equal(
        mean_loss(logits, labels, 0.1),
        functional.cross_entropy(logits, labels, label_smoothing=0.1),
    )
    assert torch.equal(
        image_losses(logits, labels), functional.cross_entropy(logits, labels, reduction="none")
    )
    assert int(num_correct(logits, labels)) == int((logits.argmax(1) == labels).sum())


def test_an_attack_raises_the_multilabel_loss():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    images, labels = torch.rand(4, 3, 4, 4), torch.tensor([[1, 0, -1]] * 4, dtype=torch.int8)
    moved = pgd(model, images, labels, norm="l2", eps=0.5, steps=5, step_size=0.2)
    assert (image_losses(model(moved), labels) > image_losses(model(images), labels)).all()


def write_stripes(data: Path, num_images: dict[str, int]) -> Any:
    """Write images in which each of four colors is present, absent or marked as difficult."""
    random = np.random.default_rng(0)
    colors = np.array([[230, 30, 30], [30, 200, 30], [40, 60, 230], [230, 210, 40]])
    (data / "stripes-images").mkdir(parents=True)
    splits: dict[str, list[Example]] = {}
    for split, number in num_images.items():
        splits[split] = []
        for index in range(number):
            labels = random.choice([-1, 1], 4)
            labels[random.integers(4)] = 1
            pixels = random.integers(90, 150, (32, 32, 3))
            for place, label in enumerate(labels):
                if label == 1:
                    pixels[8 * place : 8 * place + 8] = colors[place] + random.integers(
                        -25, 26, (8, 32, 3)
                    )
            if index % 5 == 0:
                labels[random.integers(4)] = 0
            key = f"{split}{index}.png"
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
                data / "stripes-images" / key
            )
            splits[split].append(
                Example(key, int(labels.argmax()), f"{split}{index}", tuple(labels.tolist()))
            )
    source = Source(
        "stripes",
        "stripes-images",
        ["red", "green", "blue", "yellow"],
        splits,
        open_files(data / "stripes-images"),
        multi_label=True,
    )
    written = {}
    for split in num_images:
        file = data / "stripes" / f"{split}.beton"
        manifest = write_split(
            source, split, everything(source.classes), Encoding(format="raw"), file
        )
        assert manifest.multi_label
        assert manifest.class_counts == [
            sum(example.labels[k] == 1 for example in splits[split] if example.labels)
            for k in range(4)
        ]
        written[split] = {"path": f"stripes/{split}.beton", "num_samples": manifest.num_samples}
    with pytest.raises(UserError, match=r"(many|several) labels"):
        write_split(
            source, "train", Subset("two", ("red", "blue")), Encoding(), data / "none.beton"
        )
    return as_result("write", {"splits": written, "classes": source.classes})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("multilabel")


@pytest.fixture(scope="module")
def target(root: Path) -> Any:
    return write_stripes(root / "data", {"train": 160, "val": 60, "test": 60})


@pytest.fixture(scope="module")
def model(root: Path) -> Any:
    context = pretrain_context(
        root, write_colors(root / "data"), settings={**PRETRAIN, "epochs": 3}
    )
    return as_result("pretrain", pretrain.run(context).metrics)


@pytest.mark.parametrize("backend", ["ffcv", "reference"])
def test_the_loader_yields_a_row_of_labels_per_image(root: Path, target: Any, backend: str):
    plan = LoaderPlan(
        root / "data" / "stripes" / "train.beton",
        50,
        24,
        order="random",
        backend=backend,
        indices=tuple(range(130)),
    )
    with open_loader(plan) as loader:
        assert loader.multi_label
        label_batches = [labels.clone() for _, labels in loader.epoch(1)]
        assert [tuple(labels.shape) for labels in label_batches] == [(50, 4), (50, 4), (30, 4)]
        assert {labels.dtype for labels in label_batches} == {torch.int8}
        assert torch.equal(
            torch.cat(label_batches),
            torch.from_numpy(loader.samples.labels[loader.samples.order(plan, 1)]),
        )
    with pytest.raises(UserError, match=r"(many|several) labels"):
        open_loader(LoaderPlan(plan.beton, 4, 24, labels=(0, 0, 1, 1)))


@pytest.mark.parametrize("method", ["fixed", "full"])
def test_multilabel_transfer_learns_and_selects_by_map11_on_val(
    root: Path, model: Any, target: Any, method: str
):
    settings = {
        **TRANSFER,
        "epochs": 6,
        "lrs": [0.05, 0.0001],
        "crop_scale": [0.9, 1.0],
        "horizontal_flip": False,
    }
    config = {"method": method, "seed": 0, "metric": "map11", "settings": settings}
    metrics = transfer.run(
        context_of(root, f"transfer-{method}", config, {"model": model, "data": target})
    ).metrics
    chance = np.mean([np.mean(open_labels(root)[:, k] == 1) for k in range(4)])
    assert metrics["test"]["map11"] > chance + (0.15 if method == "full" else 0.05)
    assert metrics["val"]["map11"] == max(entry["val"]["map11"] for entry in metrics["grid"])
    assert "mean_per_class" not in metrics["test"] and metrics["test"]["num_images"] == 60


def test_joined_splits_keep_rows_of_labels(root: Path, target: Any):
    train, val = (root / "data" / "stripes" / f"{split}.beton" for split in ("train", "val"))
    joined = root / "data" / "joined.beton"
    manifest = concat_splits([train, val], joined, split="trainval")
    assert verify(joined) == []
    assert manifest.num_samples == sum(
        open_beton(file).manifest.num_samples for file in (train, val)
    )
    assert np.array_equal(
        open_beton(joined).labels,
        np.concatenate([open_beton(file).labels for file in (train, val)]),
    )
    with (
        open_loader(LoaderPlan(joined, 16, 24)) as both,
        open_loader(LoaderPlan(val, 16, 24)) as alone,
    ):
        images = torch.cat([images.clone() for images, _ in both.epoch(0)])
        assert torch.equal(
            images[-alone.num_samples :],
            torch.cat([images.clone() for images, _ in alone.epoch(0)]),
        )
    with pytest.raises(UserError, match="other classes"):
        colors = write_colors(root / "data", "others", splits={"train": 2})
        concat_splits(
            [train, root / "data" / colors.metrics["splits"]["train"]["path"]],
            joined,
            split="trainval",
        )


def open_labels(root: Path) -> np.ndarray:
    with open_loader(LoaderPlan(root / "data" / "stripes" / "test.beton", 8, 24)) as loader:
        return loader.samples.labels


def test_unsuitable_metrics_and_views_of_several_labels_are_refused(
    root: Path, model: Any, target: Any
):
    config = {"method": "fixed", "seed": 0, "metric": "top1", "settings": TRANSFER}
    with pytest.raises(UserError, match=r"(many|several) labels"):
        transfer.run(context_of(root, "wrong-metric", config, {"model": model, "data": target}))
    with (
        open_loader(LoaderPlan(root / "data" / "stripes" / "test.beton", 8, 24)) as loader,
        pytest.raises(UserError, match=r"(many|several) labels"),
    ):
        evaluate(
            torch.nn.Identity(),
            loader,
            EvaluationPlan(device="cpu", precision="float32", num_classes=4, views={"own": View()}),
        )
