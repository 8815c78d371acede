"""Steps that select by scores: what they keep, nested shares, digests, and bad input."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from writers.errors import UserError
from writers.random_streams import sample_ids
from writers.subset.scores import (
    ClassScores,
    ImageScores,
    ScoreRequest,
    Scores,
    read_class_scores,
)
from writers.subset.spec import Subset, SubsetSpec, resolve

CLASSES = [f"class{index:02d}" for index in range(6)]
LABELS = np.repeat(np.arange(6), 10)
NAMES = [f"{CLASSES[label]}/{number}" for number, label in enumerate(LABELS)]
IDS = sample_ids(NAMES)
HARD = np.random.default_rng(0).permutation(60).astype(float)  # scores, all different
VALUE = dict(zip(CLASSES, [0.3, -0.2, 0.0, 0.5, -0.1, 0.3], strict=True))
OF_CLASSES = ClassScores(
    VALUE,
    {name: value - 0.15 for name, value in VALUE.items()},
    {name: value + 0.15 for name, value in VALUE.items()},
    "test",
)
CLUSTERS = np.arange(60) % 4
NEAR = np.array([5.0, 0.0, 9.0, 5.0])
SCORES: dict[str, Scores] = {
    "el2n": ImageScores(IDS, HARD, None, "test"),
    "forgetting": ImageScores(IDS, np.zeros(60), None, "test"),
    "prototypes:clusters 4": ImageScores(IDS, HARD, CLUSTERS, "test"),
    "label_mapping:pets": OF_CLASSES,
    "influence:pets": OF_CLASSES,
    "influence:pets:dtd": OF_CLASSES,
    "feature_mapping:pets:clusters 4": ImageScores(IDS, NEAR[CLUSTERS], CLUSTERS, "test"),
}


def subset_of(*steps: dict, scores: dict[str, Scores] | None = None) -> Subset:
    spec = SubsetSpec.model_validate({"name": "s", "steps": list(steps)})
    assert SubsetSpec.model_validate_json(spec.model_dump_json(), strict=True) == spec
    counts = dict.fromkeys(CLASSES, 10)
    return resolve(spec, CLASSES, class_counts=counts, scores=SCORES if scores is None else scores)


def kept(subset: Subset, split: str = "train", order: np.ndarray | None = None) -> set[str]:
    order = np.arange(60) if order is None else order
    positions, _ = subset.select(split, CLASSES, LABELS[order], IDS[order])
    assert (np.diff(positions) > 0).all()
    return {NAMES[order[position]] for position in positions}


@pytest.mark.parametrize("key", ["el2n", "prototypes"])
@pytest.mark.parametrize("part", ["hardest", "easiest", "middle"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.25])
def test_images_are_kept_by_rank(key: str, part: str, share: float):
    own = {"clusters": 4} if key == "prototypes" else {}
    found = kept(subset_of({key: {"keep": part, "share": share, **own}}))
    number = round(60 * share)
    ranked = [NAMES[index] for index in np.argsort(HARD)]
    start = {"easiest": 0, "hardest": 60 - number, "middle": (60 - number) // 2}[part]
    assert found == set(ranked[start : start + number])


def test_val_keeps_all_images_and_order_does_not_matter():
    subset = subset_of({"el2n": 0.5})
    assert len(kept(subset, "val")) == 60
    shuffled = np.random.default_rng(1).permutation(60)
    assert kept(subset) == kept(subset, order=shuffled)


@pytest.mark.parametrize("part", ["hardest", "easiest"])
def test_equal_scores_are_drawn_with_a_seed_and_shares_are_nested(part: str):
    def drawn(share: float, seed: int = 0) -> set[str]:
        return kept(subset_of({"forgetting": {"keep": part, "share": share, "seed": seed}}))

    assert drawn(0.3) < drawn(0.6) < drawn(0.9)
    assert drawn(0.3) != drawn(0.3, seed=1) and drawn(0.3) == drawn(0.3)


def test_a_balanced_share_takes_as_many_of_each_class():
    found = kept(subset_of({"el2n": {"share": 0.4, "balanced": True}}))
    for label, name in enumerate(CLASSES):
        own = sorted((index for index in range(60) if LABELS[index] == label), key=HARD.__getitem__)
        assert {n for n in found if n.startswith(name)} == {NAMES[index] for index in own[-4:]}


def test_a_budget_like_a_share_has_as_many_images(tmp_path: Path):
    steps = [{"classes": CLASSES[:5]}, {"el2n": 0.5}]
    file = tmp_path / "other.yaml"
    file.write_text(SubsetSpec.model_validate({"name": "o", "steps": steps}).model_dump_json())
    found = kept(subset_of({"budget": {"like": str(file), "by": "examples"}}))
    assert len(found) == len(kept(subset_of(*steps))) == 25


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"label_mapping": {"target": "pets", "keep": 0.5}}, [0, 3, 5]),
        ({"label_mapping": {"target": "pets", "keep": 2}}, [0, 3]),  # the name breaks the tie
        ({"influence": {"target": "pets", "keep": 1}}, [3]),
        ({"influence": {"target": "pets", "drop": 2}}, [0, 2, 3, 5]),
        ({"influence": {"target": "pets", "drop": "negative"}}, [0, 2, 3, 5]),
        ({"influence": {"target": "pets", "keep": "positive"}}, [0, 3, 5]),
        ({"influence": {"target": "pets", "drop": "negative", "certain": True}}, [0, 2, 3, 4, 5]),
        ({"influence": {"target": ["pets", "dtd"], "keep": 0.5}}, [0, 3, 5]),
    ],
)
def test_classes_are_kept_by_score(step: dict, expected: list[int]):
    assert subset_of(step).classes == tuple(CLASSES[index] for index in expected)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"keep": 1}, [3]),
        ({"keep": 4}, [0, 1, 2, 3]),  # 1 and 2 are unknown: by name before 5, whose score is 0
        ({"drop": 1}, [0, 1, 2, 3, 5]),
        ({"drop": "negative"}, [0, 1, 2, 3, 5]),
        ({"keep": "positive"}, [0, 3]),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_an_unknown_influence_is_neither_positive_nor_negative(
    step: dict, expected: list[int], reverse: bool
):
    """If few models train on random halves, some classes are in all of the halves or in none."""
    numbers = [0.1, np.nan, np.nan, 0.5, -0.1, 0.0]
    value = dict(zip(CLASSES, numbers, strict=True))
    scores = {"influence:pets": ClassScores(value, value, value, "test")}
    classes = CLASSES[::-1] if reverse else CLASSES
    spec = SubsetSpec.model_validate(
        {"name": "s", "steps": [{"influence": {"target": "pets", **step}}]}
    )
    assert set(resolve(spec, classes, scores=scores).classes) == {CLASSES[i] for i in expected}


def test_an_empty_tie_break_of_a_file_is_zero(tmp_path: Path):
    file = tmp_path / "s.csv"
    file.write_text("class,score,tie_break\na,0,-1\nb,0,\nc,0,2\nd,0,\n")
    for classes in ("abcd", "dcba", "bdac"):
        assert read_class_scores(file).ranked(classes) == ["c", "b", "d", "a"]


def test_feature_mapping_keeps_whole_clusters():
    for keep, numbers in ((1, {2}), (0.5, {2, 0}), (3, {2, 0, 3})):
        step = {"feature_mapping": {"target": "pets", "keep": keep, "clusters": 4}}
        expected = {NAMES[index] for index in range(60) if CLUSTERS[index] in numbers}
        assert kept(subset_of(step)) == expected, keep


def test_the_digest_depends_on_scores_and_not_on_their_order():
    step = {"el2n": 0.5}
    shuffled = np.random.default_rng(2).permutation(60)
    same = ImageScores(IDS[shuffled], HARD[shuffled], None, "elsewhere")
    other = ImageScores(IDS, HARD[::-1].copy(), None, "test")
    digest = subset_of(step).digest
    assert subset_of(step, scores={"el2n": same}).digest == digest
    assert subset_of(step, scores={"el2n": other}).digest != digest
    assert kept(subset_of(step, scores={"el2n": same})) == kept(subset_of(step))


def test_requests_name_what_the_recipe_has_to_compute():
    spec = SubsetSpec.model_validate(
        {
            "name": "s",
            "steps": [
                {"el2n": 0.5},
                {"el2n": 0.4},
                {"feature_mapping": {"target": "pets", "keep": 0.5, "seed": 3}},
                {"influence": {"target": ["dtd", "pets"], "keep": 0.5}},
            ],
        }
    )
    assert spec.requests == [
        ScoreRequest("el2n"),
        ScoreRequest("feature_mapping", ("pets",), None, 3),
        ScoreRequest("influence", ("dtd", "pets")),
    ]
    assert spec.selection_targets == ("pets", "dtd")
    assert len({request.role for request in spec.requests}) == 3


def test_a_budget_is_spread_over_a_number_of_classes():
    for number in (1, 2, 4):
        subset = subset_of({"budget": {"images": 8, "classes": number}})
        assert len(subset.classes) == number
        found = kept(subset)
        assert [sum(n.startswith(name) for n in found) for name in subset.classes] == [
            8 // number
        ] * number
    smaller = set(subset_of({"budget": {"images": 8, "classes": 2}}).classes)
    assert smaller < set(subset_of({"budget": {"images": 8, "classes": 4}}).classes)


def test_coarsen_is_the_earlier_name_of_granularity(tmp_path: Path):
    file = tmp_path / "map.csv"
    file.write_text("".join(f"{name},{index % 2}\n" for index, name in enumerate(CLASSES)))
    old = SubsetSpec.model_validate({"name": "s", "coarsen": {"map": str(file)}})
    new = SubsetSpec.model_validate({"name": "s", "granularity": {"map": str(file)}})
    assert old == new and old.keeps_all_images
    assert old == SubsetSpec.model_validate(
        {"name": "s", "steps": [{"coarsen": {"map": str(file)}}]}
    )


def test_scores_are_read_from_files(tmp_path: Path):
    classes, images = tmp_path / "classes.csv", tmp_path / "images.csv"
    classes.write_text(
        "# comment\nclass,score\n" + "".join(f"{name},{VALUE[name]}\n" for name in CLASSES)
    )
    images.write_text(
        "image,score,cluster\n"
        + "".join(f"train/{NAMES[i]}.JPEG,{NEAR[CLUSTERS[i]]},{CLUSTERS[i]}\n" for i in range(60))
    )
    by_file = subset_of({"label_mapping": {"by": str(classes), "keep": 0.5}}, scores={})
    assert by_file.classes == subset_of({"label_mapping": {"target": "pets", "keep": 0.5}}).classes
    by_file = subset_of({"feature_mapping": {"by": str(images), "keep": 2}}, scores={})
    from_recipe = subset_of({"feature_mapping": {"target": "pets", "keep": 2, "clusters": 4}})
    assert kept(by_file) == kept(from_recipe)
    ids = tmp_path / "ids.csv"
    ids.write_text("image,score\n" + "".join(f"0x{IDS[i]:016x},{HARD[i]}\n" for i in range(60)))
    assert kept(subset_of({"el2n": {"by": str(ids), "share": 0.3}}, scores={})) == kept(
        subset_of({"el2n": 0.3})
    )
    spec = SubsetSpec.model_validate({"name": "s", "el2n": {"by": str(ids), "share": 0.3}})
    ids.write_text(ids.read_text().replace(f",{HARD[0]}\n", ",99\n"))
    with pytest.raises(ValidationError, match="has changed since"):
        SubsetSpec.model_validate(spec.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must name the columns class,score"),
        ("class,accuracy\na,1\n", "the first line must name"),
        ("class,score\n", "has no score"),
        ("class,score\na,x\n", "scores.csv:2: 'x' is not a number"),
        ("class,score\na,nan\n", "is not a number"),
        ("class,score\n\n# c\na,1\na,2\n", "scores.csv:5: class a is listed twice"),
        ("class,score\na,1,2\n", "3 columns, and the header has 2"),
        ("class,score\nclass00,1\n", "lacks 5 classes of the source: class01"),
    ],
)
def test_damaged_files_of_scores_are_refused_in_one_line(text: str, message: str, tmp_path: Path):
    file = tmp_path / "scores.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        subset_of({"label_mapping": {"by": str(file), "keep": 0.5}})


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"el2n": {"share": 1.0}}, "less than 1"),
        ({"el2n": {"share": 0.5, "keep": "best"}}, "hardest"),
        ({"label_mapping": {"keep": 0.5}}, "name the target"),
        ({"label_mapping": {"target": "pets", "by": "no.csv", "keep": 1}}, "There is no file"),
        ({"influence": {"target": "pets"}}, "give one of keep"),
        ({"influence": {"target": "pets", "keep": 1, "drop": 1}}, "give one of keep"),
        ({"influence": {"target": "pets", "keep": 1, "certain": True}}, "certain goes with"),
        ({"influence": {"target": "pets", "drop": "positive"}}, "drop"),
        ({"budget": {"images": 8, "classes": 2, "by": "examples"}}, "give one of by"),
        ({"budget": {"images": 8}}, "give one of by"),
        ({"lable_mapping": {"target": "pets", "keep": 1}}, "label_mapping"),
    ],
)
def test_invalid_settings_are_refused(step: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        subset_of(step)


def test_missing_scores_are_named():
    with pytest.raises(UserError, match="selects by el2n scores of a recipe's models"):
        subset_of({"el2n": 0.5}, scores={})
    few = ImageScores(IDS[:50], HARD[:50], None, "test")
    with pytest.raises(UserError, match="10 of 60 training images have no score"):
        kept(subset_of({"el2n": 0.5}, scores={"el2n": few}))
    with pytest.raises(UserError, match="spread over 7 classes, and there are 6"):
        subset_of({"budget": {"images": 8, "classes": 7}})
    flat = ImageScores(IDS, HARD, None, "test")
    step = {"feature_mapping": {"target": "pets", "keep": 1, "clusters": 4}}
    with pytest.raises(UserError, match="no clusters"):
        subset_of(step, scores={"feature_mapping:pets:clusters 4": flat})
