"""Halves of classes that share as few WordNet nodes as possible (Huh, Agrawal and Efros 2016).

Dynamic programming over the tree of the classes' chains to the root.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from writers.subset.wordnet import chain


def minimal_half(classes: Sequence[str]) -> list[str]:
    """Return half of the classes (rounded down) that shares the fewest nodes with the other half.

    A node is shared if chains of both halves to the root pass through it. The minimum is exact, by
    dynamic programming from the leaves: for each node and number of its classes, the fewest shared
    nodes below it. Among equally good halves, the first children by id get the most classes.
    """
    below: dict[str, set[str]] = defaultdict(set)  # node -> its children on the classes' chains
    for name in classes:
        path = chain(name)
        for node, child in pairwise(path):
            below[node].add(child)
    chosen: set[str] = set()
    _take(_fewest_shared(chain(classes[0])[0], below, set(classes)), len(classes) // 2, chosen)
    return [name for name in classes if name in chosen]


class _Fewest(NamedTuple):
    """Per node.

    `shared[k]` is the fewest shared nodes at and below it if the half takes k of its classes.
    """

    shared: np.ndarray  # int64 [number of classes + 1]
    classes: list[str]  # the node itself, if it is a class without subclasses
    children: list["_Fewest"]
    # per child: its best number, for each total of it and the children before
    steps: list[np.ndarray]


def _fewest_shared(node: str, below: dict[str, set[str]], classes: set[str]) -> _Fewest:
    if not below[node]:
        return _Fewest(np.zeros(2, np.int64), [node], [], [])
    children = [_fewest_shared(child, below, classes) for child in sorted(below[node])]
    if node in classes:  # a class with subclasses is one more leaf
        children.append(_Fewest(np.zeros(2, np.int64), [node], [], []))
    shared, steps = np.zeros(1, np.int64), []
    for child in children:
        size = len(child.shared)
        table = np.full((size, len(shared) + size - 1), np.iinfo(np.int64).max)
        for number_taken, least in enumerate(child.shared):
            table[number_taken, number_taken : number_taken + len(shared)] = shared + least
        steps.append(table.argmin(axis=0))
        shared = table.min(axis=0)
    shared[1:-1] += 1  # the node itself, unless all or none of its classes are taken
    return _Fewest(shared, [], children, steps)


def _take(node: _Fewest, number: int, chosen: set[str]) -> None:
    """Add the `number` classes of the node that share the fewest nodes."""
    if node.classes and number:
        chosen.update(node.classes)
    for child, best in zip(reversed(node.children), reversed(node.steps), strict=True):
        number_taken = int(best[number])
        _take(child, number_taken, chosen)
        number -= number_taken
