"""The sentences that open a report: right for numbers with a known answer, and never overstated."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from harness.report.data.records import AccuracyRow, TransferRow
from harness.report.stats.effects import MASKING, effects
from harness.report.text.answer import (
    about_robustness,
    answers,
    headline,
)
from harness.report.text.caveats import caveats

SIZES = {"all": 100, "minus20": 80}


def accuracy_rows(
    unmasked: Callable[[str, int], float],
    masked: Callable[[str, int], float],
    *,
    seeds: Sequence[int],
    eps: float = 0.0,
    num_images: int = 4000,
) -> list[AccuracyRow]:
    row = AccuracyRow(
        arch="resnet18",
        subset="",
        num_classes=None,
        eps=eps,
        seed=0,
        view="",
        attack="clean",
        attack_eps=None,
        num_answers=None,
        num_images=num_images,
        top1=0,
        top5=0.99,
        mean_per_class=0,
        key="",
    )
    return [
        replace(
            row,
            subset=subset,
            num_classes=size,
            seed=seed,
            view=view,
            top1=top1(subset, seed),
            num_answers=80 if view == "common_masked" else size,
        )
        for subset, size in SIZES.items()
        for seed in seeds
        for view, top1 in (("common_unmasked", unmasked), ("common_masked", masked))
    ]


def transfer_rows(
    score: Callable[[str, float, str, int], float], *, seeds: Sequence[int]
) -> list[TransferRow]:
    return [
        TransferRow(
            arch="resnet18",
            target=target,
            method="full",
            subset=subset,
            num_classes=size,
            eps=eps,
            seed=seed,
            metric="top1",
            num_answers=10,
            num_images=1000,
            top1=score(subset, eps, target, seed),
            top5=1.0,
            mean_per_class=0.0,
            lr=0.1,
            num_configs=1,
            num_diverged=0,
            selected_on="val",
            selected_score=0.5,
            key="",
        )
        for subset, size in SIZES.items()
        for eps in (0.0, 3.0)
        for target in ("pets", "cars")
        for seed in seeds
    ]


def opening(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow] = ()) -> str:
    """Return the sentences and caveats that open the report."""
    return " ".join(
        [*answers(accuracy, transfer, effects(accuracy, transfer)), *caveats(accuracy, transfer)]
    )


def wobble(seed: int) -> float:
    """Return a deviation of the seed's accuracy; its mean over three seeds is 0."""
    return (-0.002, 0.0, 0.002)[seed % 3]


def test_a_gain_that_masking_removes_is_reported() -> None:
    gain = {"all": 0.0, "minus20": 0.03}
    text = opening(
        accuracy_rows(
            lambda subset, seed: 0.7 + gain[subset] + wobble(seed) * gain[subset] * 20,
            lambda subset, seed: 0.73 + wobble(seed) * gain[subset] * 19,
            seeds=(0, 1, 2),
        )
    )
    assert "Pretraining on minus20 (80 classes) instead of all (100 classes)" in text
    assert "on the 80 common classes by +3.0 ± 0.3 points" in text
    assert "Masked top-1 changed by 0.0 ± 0.3 points (not clear)." in text
    assert "better features are not shown" in text


def test_a_gain_that_remains_is_reported() -> None:
    gain = {"all": 0.0, "minus20": 0.03}

    def top1(subset: str, seed: int) -> float:
        return 0.7 + gain[subset] + wobble(seed) * gain[subset]

    text = opening(accuracy_rows(top1, top1, seeds=(0, 1, 2)))
    assert "The gain on common classes remains" in text
    assert "not shown" not in text
    assert "not clear" not in text


def test_wide_intervals_are_not_interpreted() -> None:
    """The gain is equal with and without masking and not clear, so the text names no cause."""
    gains = {0: 0.010, 1: 0.020, 2: 0.030}
    unmasked = accuracy_rows(
        lambda subset, seed: 0.7 + (gains[seed] + 0.02 if subset == "minus20" else 0),
        lambda subset, seed: 0.7 + (gains[seed] + 0.002 if subset == "minus20" else 0),
        seeds=(0, 1, 2),
    )
    flat = [
        replace(
            row, top1=row.top1 - 0.018 * (row.view == "common_unmasked") * (row.subset == "minus20")
        )
        for row in unmasked
    ]
    shown = {effect.measure: effect.difference for effect in effects(flat, [])}
    assert not shown["clean common_unmasked"].is_clear and not shown[MASKING].is_clear
    text = opening(flat)
    assert text.count("not clear") == 2
    assert "not shown" not in text and "gain" not in text


