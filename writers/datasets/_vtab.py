"""VTAB-1k: 800 training images, 200 validation images, the whole test set (Zhai et al. 2019)."""

from collections.abc import Sequence

from writers.errors import UserError
from writers.source import Example, ids_of
from writers.text_names import counted

VTAB = "vtab"
NUM_TRAIN, NUM_VAL = 800, 200


def vtab_1k(splits: dict[str, list[Example]], seed: int, name: str) -> dict[str, list[Example]]:
    """Draw the 800 training and 200 validation images of VTAB-1k, from names and seed.

    The benchmark takes the first images of TensorFlow Datasets' shards, which need that library.
    Neither choice is stratified, but here every class has an image in train.

    Raises:
        UserError: a split has fewer images than needed.
    """
    return {
        **splits,
        "train": _few(splits["train"], NUM_TRAIN, seed, f"train of {name}", every_class=True),
        "val": _few(splits["val"], NUM_VAL, seed, f"val of {name}", every_class=False),
    }


def _few(
    examples: Sequence[Example], number: int, seed: int, what: str, *, every_class: bool
) -> list[Example]:
    if len(examples) < number:
        raise UserError(
            f"VTAB takes {counted(number, 'image')} of {what}, which has {len(examples)}.",
            "Increase the fraction of val."
            if what.startswith("val")
            else "Check that the dataset is complete: harness verify-raw NAME",
        )
    from writers.random_streams import random_bits

    order = [
        examples[index]
        for index in random_bits(seed, "vtab", ids_of(examples)).argsort(kind="stable")
    ]
    # the first image of each class, if every class must occur
    chosen = {example.label: example for example in reversed(order)} if every_class else {}
    first = set(chosen.values())
    rest = [example for example in order if example not in first]
    return sorted([*first, *rest[: number - len(first)]], key=lambda example: example.key)
