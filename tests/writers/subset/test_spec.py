"""Subsets of classes: remaining classes, their order, and invalid specs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from writers.errors import UserError
from writers.subset.lists import available
from writers.subset.ranking import Ranking
from writers.subset.spec import SubsetSpec, everything, named, resolve

CLASSES = [f"class{index:02d}" for index in range(20)]


def ranked(order: list[str]) -> Ranking:
    return Ranking(
        classes=tuple(order),
        accuracy={name: index / 20 for index, name in enumerate(order)},
        source="test",
        tie_break="none",
    )


@given(st.permutations(CLASSES), st.integers(1, 18), st.booleans())
def test_removing_n_by_a_ranking_keeps_the_source_order(order, number, hardest):
    spec = SubsetSpec.model_validate(
        {"name": "s", "remove": {"hardest" if hardest else "easiest": number}}
    )
    subset = resolve(spec, CLASSES, ranked(order))
    kept = order[number:] if hardest else order[:-number]
    assert subset.classes == tuple(sorted(kept))


@given(st.permutations(CLASSES), st.integers(1, 9), st.integers(10, 18))
def test_removals_are_nested(order, few, many):
    small, large = (
        resolve(
            SubsetSpec.model_validate({"name": "s", "remove": {"hardest": number}}),
            CLASSES,
            ranked(order),
        )
        for number in (many, few)
    )
    assert set(small.classes) < set(large.classes)


@pytest.mark.parametrize(
    ("share", "left"), [(0.1, 18), (0.2, 16), (0.02, 20), (0.025, 19), (0.5, 10)]
)
def test_a_fraction_is_rounded_half_up(share, left):
    spec = SubsetSpec.model_validate({"name": "s", "remove": {"hardest": share}})
    assert len(resolve(spec, CLASSES, ranked(CLASSES)).classes) == left


def test_hardest_and_easiest_are_removed_together():
    spec = SubsetSpec.model_validate({"name": "middle", "remove": {"hardest": 5, "easiest": 0.25}})
    assert resolve(spec, CLASSES, ranked(CLASSES)).classes == tuple(CLASSES[5:15])


def test_a_ranking_is_restricted_to_the_listed_classes():
    spec = SubsetSpec.model_validate(
        {"name": "s", "classes": CLASSES[10:], "remove": {"hardest": 2}}
    )
    assert resolve(spec, CLASSES, ranked(CLASSES)).classes == tuple(CLASSES[12:])


def test_the_digest_covers_classes_and_order():
    assert everything(CLASSES).digest == resolve(named("all"), CLASSES).digest
    assert (
        len(
            {
                everything(CLASSES).digest,
                everything(CLASSES[::-1]).digest,
                everything(CLASSES[:-1]).digest,
            }
        )
        == 3
    )
    # printf 'a\nb' | sha256sum
    assert (
        everything(["a", "b"]).digest
        == "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78"
    )


@pytest.mark.parametrize(("name", "number"), [("in1000", 1000), ("in900", 900), ("in800", 800)])
def test_the_imagenet_subsets_have_their_number_of_classes(name, number):
    classes = named("in1000").classes
    assert classes is not None and len(set(classes)) == 1000
    subset = resolve(named(name), classes)
    assert len(subset.classes) == number
    assert list(subset.classes) == sorted(subset.classes)


def test_the_imagenet_subsets_match_the_packaged_ranking():
    classes = named("in1000").classes
    for name, number in (("in900", 100), ("in800", 200)):
        spec = SubsetSpec.model_validate(
            {"name": "s", "remove": {"hardest": number, "by": "resnet18_val"}}
        )
        assert resolve(spec, classes).classes == resolve(named(name), classes).classes


def test_a_bare_name_is_a_valid_spec():
    assert SubsetSpec.model_validate("in900") == named("in900")
    assert SubsetSpec.model_validate("all").is_everything
    assert set(available()) >= {"in1000", "in800", "in900"}
    with pytest.raises(ValidationError, match="in900"):
        SubsetSpec.model_validate("in90")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "s", "remove": {}}, "give a number"),
        ({"name": "s", "remove": {"hardest": 0}}, "greater than or equal to 1"),
        ({"name": "a/b"}, "should match pattern"),
        ({}, "Field required"),
        ({"name": "s", "remove": {"hardest": 1.5}}, "less than 1"),
        ({"name": "s", "classes": []}, "at least 1 item"),
        ({"name": "s", "of": 1}, "no step named 'of'"),
        ({"name": "s", "remove": {"hardest": 1.0}}, "less than 1"),
        ({"name": "s", "remove": {"easiest": True}}, "valid integer"),
        ({"name": "s", "remove": {"hardest": "3"}}, "valid integer"),
        ({"name": "s", "classes": ["a", "b", "a"]}, "the class a is listed twice"),
    ],
)
def test_invalid_specs_are_refused(spec, words):
    with pytest.raises(ValidationError, match=words):
        SubsetSpec.model_validate(spec)


def test_an_unresolvable_spec_names_the_class():
    with pytest.raises(UserError, match="zebra"):
        resolve(SubsetSpec(name="s", classes=("class01", "zebra")), CLASSES)
    spec = SubsetSpec.model_validate({"name": "s", "remove": {"hardest": 1}})
    with pytest.raises(UserError, match="reference model"):
        resolve(spec, CLASSES)
    with pytest.raises(UserError, match="class19"):
        resolve(spec, CLASSES, ranked(CLASSES[:-1]))
    for end in ("hardest", "easiest"):
        for number in (20, 25):
            with pytest.raises(UserError, match="none of the"):
                resolve(
                    SubsetSpec.model_validate({"name": "s", "remove": {end: number}}),
                    CLASSES,
                    ranked(CLASSES),
                )


def test_a_ranking_file_is_identified_by_its_contents(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("class,accuracy\na,0.5\nb,0.6\n")
    content = {"name": "s", "remove": {"hardest": 1, "by": str(file)}}
    spec = SubsetSpec.model_validate(content)
    assert resolve(spec, ["a", "b"]).classes == ("b",)
    assert SubsetSpec.model_validate(spec.model_dump(mode="json")) == spec
    file.write_text("class,accuracy\na,0.7\nb,0.6\n")
    assert SubsetSpec.model_validate(content) != spec
    with pytest.raises(ValidationError, match="has changed"):
        SubsetSpec.model_validate(spec.model_dump(mode="json"))
    with pytest.raises(ValidationError, match="resnet18_val"):
        SubsetSpec.model_validate({"name": "s", "remove": {"hardest": 1, "by": "resnet18"}})