def test_a_gain_at_chance_is_not_interpreted() -> None:
    """The gain exceeds the sampling error, but no accuracy is clearly above chance."""
    text = opening(
        accuracy_rows(
            lambda subset, seed: 0.010 if subset == "all" else 0.0175,
            lambda subset, seed: 0.012,
            seeds=(0,),
            num_images=4000,
        )
    )
    assert "4 of 4 accuracies are not clearly above chance" in text
    assert "the gain" not in text


def test_one_seed_has_no_interval() -> None:
    text = opening(
        accuracy_rows(
            lambda subset, seed: 0.70 if subset == "all" else 0.74,
            lambda subset, seed: 0.74,
            seeds=(0,),
        )
    )
    assert "There is one seed and no interval" in text
    assert "common classes by +4.0 points. Masked top-1 changed by 0.0 points." in text
    assert "In these single runs, most of the gain on common classes disappears" in text
    # 196 * sqrt(2 * 0.7 * 0.3 / 4000) = 2.008
    assert "± 2.0 points on the 4,000 images of the common classes." in text
    assert text.count("±") == 1 and "clear" not in text


def test_the_sampling_error_of_the_smallest_target_is_stated() -> None:
    transfer = [
        replace(row, num_images={"pets": 400, "cars": 1000}[row.target])
        for row in transfer_rows(lambda *_: 0.5, seeds=(0,))
    ]
    # 196 * sqrt(2 * 0.5 * 0.5 / 400) = 6.93
    error = "two equal models differ by up to ± 6.9 points on the 400 test images of pets."
    assert error in opening([], transfer)
    accuracy = accuracy_rows(lambda *_: 0.7, lambda *_: 0.7, seeds=(0,))
    assert (
        "differ by up to ± 2.0 points on the 4,000 images of the common classes and ± 6.9 points "
        "on the 400 test images of pets."
    ) in opening(accuracy, transfer)
    own = [replace(row, view="own") for row in accuracy]
    assert error in opening(own, transfer) and "4,000 images" not in opening(own, transfer)


def test_a_gain_within_the_sampling_error_is_not_interpreted() -> None:
    text = opening(
        accuracy_rows(
            lambda subset, seed: 0.70 if subset == "all" else 0.74,
            lambda subset, seed: 0.74,
            seeds=(0,),
            num_images=200,
        )
    )
    assert "most of the gain" not in text


def test_transfer_is_averaged_over_targets_and_eps() -> None:
    def score(subset: str, eps: float, target: str, seed: int) -> float:
        return 0.5 + {"pets": 0.02, "cars": 0.04}[target] * (subset == "minus20") + 0.01 * eps

    text = opening([], transfer_rows(score, seeds=(0,)))
    assert (
        "changed transfer by +3.0 points (full). These are averages over 2 targets and eps 0, 3."
        in text
    )
    assert (
        "Robust pretraining at eps 3 instead of 0 changed transfer by +3.0 points (full)." in text
    )
    assert "Chance is 10.0 % on the targets." in text


def test_attacked_models_are_compared_only_under_the_same_attack() -> None:
    def attacked(eps: float, attack_eps: float) -> list[AccuracyRow]:
        rows = accuracy_rows(
            lambda subset, seed: 0.5 + eps / 10, lambda subset, seed: 0.5, seeds=(0,), eps=eps
        )
        return [replace(row, attack="adversarial", attack_eps=attack_eps) for row in rows]

    apart = effects([*attacked(0.5, 0.5), *attacked(3.0, 3.0)], [])
    assert not [effect for effect in apart if effect.axis == "eps"]
    together = effects([*attacked(0.5, 3.0), *attacked(3.0, 3.0)], [])
    found = {effect.measure: effect for effect in together if effect.axis == "eps"}
    assert found["adversarial common_unmasked"].difference.mean == pytest.approx(0.25)
    assert found["adversarial common_unmasked"].over["attack eps"] == ("3",)


def test_accuracies_at_chance_are_counted() -> None:
    rows = accuracy_rows(lambda subset, seed: 0.0125, lambda subset, seed: 0.5, seeds=(0,))
    assert "2 of 4 accuracies are not clearly above chance" in opening(rows)
    assert "Chance is 1.0 to 1.2 % on the common classes (1.2 % masked)." in opening(rows)


def test_each_arch_has_its_own_sentences() -> None:
    rows = accuracy_rows(
        lambda subset, seed: 0.6 + 0.1 * (subset == "minus20"), lambda subset, seed: 0.6, seeds=(0,)
    )
    other = [
        replace(row, arch="resnet50", top1=row.top1 - 0.1 * (row.subset == "minus20"))
        for row in rows
    ]
    sentences = answers([*rows, *other], [], effects([*rows, *other], []))
    assert sentences[0].startswith("resnet18: ") and "+10.0" in sentences[0]
    assert sentences[1].startswith("resnet50: ") and "+10.0" not in sentences[1]


