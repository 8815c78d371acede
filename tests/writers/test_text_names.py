"""Numbers with nouns in messages: singular and plural."""

import ast
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT
from writers.text_names import counted

NOUNS = re.compile(
    r" (more )?(batches|betons|classes|columns|entries|files|folders|images|labels|mistakes|models|"
    r"points|problems|records|rows|samples|seeds|shards|stages|subsets|targets|tensors)\b(?!/)"
)
# Expressions that are sizes set by a user, or always above 1.
EXPRESSIONS = {
    "size",
    "size // (parts // 2)",
    "plan.batch_size",
    "settings['batch_size']",
    "spec['per_class']",
    "self.random.classes",
    "sizes[label]",
    "len(pictures.classes)",
    "manifest.num_samples",
    "done",
}


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (1000, "entry", "1,000 entries"),
        (2, "day", "2 days"),
        (2, "batch", "2 batches"),
        (3, "more model", "3 more models"),
    ],
)
def test_numbers_have_their_noun_in_the_singular_or_plural(number: int, noun: str, text: str):
    assert counted(number, noun) == text


def test_the_verb_agrees():
    assert counted(1, "class", ("has", "have")) == "1 class has"
    assert counted(0, "class", ("has", "have")) == "0 classes have"


def plurals(path: Path) -> list[tuple[str, str]]:
    """Find f-strings with a number before a plural noun, which are wrong for 1.

    Returns the expression and the place of each number.
    """
    return [
        (ast.unparse(number.value), f"{path.relative_to(ROOT)}:{number.lineno}: {text.value[:20]}")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr)
        for number, text in zip(node.values, node.values[1:], strict=False)
        if isinstance(number, ast.FormattedValue)
        and isinstance(text, ast.Constant)
        and NOUNS.match(str(text.value))
        and not ast.unparse(number.value).isupper()  # constants
    ]


def test_messages_count_in_the_singular_and_plural():
    # Reports are excluded, as they have their own phrases, and so are benchmarks.
    places = [
        path
        for folder in ("harness", "loaders", "writers")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not {"report", "benches", "tools"} & set(path.relative_to(ROOT).parts)
    ]
    found = [plural for path in places for plural in plurals(path)]
    assert {expression for expression, _ in found} == EXPRESSIONS, found
