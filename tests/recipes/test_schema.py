"""The JSON schema for editors is up to date, accepts all shipped recipes, refuses unknown keys."""

import copy
from typing import Any

import pytest
from ruamel.yaml import YAML

from harness.config import load as recipe
from harness.config import schema as recipe_schema

jsonschema = pytest.importorskip(
    "jsonschema", reason="checks recipes against the schema: pip install jsonschema"
)


def content(name: str) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load((recipe.FOLDER / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def checker() -> Any:
    schema = recipe_schema.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_file_is_generated_from_the_settings():
    found = (recipe.FOLDER / "recipe.schema.json").read_text()
    assert found == recipe_schema.text(), (
        "run: python -m harness.config.schema > recipes/recipe.schema.json"
    )


@pytest.mark.parametrize("name", recipe.available())
def test_every_recipe_fits_the_schema_and_names_it(name: str, checker: Any):
    checker.validate(content(name))
    first = (recipe.FOLDER / f"{name}.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=recipe.schema.json"


@pytest.mark.parametrize(
    "place",
    [
        "",
        "pretrain",
        "scales.tiny",
        "scales.tiny.pretrain",
        "methods.fixed",
        "ranking",
        "exclude.0",
    ],
)
def test_the_schema_refuses_an_unknown_key(place: str, checker: Any):
    wrong = copy.deepcopy(content("fewer_classes") | {"pretrain": {}, "methods": {"fixed": {}}})
    wrong["scales"]["tiny"]["pretrain"] = {}
    inner: Any = wrong
    for part in filter(None, place.split(".")):
        inner = inner[int(part) if part.isdigit() else part]
    checker.validate(wrong)
    inner["epochss"] = 3
    assert not checker.is_valid(wrong)


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("in900", True),
        ("mine.yaml", True),
        ({"name": "few", "per_class": 100}, True),
        ({"name": "few", "fraction": 0.5}, True),
        (
            {
                "name": "few",
                "steps": [
                    "in900",
                    {"coarsen": {"bottom_up": 79}},
                    {"random": {"classes": 9, "seed": 1}},
                ],
            },
            True,
        ),
        ({"name": "few", "remove": {"hardest": 0.1, "by": "reference"}}, True),
        ({"name": "few", "granularity": {"top_down": 10}, "el2n": 0.8}, True),
        ({"name": "few", "label_mapping": {"target": "pets", "keep": 0.8}}, True),
        ({"name": "few", "influence": {"target": "pets", "drop": "negative"}}, True),
        ({"name": "few", "budget": {"images": 1000, "classes": 10}}, True),
        ({"name": "few", "label_mapping": {"keep": "half"}}, False),
        ({"name": "few", "keep": 3}, False),
        ({"name": "few", "per_classs": 100}, False),
        ({"per_class": 100}, False),
        (7, False),
        ({"name": "few", "steps": [{"per_class": 1, "random": 1}, 3]}, False),
    ],
)
def test_the_schema_checks_subsets(value: Any, fits: bool, checker: Any):
    assert checker.is_valid({"name": "a", "subsets": [value]}) == fits