# Subsets without the hardest classes, and their controls: classes, images, effect on transfer.
CONTROLLED = {
    "in1000": (1000, 1_200_000, 0.0),
    "in900": (900, 1_080_000, 0.02),
    "in800": (800, 950_000, 0.04),
    "in800-random": (800, 940_000, 0.01),
    "in800-easiest-removed": (800, 930_000, -0.03),
    "in900-budget": (1000, 1_080_000, -0.01),
    "in800-budget": (1000, 950_000, -0.02),
}


def controlled_rows(*, robust: Sequence[str] = ("in1000", "in900", "in800")) -> list[TransferRow]:
    row = transfer_rows(lambda *_: 0.5, seeds=(0,))[0]
    return [
        replace(
            row,
            target=target,
            method=method,
            subset=subset,
            num_classes=classes,
            num_source_images=images,
            eps=eps,
            seed=seed,
            top1=0.5 + effect * (1 + (method == "full")) + wobble(seed) * effect,
        )
        for target in ("cars", "pets")
        for method in ("fixed", "full")
        for subset, (classes, images, effect) in CONTROLLED.items()
        for eps in (0.0, 3.0)
        if not eps or subset in robust
        for seed in (0, 1, 2)
    ]


def without_widths(text: str) -> str:
    assert "± 0.0 " not in text  # widths are below 0.1 points, so they have more decimals
    return re.sub(r" ± 0\.0\d+ points", " points", text)


def test_a_control_never_replaces_the_subset_that_it_controls() -> None:
    rows = controlled_rows()
    about_size, about_which, about_eps, about_budget = map(
        without_widths, answers([], rows, effects([], rows))
    )
    assert about_size.startswith(
        "Pretraining on in800 (800 classes) instead of in1000 (1,000 classes) changed transfer by "
        "+4.0 points (fixed) and +8.0 points (full). "
        "These are averages over 2 targets and eps 0, 3."
    )
    assert about_which == (
        "With equal numbers of classes, in800 instead of in800-random changed transfer by "
        "+3.0 points (fixed) and +6.0 points (full). in800 instead of "
        "in800-easiest-removed changed it by +7.0 points (fixed) and +14.0 points "
        "(full). These are averages over 2 targets at eps 0."
    )
    assert about_eps.startswith("Robust pretraining at eps 3")
    assert about_budget.startswith(
        "With equal numbers of pretraining images (1,080,000 and 950,000), in900 instead of "
        "in900-budget changed transfer by +3.0 points (fixed) and +6.0 points (full). "
        "in800 instead of in800-budget changed it by +6.0 points"
    )
    assert "random" not in about_budget
    assert about_budget.endswith("fewer classes with more images each were the better choice.")


def test_clear_differences_of_other_subsets_are_in_the_opening() -> None:
    rows = controlled_rows()
    about_size, *_ = map(without_widths, answers([], rows, effects([], rows)))
    assert (
        "Other clear differences: in900 instead of in1000 changed transfer by +2.0 points "
        "(fixed) and +4.0 points (full)."
    ) in about_size
    assert "more subsets have clear differences, listed in the table." in about_size
    unclear = [replace(row, top1=0.5 + (row.seed - 1) * 0.1) for row in rows]
    about_size, *_ = answers([], unclear, effects([], unclear))
    assert "Other clear differences" not in about_size


def test_every_control_is_compared_at_equal_numbers_of_images() -> None:
    found = {
        (effect.setting, effect.baseline): effect.difference.mean
        for effect in effects([], controlled_rows())
        if (effect.axis, effect.measure) == ("budget", "transfer fixed")
    }
    assert found == pytest.approx(
        {
            ("in900", "in900-budget"): 0.03,
            ("in800", "in800-budget"): 0.06,
            ("in800-random", "in800-budget"): 0.03,
            ("in800-easiest-removed", "in800-budget"): -0.01,
        }
    )


def test_with_equal_numbers_of_classes_the_subset_with_the_fewest_images_is_first() -> None:
    rows = [replace(row, num_classes=1000) for row in controlled_rows()]
    about_size, *_ = answers([], rows, effects([], rows))
    assert about_size.startswith(
        "Pretraining on in800-easiest-removed (930,000 images) instead of in1000 (1,200,000 images)"
    )


def test_nothing_to_compare_gives_no_sentence() -> None:
    assert opening([]) == ""
    alone = [
        row
        for row in accuracy_rows(lambda *_: 0.5, lambda *_: 0.5, seeds=(0,))
        if row.subset == "all"
    ]
    assert answers(alone, [], effects(alone, [])) == []


