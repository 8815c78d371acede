"""Describe lists in a recipe that have too many combinations."""

from collections.abc import Mapping

Lengths = Mapping[str, int]  # name of a list -> number of its values

MAX_SHOWN = 4  # lists that a message names


def too_many(count: int, what: str, lengths: Lengths, limit: int) -> str:
    """Describe a product that is too large, with its longest lists.

    Args:
        count: the product.
        what: plural noun for what is counted.
        lengths: lengths of the lists.
        limit: largest accepted product.
    """
    longest = sorted(
        ((length, name) for name, length in lengths.items() if length > 1),
        key=lambda pair: -pair[0],
    )
    shown = " x ".join(f"{length:,} {name}" for length, name in longest[:MAX_SHOWN])
    more = " x ..." if len(longest) > MAX_SHOWN else ""
    return (
        f"{count:,} {what}, and at most {limit:,} are possible; the largest factors are "
        f"{shown}{more}"
    )
