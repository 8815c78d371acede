"""JSON Schema of recipes, for editors: keys, their values, and known names.

    python -m harness.config.schema > recipes/recipe.schema.json

The first line of a recipe names the schema: `# yaml-language-server: $schema=recipe.schema.json`.
The schema accepts every valid recipe; reading a recipe checks more than a schema can express.
"""

import json
import sys
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import models_json_schema

from harness.config import pretrain_presets, transfer_presets
from harness.config.methods import available, settings_model
from harness.config.recipe import Recipe
from loaders.augmentations.settings import PRESETS
from writers import names
from writers.subset import lists
from writers.subset.registry import EARLIER_NAMES, STEPS

JSON = dict[str, Any]


def schema() -> JSON:
    """Build the schema of a recipe's file.

    A file is merged with its base and its scale before it is checked. So the schema requires no
    key, and every value may be null.
    """
    recipe = Recipe.model_json_schema()
    settings: JSON = recipe["properties"]
    definitions: JSON = recipe["$defs"]
    methods = _methods(definitions)
    settings["methods"]["additionalProperties"] = {"anyOf": methods}
    for definition in definitions.values():
        definition.pop("required", None)
        definition["description"] = definition.get("description", "").split("\n\n")[0]
    definitions["SubsetSpec"] = _subset(definitions)
    definitions["ModelSettings"] = {"anyOf": [{"type": "string"}, definitions["ModelSettings"]]}
    definitions["LabelTable"] = _label_table(definitions["LabelTable"])
    definitions["DataSettings"]["properties"]["dataset"] = _known(
        "dataset", names.names("writers.datasets")
    )
    definitions["PretrainSettings"]["properties"]["preset"] = _known(
        "preset", sorted(pretrain_presets.PRESETS)
    )
    definitions["Augmentations"]["properties"]["preset"] = _known("preset", sorted(PRESETS))
    definitions["Augmentations"] = {
        "anyOf": [_known("preset", sorted(PRESETS)), definitions["Augmentations"]]
    }
    settings["archs"]["items"] = _known("model", names.names("harness.modeling.archs"))
    settings["base"] = {
        "description": "Recipe that this file extends: a name, or a path relative to this file.",
        "type": "string",
    }
    settings["scale"] = {
        "description": "One of `scales`, which overrides the other settings.",
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
        "description": "Other sizes of the same study: settings that override the others.",
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/Settings"},
    }
    for definition in (recipe, *definitions.values()):
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
    """Add a definition for the settings of each method; return references to the definitions."""
    models = [settings_model(name) for name in available()]
    _, more = models_json_schema([(model, "validation") for model in models])
    definitions |= more["$defs"]
    del definitions["MethodSettings"]
    for model in models:
        properties = definitions[model.__name__]["properties"]
        properties["preset"] = _known("preset", sorted(transfer_presets.METHOD_PRESETS))
        properties["method"] = _known("method", available())
    return [{"$ref": f"#/$defs/{model.__name__}"} for model in models]


def text() -> str:
    """Content of the schema's file."""
    return json.dumps(schema(), indent=1) + "\n"


def _label_table(definition: JSON) -> JSON:
    """Schema of a table of labels: a file, a list of files, or settings."""
    properties = definition["properties"]
    text = {"type": "string"}
    for name in ("files", "label_columns"):
        properties[name] = {"anyOf": [text, properties[name]]}
    return {"anyOf": [text, {"type": "array", "items": text}, definition]}


def _subset(definitions: JSON) -> JSON:
    """Schema of a subset: a name, or a mapping with a name and either steps or a list of steps."""
    steps = {key: _step(key, definitions) for key in STEPS}
    steps |= {old: steps[new] for old, new in EARLIER_NAMES.items()}
    single_steps = [
        {"type": "object", "additionalProperties": False, "properties": {key: step}}
        for key, step in steps.items()
    ]
    step_list = {
        "description": "Steps in order; the name of a subset stands for its steps.",
        "type": "array",
        "items": {"anyOf": [_named_subset(), *single_steps]},
    }
    properties = {"name": {"type": "string"}, **steps, "steps": step_list}
    of_each = {
        "description": "A subset for every combination of values; {name} stands for a value.",
        "type": "object",
        "properties": {
            "each": {"type": "object", "additionalProperties": {"type": ["array", "string"]}},
            "name": {"type": "string"},
            **{key: {} for key in (*steps, "steps")},
        },
        "additionalProperties": False,
        "required": ["each", "name"],
    }
    return {
        "anyOf": [
            _named_subset(),
            of_each,
            {
                "type": "object",
                "additionalProperties": False,
                "properties": properties,
                "required": ["name"],
            },
        ]
    }


def _step(key: str, definitions: JSON) -> JSON:
    """Schema of the value of a step's key, which may be a single number for some steps."""
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
    """Schema of a string with suggestions for editors."""
    return {"description": f"A {what}.", "anyOf": [{"enum": known}, {"type": "string"}]}


if __name__ == "__main__":
    sys.stdout.write(text())
