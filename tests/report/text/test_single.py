"""Sentences on recipes with a single model or a single transfer."""

from dataclasses import replace

from harness.report.data.records import AccuracyRow, ScoreRow, TransferRow
from harness.report.text.single import (
    MAX_TARGETS,
    about_only_model,
    about_only_transfer,
    about_scores,
)

OWN = AccuracyRow(
    arch="resnet18",
    subset="all",
    num_classes=100,
    eps=0.0,
    seed=0,
    view="own",
    attack="clean",
    attack_eps=None,
    num_answers=100,
    num_images=4000,
    top1=0.61,
    top5=0.99,
    mean_per_class=0.6,
    key="",
)
TRANSFER = TransferRow(
    arch="",
    model="resnet50",
    target="pets",
    method="full",
    subset="",
    num_classes=None,
    eps=0.0,
    seed=0,
    metric="top1",
    num_answers=10,
    num_images=1000,
    top1=0.9,
    top5=1.0,
    mean_per_class=0.8,
    lr=0.1,
    num_configs=1,
    num_diverged=0,
    selected_on="val",
    selected_score=0.5,
    key="",
)


def test_the_accuracy_of_a_single_model_is_stated() -> None:
    assert about_only_model([OWN, replace(OWN, view="common_masked")]) == (
        "resnet18, trained on all classes, has a top-1 accuracy of 61.0 % on 4,000 validation images of "
        "its classes."
    )
    weak = replace(OWN, num_answers=3, num_images=3, top1=1 / 3)
    assert "not clearly above chance" in about_only_model([weak])
    assert about_only_model([OWN, replace(OWN, subset="minus20")]) == ""
    assert about_only_model([OWN, replace(OWN, seed=1, top1=0.51)]) == (
        "resnet18, trained on all classes, has a mean top-1 accuracy of 56.0 % over 2 seeds on 4,000 "
        "validation images of its classes."
    )
    attacked = replace(OWN, attack="adversarial", attack_eps=0.5, top1=0.2)
    assert about_only_model([attacked]) == ""
    assert about_only_model([replace(OWN, subset="minus20"), attacked]) == (
        "resnet18, trained on minus20, has a top-1 accuracy of 61.0 % on 4,000 validation images "
        "of its classes; under attack at eps 0.5 it has 20.0 %."
    )
    assert "attack" not in about_only_model([OWN, attacked, replace(attacked, attack_eps=1.0)])


def test_the_accuracy_of_a_single_transfer_is_stated() -> None:
    text = "resnet50, transferred to pets by full, has"
    assert about_only_transfer([TRANSFER]) == (
        f"{text} a top-1 accuracy of 90.0 % on 1,000 test images."
    )
    weak = replace(TRANSFER, num_answers=2, num_images=8, top1=0.75)
    assert about_only_transfer([weak]).endswith("8 test images, which is not clearly above chance.")
    again = replace(TRANSFER, seed=1, top1=0.8)
    assert about_only_transfer([TRANSFER, again]) == (
        f"{text} a mean top-1 accuracy of 85.0 % over 2 seeds on 1,000 test images."
    )
    for other in ({"method": "fixed"}, {"model": "net"}, {"per_class": 8}, {"steps": 9}):
        assert about_only_transfer([TRANSFER, replace(TRANSFER, **other)]) == ""
    assert about_only_transfer([]) == ""


def test_a_single_transfer_is_described_by_the_metric_of_its_target() -> None:
    per_class = replace(TRANSFER, metric="mean_per_class")
    assert "has a mean accuracy per class of 80.0 % on 1,000" in about_only_transfer([per_class])
    several = replace(TRANSFER, metric="map11", map11=0.7, num_answers=None, mean_per_class=None)
    assert "has an 11-point mAP of 70.0 % on" in about_only_transfer([several])
    boxes = replace(several, metric="map50_11", map11=None, map50_11=0.4, top1=None, top5=None)
    assert "has an 11-point mAP of boxes of 40.0 % on" in about_only_transfer([boxes])


def test_one_model_on_several_targets_is_described_on_each() -> None:
    cars = replace(TRANSFER, target="cars", metric="mean_per_class", num_images=20)
    assert about_only_transfer([TRANSFER, cars]) == (
        "resnet50, transferred by full, has a top-1 accuracy of 90.0 % on 1,000 test images of "
        "pets and a mean accuracy per class of 80.0 % on 20 test images of cars."
    )
    rows = [replace(TRANSFER, target=f"t{index}") for index in range(MAX_TARGETS + 2)]
    text = about_only_transfer(rows)
    assert "t3" in text and "t4" not in text and text.endswith("and results on 2 more targets.")


def test_a_network_from_random_weights_is_not_called_transferred() -> None:
    row = replace(TRANSFER, kind="scratch", method="scratch", model="", arch="resnet10")
    assert about_only_transfer([row]).startswith("resnet10, trained on pets by scratch, has")


def score(name: str, value: float, *, model: str = "net", target: str = "pets", seed: int = 0):
    return ScoreRow("", target, name, value, "", 0.0, seed, 100, None, "", model=model)


def test_the_scores_of_a_single_model_are_stated() -> None:
    rows = [score("knn", 0.7), score("knn", 0.8, seed=1), score("knn_k5", 0.1)]
    rows += [score("logme", -0.125), score("nce", float("nan"))]
    text = "net has these scores: knn 75.0 % and logme −0.125 on pets"
    assert about_scores(rows) == f"{text}."
    assert about_scores([*rows, score("knn", 0.5, target="cars")]) == f"{text}; knn 50.0 % on cars."
    assert about_scores([]) == "" and about_scores([score("knn", float("nan"))]) == ""


def test_the_best_of_several_models_is_named_by_the_first_score() -> None:
    rows = [score("leep", -1.0), score("leep", -0.5, model="other"), score("knn", 0.9)]
    assert about_scores(rows) == "By leep, other is the best of 2 models on pets: −0.500."
    rows += [score("leep", 1.0, target=target) for target in ("cars", "dtd")]
    assert about_scores(rows) == "By leep, net is the best of 2 models on 2 of 3 targets."
