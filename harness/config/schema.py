"""The JSON Schema of recipes, for editors: what keys there are, what they take, and which names are known.

    python -m harness.config.schema > recipes/recipe.schema.json

A recipe names it in its first line: `# yaml-language-server: $schema=recipe.schema.json`. It never
refuses what reading accepts; reading a recipe checks more than a schema can say.
"""

import json
import sys
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import models_json_schema

from harness.config import pretrain_presets as presets
from harness.config import transfer_presets as method_presets
from harness.config.methods import available, settings_model
from harness.config.recipe import Recipe
from writers import names
from writers.subset import lists
from writers.subset.registry import STEPS

JSON = dict[str, Any]


def schema() -> JSON:
    """Of a recipe's file, before its base and its scale are laid together: a part of a setting may be missing, or null."""
    whole = Recipe.model_json_schema()
    settings: JSON = whole["properties"]
    definitions: JSON = whole["$defs"]
    methods = _methods(definitions)
    settings["methods"]["additionalProperties"] = {"anyOf": methods}
    for definition in definitions.values():
        definition.pop("required", None)
        definition["description"] = definition.get("description", "").split("\n\n")[0]
    definitions["SubsetSpec"] = _subset(definitions)
    definitions["ModelSettings"] = {"anyOf": [{"type": "string"}, definitions["ModelSettings"]]}
    definitions["DataSettings"]["properties"]["dataset"] = _known(
        "dataset", names.names("writers.datasets")
    )
    definitions["PretrainSettings"]["properties"]["preset"] = _known(
        "preset", sorted(presets.PRESETS)
    )
    settings["archs"]["items"] = _known("model", names.names("harness.modeling.archs"))
    settings["base"] = {
        "description": "What this file does not say: a recipe's name, or a path from here.",
        "type": "string",
    }
    settings["scale"] = {
        "description": "One of `scales`, which then lies over the rest.",
        "type": ["string", "integer"],
    }
    definitions["Settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            key: value for key, value in settings.items() if key not in ("base", "scale")
        },
    }
    settings["scales"] = {
        "description": "Other sizes of the same question: settings that lie over the rest.",
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/Settings"},
    }
    for definition in (whole, *definitions.values()):
        for key, value in definition.get("properties", {}).items():
            definition["properties"][key] = {"anyOf": [value, {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of harness",
        "type": "object",
        "additionalProperties": False,
        "properties": settings,
        "$defs": definitions,
    }


def _methods(definitions: JSON) -> list[JSON]:
    """Add a definition for the settings of each method; returns references to them."""
    models = [settings_model(name) for name in available()]
    _, more = models_json_schema([(model, "validation") for model in models])
    definitions |= more["$defs"]
    del definitions["MethodSettings"]
    for model in models:
        properties = definitions[model.__name__]["properties"]
        properties["preset"] = _known("preset", sorted(method_presets.METHOD_PRESETS))
        properties["method"] = _known("method", available())
    return [{"$ref": f"#/$defs/{model.__name__}"} for model in models]


def text() -> str:
    """As it stands in the file."""
    return json.dumps(schema(), indent=1) + "\n"


def _subset(definitions: JSON) -> JSON:
    """A name, or a mapping of steps: their keys beside the name, or a list of them and of names."""
    steps = {key: _step(key, definitions) for key in STEPS}
    one = [
        {"type": "object", "additionalProperties": False, "properties": {key: step}}
        for key, step in steps.items()
    ]
    of_lists = {
        "description": "Steps in their order, or names of subsets in their place.",
        "type": "array",
        "items": {"anyOf": [_named_subset(), *one]},
    }
    properties = {"name": {"type": "string"}, **steps, "steps": of_lists}
    return {
        "anyOf": [
            _named_subset(),
            {
                "type": "object",
                "additionalProperties": False,
                "properties": properties,
                "required": ["name"],
            },
        ]
    }


def _step(key: str, definitions: JSON) -> JSON:
    """What may stand behind a step's key; where a number alone may, that, too."""
    definition = definitions[STEPS[key].__name__]
    value: JSON = {"description": definition["description"], **definition["properties"][key]}
    return (
        {"anyOf": [{"type": "number"}, value]}
        if any(_accepts(key, number) for number in (1, 0.5))
        else value
    )


def _accepts(key: str, number: float) -> bool:
    try:
        STEPS[key].model_validate({key: number})
    except ValidationError:
        return False
    return True


def _named_subset() -> JSON:
    return _known("subset", ["all", *lists.available()])


def _known(what: str, known: list[str]) -> JSON:
    """A text, and what an editor may suggest."""
    return {"description": f"A {what}.", "anyOf": [{"enum": known}, {"type": "string"}]}


if __name__ == "__main__":
    sys.stdout.write(text())
