"""Check a dataset's raw files: count images per split and class, and decode each image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from writers.beton.boxes import BoxError, check_boxes
from writers.beton.encode import UnreadableError, check_image
from writers.beton.selection import example_counts
from writers.beton.store import Progress
from writers.dataset import DatasetSpec
from writers.errors import UserError
from writers.map_ahead import map_ahead
from writers.source import Example, Source
from writers.text_names import counted

AHEAD = 16  # images per thread that may be decoded ahead of the reported one


@dataclass(frozen=True)
class RawReport:
    """Result of a check.

    `class_counts` maps a split to the number of images of each class, in label order. If images
    have several labels, an image counts for each class that is present in it.
    """

    class_counts: dict[str, list[int]]
    num_images: dict[str, int]  # by split
    problems: list[str] = field(default_factory=list)  # one line each; empty if all is right


def check_raw(
    source: Source,
    spec: DatasetSpec,
    *,
    classes: Sequence[str] = (),
    num_threads: int = 1,
    progress: Progress | None = None,
) -> RawReport:
    """Count and decode all images. Each problem names the split, the classes or the file.

    It is a problem if one of `classes` is missing.
    """
    counts = {split: _class_counts(source, examples) for split, examples in source.splits.items()}
    num_images = {split: len(examples) for split, examples in source.splits.items()}
    problems = [*_count_problems(source, spec, num_images), *_class_problems(source, counts)]
    if missing := [name for name in classes if name not in source.classes]:
        problems.append(f"there is no image at all of {', '.join(missing)}")
    examples = [example for split in source.splits.values() for example in split]
    for number, problem in enumerate(_image_problems(source, examples, num_threads)):
        if progress is not None:
            progress(number + 1, len(examples))
        if problem:
            problems.append(problem)
    return RawReport(counts, num_images, problems)


def expected_images(
    spec: DatasetSpec, num_images: dict[str, int], protocol: str | None = None
) -> Iterator[tuple[str, int, int]]:
    """Yield split, images found and images published. `protocol` is that of `DatasetSpec.sizes`.

    If a split is not in the published dataset, it was drawn from train. Its images are then counted
    as images of train.
    """
    published = spec.sizes(protocol)
    for split, expected in published.items():
        num_found = num_images.get(split, 0)
        if split == "train":
            num_found += sum(
                num_images.get(drawn, 0) for drawn in ("val", "test") if drawn not in published
            )
        yield split, num_found, expected


def accepted_differences(source: Source, spec: DatasetSpec, *, accept: bool) -> list[str]:
    """Describe, for the manifest, how the images differ from the published counts.

    Datasets with `spec.often_partial` are not compared; the result is then empty.

    Raises:
        UserError: there are differences, and `accept` is False. Results are comparable only if the
            images are the same.
    """
    num_images = {split: len(examples) for split, examples in source.splits.items()}
    differences = [] if spec.often_partial else list(_count_problems(source, spec, num_images))
    if differences and not accept:
        raise UserError(
            f"{spec.title} is not what was published: {'; '.join(differences)}.",
            "Is it complete? Run harness verify-raw. If it is intended: --accept-counts, in a "
            "recipe "
            "accept_counts: true.",
        )
    train = {"train": _class_counts(source, source.splits["train"])} if differences else {}
    return [*differences, *_class_problems(source, train)]


def _count_problems(source: Source, spec: DatasetSpec, num_images: dict[str, int]) -> Iterator[str]:
    for split, num_found, expected in expected_images(spec, num_images, source.protocol):
        if num_found != expected:
            yield f"{split} has {counted(num_found, 'image')}; {expected:,} were published"
    num_classes = spec.classes(source.protocol)
    if num_classes not in (None, len(source.classes)):
        yield f"it has {counted(len(source.classes), 'class')}; {num_classes} were published"


def _class_problems(source: Source, counts: dict[str, list[int]]) -> Iterator[str]:
    for split, of_class in counts.items():
        empty = [name for name, number in zip(source.classes, of_class, strict=True) if number == 0]
        if empty and any(of_class):
            yield f"{split} has no image of {', '.join(empty)}"


def _class_counts(source: Source, examples: Sequence[Example]) -> list[int]:
    counts: list[int] = example_counts(examples, len(source.classes)).tolist()
    return counts


def _image_problems(source: Source, examples: Sequence[Example], num_threads: int) -> Iterator[str]:
    """Return an iterator over the problem of each image in order, or '' if it has none."""
    return map_ahead(
        partial(_image_problem, source),
        examples,
        num_threads=num_threads,
        max_pending=AHEAD * num_threads,
        name="harness-check",
    )


def _image_problem(source: Source, example: Example) -> str:
    if example.key in source.damaged:  # known to be damaged: the writer skips the image
        return ""
    try:
        data = source.read(example)
        check_image(data, lenient=example.key in source.lenient)
        check_boxes(example.boxes or (), data, example.annotated_size)
    except (UnreadableError, BoxError, OSError) as error:
        return f"{source.where(example)}: {error}"
    return ""