def test_the_headline_gives_the_change_of_each_target() -> None:
    def score(subset: str, eps: float, target: str, seed: int) -> float:
        drop = {"pets": 0.2, "cars": 0.01}[target] if subset == "minus20" else 0.0
        return 0.7 + 0.05 * (eps > 0) + 0.001 * seed - drop

    transfer = transfer_rows(score, seeds=(0,))
    assert headline((), transfer, effects((), transfer)) == (
        "minus20 instead of all changed transfer by −20.0 points on pets and by −1.0 points on "
        "cars, with one seed."
    )


def test_the_headline_of_several_seeds_has_intervals_instead_of_their_number() -> None:
    transfer = transfer_rows(
        lambda subset, eps, target, seed: (
            0.7 + 0.01 * seed - (0.2 + 0.01 * seed) * (subset == "minus20")
        ),
        seeds=(0, 1),
    )
    text = headline((), transfer, effects((), transfer))
    assert "seed" not in text and text.count("±") == 2


def test_robustness_is_the_paragraph_about_eps() -> None:
    accuracy = accuracy_rows(lambda *_: 0.8, lambda *_: 0.8, seeds=(0,))
    transfer = transfer_rows(lambda subset, eps, *_: 0.7 - 0.1 * (eps > 0), seeds=(0,))
    found = effects(accuracy, transfer)
    text = about_robustness(accuracy, transfer, found)
    assert text.startswith("Robust pretraining at eps 3 instead of 0 changed transfer by −10.0")
    assert text in answers(accuracy, transfer, found)
    clean = [row for row in transfer if row.eps == 0]
    assert about_robustness(accuracy, clean, effects(accuracy, clean)) == ""
    other = [replace(row, arch="resnet50") for row in transfer]
    both = [*clean, *other]  # only the second architecture has two eps
    assert about_robustness((), both, effects((), both)) == f"resnet50: {text}"


def test_one_target_of_the_smallest_subset_is_named_once() -> None:
    rows = transfer_rows(
        lambda subset, eps, target, seed: 0.7 - 0.04 * (subset == "minus20"), seeds=(0,)
    )
    transfer = [row for row in rows if row.subset == "all" or row.target == "pets"]
    assert headline((), transfer, effects((), transfer)) == (
        "minus20 instead of all changed transfer by −4.0 points on pets, with one seed."
    )


def test_there_is_no_headline_by_target_without_two_targets() -> None:
    transfer = [row for row in transfer_rows(lambda *_: 0.5, seeds=(0,)) if row.target == "pets"]
    assert headline((), transfer, effects((), transfer)) == ""


def test_the_headline_marks_changes_between_accuracies_at_chance() -> None:
    def at_chance(subset: str, _eps: float, target: str, _seed: int) -> float:
        return 0.11 if target == "pets" else 0.5 - 0.1 * (subset == "minus20")

    transfer = transfer_rows(at_chance, seeds=(0,))
    text = headline((), transfer, effects((), transfer))
    assert text.endswith(
        "by −10.0 points on cars and by 0.0 points on pets (not clearly above chance), "
        "with one seed."
    )


def test_the_headline_marks_two_changes_at_chance_once() -> None:
    transfer = transfer_rows(
        lambda subset, eps, target, seed: 0.11 - 0.01 * (subset == "minus20"), seeds=(0,)
    )
    text = headline((), transfer, effects((), transfer))
    assert text.count("chance") == 1 and "cars (none clearly above chance)" in text


def test_the_headline_is_about_one_architecture() -> None:
    def losses(loss: float) -> list[TransferRow]:
        return transfer_rows(
            lambda subset, eps, target, seed: 0.7 - loss * (subset == "minus20"), seeds=(0,)
        )

    wide = [replace(row, arch="resnet50") for row in losses(0.1)]
    transfer = [*losses(0.2), *wide]
    text = headline((), transfer, effects((), transfer))
    assert text.startswith("resnet18: minus20 instead of all changed transfer by −20.0 points on")
    assert "−10.0" not in text


def test_terms_and_marks_are_explained_if_the_report_uses_them() -> None:
    transfer = transfer_rows(lambda *_: 0.5, seeds=(0, 1))
    used = opening(accuracy_rows(lambda *_: 0.5, lambda *_: 0.5, seeds=(0, 1)), transfer)
    for term in ("Common classes are", "Masked means", "eps is the radius", "bold is", "* means"):
        assert used.count(term) == 1, term
    unused = opening([], [row for row in transfer if row.eps == 0])
    assert "Masked" not in unused and "eps is" not in unused and "bold is" in unused
    assert opening([]) == ""
