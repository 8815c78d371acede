"""Merging leaderboards ("boards") is idempotent and independent of their order.

Errors name contradictions.
"""

import itertools
import shutil
from pathlib import Path

import pytest

from harness.report.board import exported, extract, site
from harness.report.board.merge import merge
from tests.helpers.board_rows import export, row
from tests.helpers.report_fakes import make_recipe, make_results
from writers.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[exported.Export]:
    """Exports of two recipes that share the models of seed 1; the second has one more target."""
    settings = {"eps": (0.0,), "methods": ("full",)}
    recipes = [
        make_recipe(**settings, seeds=(0, 1), targets=("grocery",)),
        make_recipe(**settings, seeds=(1, 2), targets=("grocery", "clothing"), name="more"),
    ]
    made = []
    for recipe, by in zip(recipes, ("Ada", ""), strict=True):
        folder = tmp_path_factory.mktemp("export")
        site.publish(folder, [extract.export(recipe, make_results(recipe), by)])
        made.append(exported.read(folder))
    return made


def test_merging_in_any_order_or_twice_gives_equal_files(
    exports: list[exported.Export], tmp_path: Path
) -> None:
    first, second = exports
    site.publish(tmp_path / "both", [first, second])
    expected = contents(tmp_path / "both")
    site.publish(tmp_path / "reverse", [second, first])
    assert contents(tmp_path / "reverse") == expected
    for one in (second, first, second):
        site.publish(tmp_path / "steps", [one])
    assert contents(tmp_path / "steps") == expected
    shutil.copytree(tmp_path / "both", tmp_path / "copied")
    written = site.publish(tmp_path / "copied", [exported.read(tmp_path / "both")])
    assert contents(tmp_path / "copied") == expected
    assert (written.num_added, written.num_duplicates) == (0, written.num_rows)


def test_a_merged_copy_is_equal_to_the_board_of_the_recipe(tmp_path: Path) -> None:
    """The settings of a recipe are not in alphabetical order; those of its export are."""
    recipe = make_recipe(methods=("full",), question="Which?", seeds=(0,))
    site.publish(tmp_path / "own", [extract.export(recipe, make_results(recipe), "Ada")])
    site.publish(tmp_path / "copy", [exported.read(tmp_path / "own")])
    assert contents(tmp_path / "copy") == contents(tmp_path / "own")


def test_equal_models_of_two_recipes_have_one_digest_and_one_row(
    exports: list[exported.Export],
) -> None:
    merged = merge(exports)
    models = {row.subset: set() for row in merged.rows}
    for each in merged.rows:
        models[each.subset].add(each.model_digest)
    assert {subset: len(digests) for subset, digests in models.items()} == {
        "all": 1,
        "minus3": 1,
        "minus6": 1,
    }
    # Both recipes have seed 1 on grocery and its evaluation; the merged board has one row for each.
    seeds = [row.seed for row in merged.rows if row.target == "grocery"]
    assert sorted(seeds) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert merged.num_duplicates == 3 + 3


def test_duplicates_count_once_under_any_name() -> None:
    sources = [
        export(row(by="Ada", subset="in900"), name="a"),
        export(row(subset="minus100"), name="b"),
        export(row(by="Bob", subset="in900"), row(by="Bob", subset="in900"), name="c"),
    ]
    merged = {tuple(merge(order).rows) for order in itertools.permutations(sources)}
    assert merged == {(row(by="Ada", subset="in900"),)}
    assert merge(sources).num_duplicates == 3


def test_a_duplicate_with_more_values_replaces_the_other() -> None:
    """A recipe is published before and after its evaluations."""
    early, late = row(by="Ada", source_accuracy=None), row(by="Ada", source_accuracy=0.7)
    for order in itertools.permutations([export(early), export(late)]):
        assert merge(order).rows == (late,)


def test_repeated_runs_are_kept_and_marked(tmp_path: Path) -> None:
    again = row(score=0.47, started_at="2026-11-22T05:00:00+00:00", by="Bob")
    same = row(started_at="2026-11-23T05:00:00+00:00", by="Eve")
    written = site.publish(tmp_path, [export(row(by="Ada"), again, same)])
    assert (written.num_rows, written.num_differing) == (3, 1)
    page = (tmp_path / "index.html").read_text()
    assert "47.0, 50.0, 50.0" in page
    assert "Bob" in page and ">3.0<" in page


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("num_test_images", {"num_test_images": 201}),
        ("metric", {"metric": "mean_per_class"}),
        ("test_sha256", {"test_sha256": "00"}),
        ("num_source_classes", {"num_source_classes": 7}),
        ("eps", {"eps": 3.0}),
        ("pretrained_here", {"pretrained_here": False}),
    ],
)
def test_contradicting_facts_of_one_digest_name_both_rows(
    field: str, changes: dict[str, object]
) -> None:
    a, b = export(row(seed=1), row(), name="a.json"), export(row(seed=3, **changes), name="b.json")
    with pytest.raises(UserError, match=rf"b.json: row 1: {field} .* a.json: row 1"):
        merge([a, b])
    with pytest.raises(UserError, match=rf"a.json: row 1: {field} .* b.json: row 1"):
        merge([b, a])


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match="not a board"):
        site.publish(tmp_path, [export(row())])
    assert (tmp_path / "index.html").read_text() == "mine"


def test_publishing_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to publish"):
        site.publish(tmp_path / "board", [])
    assert not (tmp_path / "board").exists()


def test_pages_of_removed_rows_are_removed(tmp_path: Path) -> None:
    kept, removed = row(), row(target="pets", task_digest="a" * 16, test_sha256="")
    site.publish(tmp_path, [export(kept, removed)])
    assert len(list((tmp_path / "targets").iterdir())) == 2
    (tmp_path / "rows.json").write_text("".join(exported.to_json((kept,), {})))
    site.publish(tmp_path, [export(kept)])
    assert [page.stem[:8] for page in (tmp_path / "targets").iterdir()] == ["grocery-"]
