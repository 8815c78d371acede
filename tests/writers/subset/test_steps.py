"""Steps of subsets: pure functions, nested, independent of image order.

Steps without effect are refused.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from writers.errors import UserError
from writers.random_streams import sample_ids
from writers.subset.lists import available, file_of, imagenet_classes
from writers.subset.ranking import Ranking
from writers.subset.spec import Subset, SubsetSpec, named, read_spec, resolve

CLASSES = [f"class{index:02d}" for index in range(12)]
COUNTS = [5 + 3 * index for index in range(12)]  # 5 to 38 images: 258
LABELS = np.repeat(np.arange(12), COUNTS)
NAMES = [
    f"{CLASSES[label]}/{number}" for label, number in zip(LABELS, range(len(LABELS)), strict=True)
]
IDS = sample_ids(NAMES)
RANKING = Ranking(
    tuple(reversed(CLASSES)),
    {name: index / 12 for index, name in enumerate(reversed(CLASSES))},
    "test",
    "none",
)


def subset_of(*steps: dict, ranking: Ranking | None = None) -> Subset:
    spec = SubsetSpec.model_validate({"name": "s", "steps": list(steps)})
    assert SubsetSpec.model_validate(spec.model_dump(mode="json")) == spec
    return resolve(spec, CLASSES, ranking, class_counts=dict(zip(CLASSES, COUNTS, strict=True)))


def taken(subset: Subset, split: str = "train") -> set[str]:
    positions, _ = subset.select(split, CLASSES, LABELS, IDS)
    return {NAMES[position] for position in positions}


DRAWING_STEPS = [
    {"per_class": {"images": 7}},
    {"fraction": {"of": 0.3}},
    {"budget": {"images": 60, "by": "examples"}},
    {"budget": {"images": 90, "by": "classes"}},
    {"random": {"classes": 5}},
    {"half": {"of": "random", "which": "B"}},
]


@pytest.mark.parametrize("step", DRAWING_STEPS, ids=lambda step: next(iter(step)))
@given(st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_the_choice_does_not_depend_on_the_order_of_the_images(step, random):
    subset = subset_of(step)
    order = np.array(random.sample(range(len(IDS)), len(IDS)))
    positions, labels = subset.select("train", CLASSES, LABELS[order], IDS[order])
    assert {NAMES[order[position]] for position in positions} == taken(subset)
    assert (np.diff(positions) > 0).all()
    assert [subset.classes[label] for label in labels] == [
        CLASSES[LABELS[order[position]]] for position in positions
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {"per_class": {"images": n}},
        lambda n: {"fraction": {"of": n / 40}},
        lambda n: {"random": {"classes": n % 12 + 1}},
        lambda n: {"budget": {"images": 5 * n, "by": "examples"}},
        lambda n: {"budget": {"images": 40 + 5 * n, "by": "classes"}},
    ],
)
def test_choices_are_nested(make):
    sizes = []
    for number in (10, 3, 11, 25, 38):
        smaller, larger = sorted(
            (taken(subset_of(make(number))), taken(subset_of(make(7)))), key=len
        )
        assert smaller <= larger
        sizes.append(len(smaller))
    assert len(set(sizes)) > 1


def test_seeds_draw_differently():
    for step in (
        {"per_class": {"images": 4}},
        {"random": {"classes": 6}},
        {"half": {"of": "random", "which": "A"}},
    ):
        kind, settings_ = next(iter(step.items()))
        assert taken(subset_of(step)) != taken(subset_of({kind: {**settings_, "seed": 1}}))


def test_per_class_and_fraction_count_by_label():
    counts = Counter(name.split("/")[0] for name in taken(subset_of({"per_class": {"images": 10}})))
    assert [counts[name] for name in CLASSES] == [min(10, count) for count in COUNTS]
    counts = Counter(name.split("/")[0] for name in taken(subset_of({"fraction": {"of": 0.01}})))
    assert set(counts.values()) == {1} and len(counts) == 12


@given(st.integers(12, sum(COUNTS)))
@settings(max_examples=40, deadline=None)
def test_a_budget_of_examples_is_kept_exactly_and_spread_evenly(num_images):
    counts = Counter(
        name.split("/")[0]
        for name in taken(subset_of({"budget": {"images": num_images, "by": "examples"}}))
    )
    assert sum(counts.values()) == num_images
    most = max(counts.values())
    assert all(
        counts[name] >= min(count, most - 1) for name, count in zip(CLASSES, COUNTS, strict=True)
    )


def test_a_budget_of_classes_takes_whole_classes_within_the_limit():
    subset = subset_of({"budget": {"images": 90, "by": "classes"}})
    counts = Counter(name.split("/")[0] for name in taken(subset))
    assert all(counts[name] == COUNTS[CLASSES.index(name)] for name in subset.classes)
    assert sum(counts.values()) <= 90


def test_a_budget_like_another_subset_has_as_many_images():
    classes = imagenet_classes()
    counts = {name: 3 + index % 4 for index, name in enumerate(classes)}
    labels = np.repeat(np.arange(1000), list(counts.values()))
    ids = sample_ids(f"{classes[label]}/{number}" for number, label in enumerate(labels))
    sizes = {}
    for name in ("in900", "in900-budget"):
        positions, _ = resolve(named(name), classes, class_counts=counts).select(
            "train", classes, labels, ids
        )
        sizes[name] = len(positions)
    assert sizes["in900"] == sizes["in900-budget"] < len(labels)
    with pytest.raises(UserError, match="budget is 999 images"):
        taken(subset_of({"budget": {"images": 999, "by": "examples"}}))


@pytest.mark.parametrize(
    "earlier",
    [
        [{"per_class": {"images": 6}}],
        [{"fraction": {"of": 0.4}}],
        [{"fraction": {"of": 0.5}}, {"per_class": {"images": 9}}],
        [{"per_class": {"images": 12}}, {"random": {"classes": 8}}],
    ],
)
def test_a_budget_of_classes_counts_what_earlier_steps_left(earlier):
    """All whole classes that fit are kept: the next one in drawn order would exceed the budget."""
    left = Counter(name.split("/")[0] for name in taken(subset_of(*earlier)))
    subset = subset_of(*earlier, {"budget": {"images": 40, "by": "classes"}})
    counts = Counter(name.split("/")[0] for name in taken(subset))
    assert counts == {name: left[name] for name in subset.classes}
    assert 40 - max(left.values()) < sum(counts.values()) <= 40


def test_a_budget_of_classes_after_a_spread_over_classes_is_refused():
    earlier = {"budget": {"images": 60, "by": "examples"}}
    with pytest.raises(UserError, match="budget with by: classes cannot follow"):
        subset_of(earlier, {"budget": {"images": 40, "by": "classes"}})


@pytest.mark.parametrize(
    "steps",
    [
        [{"per_class": {"images": 6}}],
        [{"fraction": {"of": 0.3}}],
        [{"random": {"classes": 7}}, {"fraction": {"of": 0.3}}, {"per_class": {"images": 5}}],
        [{"budget": {"images": 77, "by": "examples"}}],
        [{"budget": {"images": 77, "by": "classes"}}],
        [{"per_class": {"images": 8}}, {"budget": {"images": 50, "by": "examples"}}],
    ],
)
@pytest.mark.parametrize("by", ["examples", "classes"])
def test_a_budget_like_a_subset_has_that_subsets_images(steps, by, tmp_path: Path):
    file = tmp_path / "other.yaml"
    file.write_text(SubsetSpec.model_validate({"name": "o", "steps": steps}).model_dump_json())
    wanted = len(taken(subset_of(*steps)))
    found = len(taken(subset_of({"budget": {"like": str(file), "by": by}})))
    assert found == wanted if by == "examples" else wanted - max(COUNTS) < found <= wanted


def test_only_training_images_are_removed():
    subset = subset_of({"random": {"classes": 5}}, {"per_class": {"images": 2}})
    assert len(taken(subset)) == 10
    assert taken(subset, "val") == {name for name in NAMES if name.split("/")[0] in subset.classes}


def test_both_halves_together_are_all_classes():
    a, b = (taken(subset_of({"half": {"of": "random", "which": which}})) for which in "AB")
    assert not a & b and a | b == set(NAMES)


def test_keep_and_remove_are_complements():
    kept = subset_of({"keep": {"hardest": 4}}, ranking=RANKING).classes
    removed = subset_of({"remove": {"hardest": 4}}, ranking=RANKING).classes
    assert kept == tuple(CLASSES[8:]) and removed == tuple(CLASSES[:8])


def test_coarsening_and_restricting_commute():
    classes = imagenet_classes()
    steps = [{"exclude": {"related_to": "pascal"}}, {"coarsen": {"bottom_up": 79}}]
    first, second = (
        resolve(SubsetSpec.model_validate({"name": "s", "steps": order}), classes)
        for order in (steps, steps[::-1])
    )
    assert first.classes == second.classes
    assert first.groups == second.groups
    assert first.digest == second.digest
    assert 1 < len(first.classes) <= 79 and len(first.source_classes) == 771


def test_steps_after_coarsen_count_images_by_coarse_label(tmp_path: Path):
    """Steps after `coarsen` count images by coarse label, steps before it by class."""
    file = tmp_path / "map.csv"
    file.write_text(
        "# ours\n"
        + "".join(
            f"{name},{'low' if index < 6 else 'high'}\n" for index, name in enumerate(CLASSES)
        )
    )
    later = subset_of({"coarsen": {"map": str(file)}}, {"per_class": {"images": 10}})
    assert later.classes == ("high", "low")
    assert later.groups == (
        tuple(CLASSES[6:]),
        tuple(CLASSES[:6]),
    )
    assert len(taken(later)) == 20
    before = subset_of({"per_class": {"images": 2}}, {"coarsen": {"map": str(file)}})
    assert len(taken(before)) == 24 and later.digest != before.digest
    _, labels = later.select("val", CLASSES, LABELS, IDS)
    assert labels.tolist() == [int(label < 6) for label in LABELS]


def test_a_map_in_the_layout_of_huh_et_al_is_read(tmp_path: Path):
    file = tmp_path / "train.txt"
    file.write_text(
        "".join(
            f"train/{name.split('/')[0]}/{name.split('/')[1]}.JPEG {LABELS[number] // 4}\n"
            for number, name in enumerate(NAMES)
        )
    )
    assert subset_of({"coarsen": {"map": str(file)}}).groups == tuple(
        tuple(CLASSES[4 * k : 4 * k + 4]) for k in range(3)
    )
    file.write_text("class00 1\nclass00 2\n")
    with pytest.raises(UserError, match="two labels"):
        subset_of({"coarsen": {"map": str(file)}})
    file.write_text("class00,1\n")
    with pytest.raises(UserError, match=r"11 of the classes no label.*\n.* other steps remove"):
        subset_of({"coarsen": {"map": str(file)}})


def test_a_file_of_examples_selects_training_images(tmp_path: Path):
    file = tmp_path / "kept.txt"
    chosen = NAMES[3::40]
    file.write_text("# kept\n" + "".join(f"train/{name}.JPEG\n" for name in chosen))
    subset = subset_of({"examples": str(file)})
    assert taken(subset) == set(chosen)
    file.write_text(
        "".join(f"{IDS[NAMES.index(name)]:#018x}\n" for name in chosen[1:]) + chosen[0] + "\n"
    )
    assert taken(subset_of({"examples": str(file)})) == set(chosen)
    file.write_text("class00/nobody\n")
    with pytest.raises(UserError, match="names 1 training images"):
        taken(subset_of({"examples": str(file)}))
    file.write_text("lonely.jpg\n")
    with pytest.raises(UserError, match="is not a class and an image"):
        taken(subset_of({"examples": str(file)}))


@pytest.mark.parametrize("name", available())
def test_every_packaged_subset_resolves_on_imagenet_and_has_a_comment(name):
    subset = resolve(named(name), imagenet_classes())
    assert subset.name == name and 1 <= len(subset.classes) <= 1000


@pytest.mark.parametrize("name", available())
def test_the_first_line_of_a_packaged_subset_gives_its_number_of_classes(name):
    number = len(resolve(named(name), imagenet_classes()).classes)
    comment = file_of(name).read_text().partition(" class")[0]
    assert comment == f"# {number}"


def test_equivalent_spellings_give_equal_specs(tmp_path: Path):
    content = {
        "name": "s",
        "steps": [
            {"under": ["n02084071"]},
            {"remove": {"hardest": 2, "by": "resnet18_val"}},
            {"per_class": {"images": 100}},
        ],
    }
    flat = {
        "name": "s",
        "under": ["n02084071"],
        "remove": {"hardest": 2, "by": "resnet18_val"},
        "per_class": 100,
    }
    (tmp_path / "s.yaml").write_text(
        "- under: [n02084071]\n- remove: {hardest: 2, by: resnet18_val}\n- per_class: 100\n"
    )
    (tmp_path / "s.yml").write_text(
        "under: [n02084071]\nremove: {hardest: 2, by: resnet18_val}\nper_class: 100\n"
    )
    spec = SubsetSpec.model_validate(content)
    assert SubsetSpec.model_validate(flat) == named(str(tmp_path / "s.yaml")) == spec
    assert named(str(tmp_path / "s.yml")) == spec
    assert len(resolve(spec, imagenet_classes()).classes) == 116
    for short, long in (
        ({"fraction": 0.3}, {"fraction": {"of": 0.3}}),
        ({"random": 5}, {"random": {"classes": 5}}),
    ):
        assert subset_of(short).digest == subset_of(long).digest
    # steps apply in order: half of the 20 easiest, not the 20 easiest of a half
    half = {"half": {"of": "random", "which": "A"}}
    keep = {"keep": {"easiest": 6}}
    first, second = (
        resolve(SubsetSpec.model_validate({"name": "s", **before, **after}), CLASSES, RANKING)
        for before, after in ((half, keep), (keep, half))
    )
    assert len(first.classes) == 6 and len(second.classes) == 3


def test_a_name_among_the_steps_is_replaced_by_its_steps():
    spec = SubsetSpec.model_validate(
        {"name": "s", "steps": ["in900", "pascal-removed", {"coarsen": {"bottom_up": 79}}]}
    )
    assert SubsetSpec.model_validate(spec.model_dump(mode="json")) == spec
    subset = resolve(spec, imagenet_classes())
    both = [
        set(resolve(named(name), imagenet_classes()).classes)
        for name in ("in900", "pascal-removed")
    ]
    assert set(subset.source_classes) == both[0] & both[1]


def test_images_of_val_are_chosen_if_the_step_names_val():
    for step in ("per_class", "fraction"):
        few = {"per_class": {"images": 2}, "fraction": {"of": 0.1}}[step]
        train_only, both = (
            subset_of({step: {**few, **more}}) for more in ({}, {"splits": ["train", "val"]})
        )
        assert (
            taken(train_only)
            == taken(both)
            == taken(both, "val")
            < taken(train_only, "val")
            == set(NAMES)
        )
        assert (
            train_only.digest
            != both.digest
            == subset_of({step: {**few, "splits": ["val", "train"]}}).digest
        )


def test_a_budget_is_independent_of_label_numbers():
    subset = subset_of({"budget": {"images": 103, "by": "examples"}})
    positions, _ = subset.select("train", CLASSES[::-1], 11 - LABELS, IDS)
    assert {NAMES[position] for position in positions} == taken(subset)


def test_numeric_labels_are_sorted_as_numbers(tmp_path: Path):
    (tmp_path / "map.csv").write_text(
        "".join(f"{name},{index}\n" for index, name in enumerate(CLASSES))
    )
    assert subset_of({"coarsen": {"map": str(tmp_path / "map.csv")}}).classes == tuple(
        map(str, range(12))
    )


def test_digests_equal_the_pinned_values():
    """Digests are pinned: a change alters the meaning of published subsets."""
    digests = {
        name: resolve(named(name), imagenet_classes()).digest[:12]
        for name in ("in900", "in900-random", "huh-79", "half-minimal-a", "in900-budget")
    }
    assert digests == {
        "in900": "946b8946e49f",
        "in900-random": "d38c0750cc6f",
        "huh-79": "15cd8eccd09a",
        "half-minimal-a": "c14e8f494f58",
        "in900-budget": "091e1eff5b97",
    }
    assert (
        subset_of({"per_class": {"images": 3}}).digest
        != subset_of({"per_class": {"images": 3, "seed": 1}}).digest
    )


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"perclass": {"images": 3}}], "Did you mean per_class"),
        ([{"per_class": {"image": 3}}], "image"),
        ([{"coarsen": {}}], "give one of"),
        ([{"coarsen": {"bottom_up": 80}}], "no bottom_up label set of 80"),
        ([{"exclude": {}}], "give one of"),
        ([{"exclude": {"related_to": "pet"}}], "pets"),
        ([{"budget": {"by": "examples"}}], "give one of"),
        ([{"fraction": {"of": 1.0}}], "less than 1"),
        ([{"half": {"of": "minimal", "which": "A", "seed": 3}}], "no effect"),
        ([{"random": {"classes": 0}}], "greater than"),
        (["in90"], "in900"),
        ([{"random": {"classes": 2}, "under": "n1"}], "one key"),
        ([{"remove": {"hardst": 3}}], "Did you mean hardest"),
        ([{"per_class": {"images": 3, "splits": ["trian"]}}], "train"),
        ([{"per_class": True}], "valid integer"),
        ([{"fraction": 2}], "less than 1"),
        ([{"examples": "nowhere.txt"}], "no file nowhere.txt"),
    ],
)
def test_invalid_steps_are_refused(steps, message):
    with pytest.raises(ValidationError, match=message):
        SubsetSpec.model_validate({"name": "s", "steps": steps})


def test_invalid_subset_files_are_refused(tmp_path: Path):
    for text, message in (
        ("steps: [", "not YAML"),
        ("3\n", "must be steps"),
        ("steps: [{under: 3}]\n", "s.yaml:1: steps.0"),
        ("step: []\n", "mean steps"),
        ("\nunder: n02084071\nper_clas: 3\n", "mean per_class"),
        ("- in900\n- remove: {hardst: 2}\n", r"s.yaml:2: steps.\d+.remove: .* mean hardest"),
        ("steps: []\nunder: n02084071\n", "order is clear"),
    ):
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            read_spec(tmp_path / "s.yaml")
    with pytest.raises(UserError, match="There is no file"):
        named(str(tmp_path / "absent.yaml"))
    with pytest.raises(UserError, match="in900"):
        named("in9000")
    with pytest.raises(UserError, match="draws 13 classes, and there are only 12"):
        subset_of({"random": {"classes": 13}})
