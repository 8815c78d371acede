"""Split classes into halves that share as few WordNet nodes as possible (Huh et al. 2016).

The halves are found by dynamic programming over the tree of the classes' chains to the root.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from writers.subset.wordnet import chain


def minimal_half(classes: Sequence[str]) -> list[str]:
    """Return half of the classes (rounded down) that shares the fewest nodes with the other half.

    A node is shared if chains of both halves to the root pass through it. The minimum is exact:
    from the leaves up, dynamic programming computes the fewest shared nodes at and below each node,
    for each number of its classes in the half. If several halves are equally good, the one that
    takes the most classes from the first children, by id, is returned.
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
    """Fewest shared nodes at and below one node.

    `shared[k]` is their number if the half takes k of the classes at and below the node.
    """

    shared: np.ndarray  # int64 [number of classes + 1]
    classes: list[str]  # the node itself, if it is a class without subclasses
    children: list["_Fewest"]  # results of the node's children
    # per child: best number of classes to take from it, indexed by the number of classes taken from
    # this child and all children before it
    steps: list[np.ndarray]


def _fewest_shared(node: str, below: dict[str, set[str]], classes: set[str]) -> _Fewest:
    if not below[node]:
        return _Fewest(np.zeros(2, np.int64), [node], [], [])
    children = [_fewest_shared(child, below, classes) for child in sorted(below[node])]
    if node in classes:  # a class that has subclasses counts as one more leaf
        children.append(_Fewest(np.zeros(2, np.int64), [node], [], []))
    shared, steps = np.zeros(1, np.int64), []
    for child in children:
        size = len(child.shared)
        table = np.full((size, len(shared) + size - 1), np.iinfo(np.int64).max)
        for number_taken, least in enumerate(child.shared):
            table[number_taken, number_taken : number_taken + len(shared)] = shared + least
        steps.append(table.argmin(axis=0))
        shared = table.min(axis=0)
    shared[1:-1] += 1  # the node itself is shared, unless all or none of its classes are taken
    return _Fewest(shared, [], children, steps)


def _take(node: _Fewest, number: int, chosen: set[str]) -> None:
    """Add to `chosen` the `number` classes of a node with which the fewest nodes are shared."""
    if node.classes and number:
        chosen.update(node.classes)
    for child, best in zip(reversed(node.children), reversed(node.steps), strict=True):
        number_taken = int(best[number])
        _take(child, number_taken, chosen)
        number -= number_taken
