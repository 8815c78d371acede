"""Halves of classes that share as little as possible of WordNet, as Huh, Agrawal and Efros 2016 ask for.

By dynamic programming over the tree of the classes' chains to the root.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from writers.subset.wordnet import chain


def minimal_half(classes: Sequence[str]) -> list[str]:
    """Half of the classes (rounded down) that shares as few nodes as possible with the other half.

    A node is shared where classes of both halves go through it on their chain to the root. The least number is found exactly,
    by dynamic programming from the leaves up: for each node and each number of its classes, the fewest nodes shared below it.
    Of equally good halves it is the one that gives the first children, by id, the most classes.
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
    """Of a node: `shared[k]` is the fewest nodes shared, itself and below, where the half takes k of its classes."""

    shared: np.ndarray  # int64 [number of classes + 1]
    classes: list[str]  # the node itself, where it is a class without subclasses
    children: list["_Fewest"]
    steps: list[
        np.ndarray
    ]  # of each child: how many it is best given, for each number that it and those before get


def _fewest_shared(node: str, below: dict[str, set[str]], classes: set[str]) -> _Fewest:
    if not below[node]:
        return _Fewest(np.zeros(2, np.int64), [node], [], [])
    children = [_fewest_shared(child, below, classes) for child in sorted(below[node])]
    if node in classes:  # a class that has subclasses: beside them, one more leaf
        children.append(_Fewest(np.zeros(2, np.int64), [node], [], []))
    shared, steps = np.zeros(1, np.int64), []
    for child in children:
        size = len(child.shared)
        table = np.full((size, len(shared) + size - 1), np.iinfo(np.int64).max)
        for given, least in enumerate(child.shared):
            table[given, given : given + len(shared)] = shared + least
        steps.append(table.argmin(axis=0))
        shared = table.min(axis=0)
    shared[1:-1] += 1  # the node itself, unless all or none of its classes are taken
    return _Fewest(shared, [], children, steps)


def _take(node: _Fewest, number: int, chosen: set[str]) -> None:
    """Add the `number` classes of the node that share the fewest nodes."""
    if node.classes and number:
        chosen.update(node.classes)
    for child, best in zip(reversed(node.children), reversed(node.steps), strict=True):
        given = int(best[number])
        _take(child, given, chosen)
        number -= given
