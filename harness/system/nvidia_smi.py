"""Read the usable GPUs from nvidia-smi, under CUDA_VISIBLE_DEVICES and with MIG instances."""

import os
import re
import subprocess
from typing import NamedTuple

_CARD = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_INSTANCE = re.compile(r"\s*MIG (\S+)\s+Device\s+\d+:\s+\(UUID: (MIG-[^)]+)\)")
_GIGABYTES = re.compile(r"(\d+)gb")
# Assumed usable fraction of a MIG profile's nominal memory. 3g.40gb has 40,448 of 40,960 MiB.
MIG_SHARE = 0.95


class Card(NamedTuple):
    """A GPU card, with the value of the field that nvidia-smi was queried for."""

    number: str
    uuid: str
    value: str


class Instance(NamedTuple):
    """A MIG instance: its card's index, its UUID, and its profile such as 3g.40gb."""

    card: str
    uuid: str
    profile: str


def usable_gpus(field: str) -> list[tuple[str, str]]:
    """Return (entry of CUDA_VISIBLE_DEVICES, value of the field) for each usable GPU.

    MIG instances count as GPUs. As in CUDA, an entry of CUDA_VISIBLE_DEVICES that names no GPU and
    all entries after it are ignored.

    Args:
        field: `name` or `memory.total` (MiB).
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    cards = _cards(field)
    if not cards:
        return []
    instances = _instances()
    if visible is None:
        return _all(cards, instances, field)
    found: list[tuple[str, str]] = []
    for entry in (entry.strip() for entry in visible.split(",")):
        value = _value_of(entry, cards, instances, field)
        if value is None:
            break
        found.append((entry, value))
    return found


def mebibytes(text: str) -> int:
    """Parse a number from nvidia-smi; 0 for [N/A], which GPUs report that share host memory."""
    try:
        return round(float(text))
    except (ValueError, OverflowError):
        return 0


def _all(cards: list[Card], instances: list[Instance], field: str) -> list[tuple[str, str]]:
    """List all GPUs by index, or by UUID if MIG is used, because CUDA then has other indices."""
    if not instances:
        return [(card.number, card.value) for card in cards]
    found = []
    for card in cards:
        own = [instance for instance in instances if instance.card == card.number]
        found += [
            (instance.uuid, _instance_value(card, instance.profile, field)) for instance in own
        ]
        found += [] if own else [(card.uuid, card.value)]
    return found


def _value_of(entry: str, cards: list[Card], instances: list[Instance], field: str) -> str | None:
    """Return the value for an entry of CUDA_VISIBLE_DEVICES; None if it names no GPU."""
    by_index = {card.number: card for card in cards}
    if entry.startswith("MIG-"):
        for instance in instances:
            if instance.uuid.startswith(entry) and instance.card in by_index:
                return _instance_value(by_index[instance.card], instance.profile, field)
        # The driver lists no instances, or the entry has an older form, MIG-GPU-<uuid>/<instance>.
        return None if instances and "/" not in entry else _instance_value(cards[0], "", field)
    for card in cards:
        if entry == card.number or (entry.startswith("GPU-") and card.uuid.startswith(entry)):
            own = [instance for instance in instances if instance.card == card.number]
            return _instance_value(card, own[0].profile, field) if own else card.value
    return None


def _instance_value(card: Card, profile: str, field: str) -> str:
    if field != "memory.total":
        return f"{card.value} MIG {profile}".rstrip()
    size = _GIGABYTES.search(profile)
    return str(int(int(size[1]) * 1024 * MIG_SHARE)) if size else "[N/A]"


def _cards(field: str) -> list[Card]:
    lines = _output(f"--query-gpu=index,uuid,{field}", "--format=csv,noheader,nounits")
    cards = []
    for number, line in enumerate(lines):
        cells = [cell.strip() for cell in line.split(",", 2)]
        cards.append(Card(*cells) if len(cells) == 3 else Card(str(number), "", line.strip()))
    return cards


def _instances() -> list[Instance]:
    found, card = [], ""
    for line in _output("-L"):
        if match := _CARD.match(line):
            card = match[1]
        elif match := _INSTANCE.match(line):
            found.append(Instance(card, match[2], match[1]))
    return found


def _output(*arguments: str) -> list[str]:
    """Return the non-empty lines that nvidia-smi prints; none if it is missing or fails."""
    try:
        ended = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    return [line for line in ended.stdout.splitlines() if line.strip()]
