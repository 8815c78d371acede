"""State which of the weights in a file were read, from the metadata of an import."""

from collections.abc import Mapping
from typing import Any

MAX_COPIES = 4  # copies that a message names


def choice_of(about: Mapping[str, Any]) -> str:
    """State which copy of the network was read, and that a moving average was not.

    Args:
        about: metadata of `harness.modeling.checkpoint_import.import_checkpoint`.

    Returns:
        Sentences; "" if the file has one copy of the network and no moving average of it.
    """
    return " ".join(filter(None, (_copies(about), _average(about))))


def _copies(about: Mapping[str, Any]) -> str:
    others = [prefix.rstrip(".") for prefix in about.get("other_copies", ())]
    if not others:
        return ""
    own, first = about["prefix"].rstrip("."), next(filter(None, others), "")
    read = f"under {own}" if own else "without a prefix"
    unread = ", ".join(other or "the one without a prefix" for other in others[:MAX_COPIES])
    more = f" and {len(others) - MAX_COPIES} more" if len(others) > MAX_COPIES else ""
    choice = f" To read another: --part {first} (in a recipe `part`)." if first else ""
    return (
        f"The file has {len(others) + 1} copies of the network. The one {read} was read, not "
        f"{unread}{more}.{choice}"
    )


def _average(about: Mapping[str, Any]) -> str:
    if not about.get("averages"):
        return ""
    return (
        f"The file also has a moving average of the weights ({about['averages'][0]}), which was "
        "not read. To read it: --average (in a recipe `average: true`)."
    )
