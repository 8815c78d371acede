"""The WordNet table and its label sets, compared with published sizes."""

import random
from collections.abc import Collection
from itertools import combinations

import pytest

from writers.errors import UserError
from writers.subset import wordnet
from writers.subset.class_steps import related, related_targets
from writers.subset.lists import imagenet_classes
from writers.subset.spec import Subset, named, resolve
from writers.subset.wordnet_halves import minimal_half

CLASSES = imagenet_classes()


def test_the_table_is_complete():
    table = wordnet.table()
    assert len(table) == 1860
    assert all(parent in table for node in table.values() for parent in node.parents)
    assert [node.words for node in table.values() if not node.parents] == ["entity"]
    assert set(CLASSES) <= table.keys() and all(wordnet.words(name) for name in CLASSES)
    # For classes with several parents, the choice of the parent matters.
    assert sum(len(table[name].parents) > 1 for name in CLASSES) == 38


@pytest.mark.parametrize(
    "size", [1, 2, 5, 9, 17, 36, 79, 206, 345, 486, 596, 694, 753, 820, 877, 918, 977, 999]
)
def test_bottom_up_label_sets_have_the_published_sizes(size):
    subset = resolve(named(f"huh-{size}"), CLASSES)
    assert len(subset.classes) == size
    assert sorted(subset.source_classes) == list(CLASSES)


@pytest.mark.parametrize("size", [127, 10, 2])
def test_top_down_label_sets_have_the_published_sizes(size):
    subset = resolve(named(f"huh-top-{size}"), CLASSES)
    assert len(subset.classes) == size
    assert sorted(subset.source_classes) == list(CLASSES)


def test_each_coarser_set_merges_the_labels_of_a_finer_one():
    finer = {name: name for name in CLASSES}
    for size in reversed(wordnet.BOTTOM_UP_SIZES):
        coarser = wordnet.bottom_up(size, CLASSES)
        merged: dict[str, str] = {}
        assert all(
            merged.setdefault(finer[name], coarser[name]) == coarser[name] for name in CLASSES
        )
        assert all(coarser[name] in wordnet.ancestors(name) for name in CLASSES)
        finer = coarser


def test_pascal_removed_leaves_771_classes():
    subset = resolve(named("pascal-removed"), CLASSES)
    assert len(subset.classes) == 771
    removed = set(CLASSES) - set(subset.classes)
    kinds = {
        name: sum(wordnet.PASCAL[name] in wordnet.ancestors(class_name) for class_name in removed)
        for name in ("bird", "dog", "car")
    }
    assert kinds == {"bird": 59, "dog": 118, "car": 10}


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("aircraft", 4),
        ("birdsnap", 59),
        ("caltech101", 567),
        ("caltech256", 622),
        ("cifar10", 221),
        ("cifar100", 546),
        ("flowers", 2),
        ("food", 48),
        ("pets", 398),
        ("cars", 67),
        ("sun397", 17),
        ("pascal", 229),
    ],
)
def test_lists_of_related_classes_have_the_published_sizes(target, number):
    assert target in related_targets() and len(related(target, CLASSES)) == number
    assert len(resolve(named(f"{target}-removed"), CLASSES).classes) == 1000 - number


def shared_subtrees(first: Subset, second: Subset) -> int:
    """Count the nodes of the single-parent tree that are at or above classes of both halves."""
    sides = [
        {node for name in half.classes for node in wordnet.chain(name)} for half in (first, second)
    ]
    return len(sides[0] & sides[1])


def test_halves_are_disjoint_and_minimal_ones_share_little():
    shared = {}
    for kind in ("random", "minimal"):
        a, b = (resolve(named(f"half-{kind}-{which}"), CLASSES) for which in "ab")
        assert len(a.classes) == len(b.classes) == 500 and not set(a.classes) & set(b.classes)
        shared[kind] = shared_subtrees(a, b)
    assert shared["minimal"] == 5 and shared["random"] > 300


@pytest.mark.parametrize("number", [1, 2, 3, 10, 117, 118])
def test_a_half_of_any_subset_is_half(number):
    dogs = wordnet.under(["n02084071"], CLASSES)[:number]
    half = minimal_half(dogs)
    assert len(half) == number // 2 and set(half) <= set(dogs)


@pytest.mark.parametrize("seed", range(12))
def test_no_other_half_shares_fewer_nodes(seed):
    """Compare with all halves of ten classes, some of which are subclasses of others."""
    nodes = sorted(wordnet.table())
    nodes = nodes if seed % 2 else wordnet.under(["n02084071"], nodes)
    classes = sorted(random.Random(seed).sample(nodes, 10))

    def shared(half: Collection[str]) -> int:
        return shared_subtrees(
            Subset("a", tuple(half)),
            Subset("b", tuple(name for name in classes if name not in half)),
        )

    assert shared(minimal_half(classes)) == min(
        map(shared, combinations(classes, len(classes) // 2))
    )


def test_an_unknown_node_is_refused():
    with pytest.raises(UserError, match="n12345678"):
        wordnet.under(["n12345678"], CLASSES)
    with pytest.raises(UserError, match="no bottom_up label set of 80"):
        wordnet.bottom_up(80, CLASSES)
