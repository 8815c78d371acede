"""The part of WordNet 3.0 above ImageNet's classes: hypernyms and coarser label sets.

The table `writers/wordnet.txt` has 1,860 nodes (made by `writers/tools/make_wordnet.py`). Label
sets and their sizes are those of Huh, Agrawal and Efros 2016, "What makes ImageNet good for
transfer learning?".
"""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from writers.errors import UserError
from writers.subset.lists import imagenet_classes

FILE = Path(__file__).parents[1] / "wordnet.txt"
# number of labels of a label set, indexed by depth from the root
BOTTOM_UP_SIZES = (
    1,
    2,
    5,
    9,
    17,
    36,
    79,
    206,
    345,
    486,
    596,
    694,
    753,
    820,
    877,
    918,
    977,
    999,
)
TOP_DOWN_SIZES = (127, 10, 2)  # number of labels of a label set after one, two and three merges

# PASCAL VOC's class -> node. An ImageNet class is related if it is at or below one of these nodes.
PASCAL = {
    "aeroplane": "n02691156",
    "bicycle": "n02834778",
    "bird": "n01503061",
    "boat": "n02858304",
    "bottle": "n02876657",
    "bus": "n02924116",
    "car": "n02958343",
    "cat": "n02121620",
    "chair": "n03001627",
    "cow": "n01887787",
    "diningtable": "n03201208",
    "dog": "n02084071",
    "horse": "n02374451",
    "motorbike": "n03769722",
    "person": "n00007846",
    "pottedplant": "n00017222",
    "sheep": "n02411705",
    "sofa": "n04256520",
    "train": "n04468005",
    "tvmonitor": "n03782006",
}


class Node(NamedTuple):
    """A WordNet node: its hypernyms and its words."""

    parents: tuple[str, ...]  # hypernyms; the first one is on the chain to the root (see `chain`)
    words: str


@cache
def table() -> dict[str, Node]:
    """Read the nodes, by id."""
    rows = (line.split("\t") for line in FILE.read_text().splitlines() if not line.startswith("#"))
    return {
        wnid: Node(tuple(filter(None, parents.split(","))), words) for wnid, parents, words in rows
    }


def words(wnid: str) -> str:
    """Return the words of a node, or "" if the node is not in the table."""
    node = table().get(wnid)
    return node.words if node else ""


def ancestors(wnid: str) -> set[str]:
    """Return the node and all nodes above it. Raises UserError for an unknown node."""
    nodes: set[str] = set()
    waiting = [wnid]
    while waiting:
        current = waiting.pop()
        if current not in nodes:
            nodes.add(current)
            waiting += _node(current).parents
    return nodes


def under(wnids: Iterable[str], classes: Sequence[str]) -> list[str]:
    """Return the classes at or below the nodes. Raises UserError for an unknown node."""
    nodes = {wnid for wnid in wnids if _node(wnid)}
    return [name for name in classes if nodes & ancestors(name)]


def pascal_related(classes: Sequence[str]) -> list[str]:
    """Return the classes at or below PASCAL VOC's 20 classes: 229 of ImageNet's classes."""
    nodes = set(PASCAL.values())
    return [name for name in classes if nodes & ancestors(name)]


def chain(wnid: str) -> list[str]:
    """Return the chain from the root, `entity`, to the node, by the first parent of each node."""
    path = [wnid]
    while parents := _node(path[-1]).parents:
        path.append(parents[0])
    return path[::-1]


def bottom_up(size: int, classes: Sequence[str]) -> dict[str, str]:
    """Map each class to its ancestor at the depth, from the root, that leaves `size` labels.

    Raises UserError if a class is not a node, or `size` is not one of BOTTOM_UP_SIZES.
    """
    depth = _place(size, BOTTOM_UP_SIZES, "bottom_up")
    return {name: path[min(depth, len(path) - 1)] for name in classes for path in [chain(name)]}


def top_down(size: int, classes: Sequence[str]) -> dict[str, str]:
    """Map each class to its label after the one to three merges that leave `size` labels.

    A merge replaces each label by its parent. Then each new label, in the order of the classes,
    replaces all labels below it. Merges use all of ImageNet's classes, so that a class has the same
    label in every subset. Raises UserError if one of `classes` is not a class of ImageNet, or if
    `size` is not one of TOP_DOWN_SIZES.
    """
    everyone = imagenet_classes()
    labels = list(everyone)
    for _ in range(_place(size, TOP_DOWN_SIZES, "top_down") + 1):
        labels = [parents[0] if (parents := _node(label).parents) else label for label in labels]
        paths = {label: set(chain(label)) for label in labels}
        for upper in list(labels):
            labels = [upper if upper in paths[label] else label for label in labels]
    label_of = dict(zip(everyone, labels, strict=True))
    if strangers := [name for name in classes if name not in label_of]:
        raise UserError(
            f"{strangers[0]} is not one of ImageNet's classes; the top-down label sets need them.",
            "Use bottom_up, or a map: FILE.",
        )
    return {name: label_of[name] for name in classes}


def _node(wnid: str) -> Node:
    try:
        return table()[wnid]
    except KeyError:
        raise UserError(
            f"{wnid} is not the WordNet 3.0 id of an ImageNet class or of one of their hypernyms.",
            "harness subset show in1000 lists the classes; n02084071 is dog.",
        ) from None


def _place(size: int, sizes: Sequence[int], what: str) -> int:
    if size not in sizes:
        raise UserError(
            f"There is no {what} label set of {size} labels.",
            f"Their sizes are {', '.join(map(str, sizes))}.",
        )
    return sizes.index(size)
