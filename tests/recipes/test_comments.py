"""Commands in the comments of recipes work, and numbers of configurations there are correct."""

import re
import shlex

import pytest

from harness.config import load as recipe
from harness.config.grid import num_configs, trials
from harness.matrix.expand import expand

SPECIAL = set("{}[]*?~$()<>|&;`")  # characters that bash or zsh interprets outside quotes


def typed() -> list[tuple[str, str]]:
    """Return (recipe, text from `--set` to the end) of each comment line with `--set`."""
    return [
        (name, line[line.index("--set") :])
        for name in recipe.available()
        for line in (recipe.FOLDER / f"{name}.yaml").read_text().splitlines()
        if line.startswith("#") and "--set" in line
    ]


@pytest.mark.parametrize(("name", "text"), typed())
def test_settings_in_comments_can_be_typed(name: str, text: str) -> None:
    given = re.findall(r"--set ('[^']*'|\S+)", text)
    assert given and not [word for word in given if SPECIAL & set(re.sub("'[^']*'", "", word))]
    assert expand(recipe.read(name, [shlex.split(word)[0] for word in given])).stages


def test_numbers_of_configurations_equal_those_in_the_comments() -> None:
    methods = recipe.read("non_binary").methods
    assert {label: num_configs(settings) for label, settings in methods.items()} == {
        "default": 3,
        "scratch": 3,
        "l2sp": 48,
        "fixed": 2,
    }
    methods = recipe.read("better_models").methods
    assert len(trials(methods["full"])) == len(trials(methods["scratch"])) == 56
