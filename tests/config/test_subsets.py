"""Subsets in recipes: all ways to write them are read, and a mistake is named with its line."""

from pathlib import Path

import pytest

from harness.config import load as recipe
from harness.matrix.expand import expand
from writers.errors import UserError
from writers.subset.spec import named

RECIPE = """\
name: t
source: {dataset: imagenet}
subsets:
"""


def read(folder: Path, subsets: str) -> recipe.Recipe:
    (folder / "t.yaml").write_text(RECIPE + subsets)
    return recipe.read(folder / "t.yaml")


def test_every_spelling_of_a_subset_is_read(tmp_path: Path):
    subsets = read(
        tmp_path,
        """\
  - in900
  - huh-79
  - {name: listed, classes: [n02085936, n02086079], remove: {easiest: 1, by: resnet18_val}}
  - {name: dogs, under: n02084071, per_class: 100}
  - name: steps
    steps:
      - in900
      - exclude: {related_to: [pets, pascal]}
      - per_class: {images: 50, splits: [train, val]}
""",
    ).subsets
    assert subsets[:2] == (named("in900"), named("huh-79"))
    assert [len(subset.all_steps) for subset in subsets] == [1, 1, 2, 2, 3]


def test_equal_subsets_have_equal_stages_however_they_are_written(tmp_path: Path):
    written = [
        "{name: s, under: n02084071, per_class: 100}",
        "{name: s, steps: [{under: n02084071}, {per_class: {images: 100}}]}",
        "{name: s, under: n02084071, per_class: 101}",
    ]
    keys = [expand(read(tmp_path, f"  - {one}\n")).stages[0].key for one in written]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (
            "{name: x, steps: [{remve: {hardest: 5}}]}",
            "t.yaml:4: subsets.0.steps.0: .* mean remove",
        ),
        (
            "\n    name: x\n    steps:\n      - under: n02084071\n      - granularity: {botom_up: 79}",
            "t.yaml:8: subsets.0.steps.1.granularity: .* mean bottom_up",
        ),
        ("{name: x, undr: n02084071}", "t.yaml:4: subsets.0: .* mean under"),
        ("{name: x, steps: [in90]}", "in900"),
        ("{name: x, under: n02084071, steps: []}", "order is clear"),
        ("{name: x, per_class: 0}", "greater than or equal to 1"),
        ("{name: x, steps: 3}", "must be a list"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, subset: str, message: str):
    with pytest.raises(UserError, match=message):
        read(tmp_path, f"  - {subset}\n")
