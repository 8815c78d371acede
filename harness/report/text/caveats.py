"""Write the caveats after the opening: terms, chance, uncertainty, and the marks in the tables."""

from collections.abc import Sequence

from harness.config.recipe import Recipe
from harness.report.data.records import AccuracyRow, TransferRow
from harness.report.data.rows import COMMON_VIEWS, views_are_equal
from harness.report.data.run_rows import BetonRow
from harness.report.stats.intervals import is_near_chance, sampling_error, wilson_interval
from harness.report.text.phrases import half_width, join_words
from writers.text_names import counted, percent, preview

MAX_LISTED = 12  # largest number of pairs in a sentence
MAX_WARNINGS = 5  # largest number of datasets or subsets that warnings name


def caveats(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> list[str]:
    """Explain the terms, chance, and the uncertainty of the answers."""
    if not accuracy and not transfer:
        return []
    texts = (
        _about_terms(accuracy, transfer),
        _about_chance(accuracy, transfer),
        _about_uncertainty(accuracy, transfer),
        _about_marks(accuracy, transfer),
    )
    return [text for text in texts if text]


def about_absent(recipe: Recipe) -> list[str]:
    """List the parts of the published study that the recipe lacks."""
    if not recipe.absent:
        return []
    return [f"Not part of this recipe, unlike the published study: {'; '.join(recipe.absent)}."]


def about_empty_classes(rows: Sequence[BetonRow]) -> list[str]:
    """Name the classes that have no image in a split, one text per dataset and subset."""
    splits: dict[tuple[str, int, tuple[str, ...]], list[str]] = {}
    for row in rows:
        if row.classes_without_images:
            is_whole = row.subset in ("", "all")
            name = row.dataset if is_whole else f"{row.dataset}, subset {row.subset}"
            place = (name, row.num_classes, row.classes_without_images)
            splits.setdefault(place, []).append(row.split)
    texts = []
    for (name, num_classes, absent), of_place in splits.items():
        one_split, one_class = len(of_place) == 1, len(absent) == 1
        texts.append(
            f"{name}: {join_words(of_place)} {'has' if one_split else 'have'} no image of "
            f"{len(absent):,} of {counted(num_classes, 'class')}: {preview(absent)}. Accuracies on "
            f"{'this split' if one_split else 'these splits'} do not cover "
            f"{'it' if one_class else 'them'}."
        )
    if len(texts) > MAX_WARNINGS:
        more = len(texts) - MAX_WARNINGS
        texts[MAX_WARNINGS:] = [f"Further datasets or subsets with such classes: {more:,}."]
    return texts


def about_repeats(betons: Sequence[str], models: Sequence[str]) -> list[str]:
    """Name subsets and models that are equal under different keys.

    Args:
        betons: pairs of equal subsets, such as `b is a`.
        models: pairs of equal models.
    """
    texts = []
    if betons:
        texts.append(f"Subsets with equal images and labels: {_listed(betons)}.")
    if models:
        texts.append(
            "Equal images, settings and steps give one model, which counts once: "
            f"{_listed(models)}."
        )
    return texts


def _listed(pairs: Sequence[str]) -> str:
    more = f" and {len(pairs) - MAX_LISTED} more" if len(pairs) > MAX_LISTED else ""
    return f"{'; '.join(pairs[:MAX_LISTED])}{more}"


def _about_terms(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> str:
    """Define eps, common classes and masked, if the report uses them."""
    sentences = []
    if any(row.view != "own" for row in accuracy) and not views_are_equal(accuracy):
        sentences.append("Common classes are those that all subsets keep.")
        if not views_are_equal(accuracy, COMMON_VIEWS):
            sentences.append(
                "Masked means that only common classes may be predicted; otherwise any class of "
                "the model may be."
            )
    rows: list[AccuracyRow | TransferRow] = [*accuracy, *transfer]
    if any(row.eps for row in rows):
        sentences.append(
            "eps is the radius of the attack in pretraining, for pixels in [0, 1]; 0 is clean "
            "training."
        )
    return " ".join(sentences)


def _about_chance(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> str:
    parts = []
    masked, unmasked = (
        {row.num_answers for row in accuracy if row.view == view and row.num_answers}
        for view in ("common_masked", "common_unmasked")
    )
    if masked and views_are_equal(accuracy, COMMON_VIEWS):
        classes = "source" if views_are_equal(accuracy) else "common"
        parts.append(f"{_chances(masked)} on the {classes} classes")
    elif masked and unmasked:
        parts.append(f"{_chances(unmasked)} on the common classes ({_chances(masked)} masked)")
    if targets := {row.num_answers for row in transfer if row.num_answers}:
        parts.append(f"{_chances(targets)} on the targets")
    text = f"Chance is {' and '.join(parts)}." if parts else ""
    views = COMMON_VIEWS[1:] if views_are_equal(accuracy, COMMON_VIEWS) else COMMON_VIEWS
    rows: list[AccuracyRow | TransferRow] = [
        *(row for row in accuracy if row.view in views),
        *transfer,
    ]
    num_low = sum(
        row.top1 is not None and is_near_chance(row.top1, row.num_answers, row.num_images)
        for row in rows
    )
    if num_low:
        verb, more = "are", ": differences between those mean nothing"
        if num_low == 1:
            verb, more = "is", ""
        text += (
            f" {num_low:,} of {counted(len(rows), 'accuracy')} {verb} not clearly above chance "
            f"(° in the tables){more}."
        )
    return text


def _about_uncertainty(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> str:
    num_seeds = len({row.seed for row in accuracy} | {row.seed for row in transfer})
    if num_seeds > 1:
        return (
            f"± is half the width of a 95 % t interval over up to {num_seeds:,} seeds, paired by "
            "seed, or over targets if the sentence names them. It does not cover the choice of "
            "test images. “Not clear” means that the interval includes zero."
        )
    text = (
        "There is one seed and no interval: these are single runs, and another seed may give "
        "other numbers."
    )
    if not accuracy and len(transfer) == 1 and (row := transfer[0]).metric == "top1":
        low, high = wilson_interval(row.score, row.num_images)
        return (
            f"{text} The choice of {row.num_images:,} test images alone gives a 95 % Wilson "
            f"interval of {percent(low, 1)} to {percent(high, 1)} %."
        )
    errors = []
    if common := [row.num_images for row in accuracy if row.view == "common_unmasked"]:
        classes = "source" if views_are_equal(accuracy) else "common"
        errors.append(
            (f"{min(common):,} images of the {classes} classes", max_sampling_error(accuracy))
        )
    if transfer:
        smallest = min(transfer, key=lambda row: row.num_images)
        error = max(
            sampling_error(row.score, row.num_images)
            for row in transfer
            if row.target == smallest.target
        )
        errors.append((f"{smallest.num_images:,} test images of {smallest.target}", error))
    if errors:
        listed = join_words(
            [f"{half_width(100 * error, 1)} points on the {what}" for what, error in errors]
        )
        text += f" The choice of test images alone makes two equal models differ by up to {listed}."
    return text


def max_sampling_error(accuracy: Sequence[AccuracyRow]) -> float:
    """Return the largest sampling error of the difference of two clean accuracies, a fraction."""
    return max(
        (
            sampling_error(row.top1, row.num_images)
            for row in accuracy
            if (row.view, row.attack) == ("common_unmasked", "clean")
        ),
        default=0.0,
    )


def _about_marks(accuracy: Sequence[AccuracyRow], transfer: Sequence[TransferRow]) -> str:
    """Explain the marks that the tables may have; a single result has none."""
    sentences = []
    models = {(row.arch, row.model, row.subset, row.variant, row.eps) for row in accuracy}
    is_single = len(models) < 2 and len(transfer) < 2
    if not is_single:
        sentences.append("In the tables, bold is the best value of a column.")
    if len({row.seed for row in accuracy} | {row.seed for row in transfer}) > 1:
        sentences.append("sd is the standard deviation over seeds.")
    if not is_single:
        sentences.append("* means p below 0.05 after Holm's adjustment for all lines of the table.")
    return " ".join(sentences)


def _chances(num_answers: set[int]) -> str:
    chances = sorted({f"{100 / number:.1f}" for number in num_answers}, key=float)
    return f"{chances[0]} %" if len(chances) == 1 else f"{chances[0]} to {chances[-1]} %"
