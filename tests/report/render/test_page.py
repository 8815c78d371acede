"""The report page is complete, self-contained, escaped and reproducible; its CSV and Markdown."""

import csv
import html
import random
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.config.recipe import Recipe
from harness.report.render.page import write
from harness.report.render.tables.table import Cell, Column, Table, to_markdown
from harness.runner.result import Result
from tests.helpers import ROOT
from tests.helpers.report_fakes import make_recipe, make_results, replace_metrics
from tests.helpers.report_html import Page
from writers.errors import UserError

HOSTILE = '<script>alert("1")</script>&\'"{{ 7 * 7 }}|`x`'


def render(
    recipe: Recipe, results: list[Result], out: Path, unfinished: tuple[str, ...] = ()
) -> str:
    return write(recipe, results, unfinished, out, ("html",)).read_text()


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_sound(text: str) -> Page:
    """Check nesting, unique and resolved ids, and that nothing is loaded from elsewhere."""
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert page.loads == []
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= {f"#{name}" for name in page.ids}
    assert set(re.findall(r'href="#([^"]*)"', text)) <= set(page.ids)
    assert set(re.findall(r'aria-labelledby="([^"]*)"', text)) <= set(page.ids)
    assert page.tags.count("h1") == 1 and page.tags.count("script") == 1
    return page


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("archs", [("resnet10",), ("resnet18", "resnet50")])
def test_a_complete_matrix_makes_a_sound_page(
    tmp_path: Path, seeds: tuple[int, ...], archs: tuple[str, ...]
) -> None:
    recipe = make_recipe(seeds=seeds, archs=archs)
    page = assert_sound(render(recipe, make_results(recipe), tmp_path))
    assert page.tags.count("figure") == 2 * len(archs) + 2  # targets x archs, means, classes
    assert {f"accuracy-{index}-common_masked" for index in range(len(archs))} <= set(page.tables)
    assert recipe.question in page.text and "have no result yet" not in page.text
    assert ("There is one seed and no interval" in page.text) == (len(seeds) == 1)


def test_a_page_without_results_names_the_unfinished_stages(tmp_path: Path) -> None:
    recipe = make_recipe()
    path = write(recipe, [], ["write/all", "pretrain/x"], tmp_path, ("html", "md", "csv"))
    page = assert_sound(path.read_text())
    assert page.tables == {}
    assert "2 of 2 stages have no result yet" in page.text and "there is no answer" in page.text
    assert "there is no answer" in (tmp_path / "report.md").read_text()
    assert read_csv(tmp_path / "accuracy.csv") == []
    assert [row["stage"] for row in read_csv(tmp_path / "unfinished.csv")] == [
        "pretrain/x",
        "write/all",
    ]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_part_of_the_matrix_makes_a_page(tmp_path: Path, share: float, seed: int) -> None:
    recipe = make_recipe(seeds=(0, 1), eps=(0.0, 0.5))
    results = make_results(recipe)
    kept = random.Random(seed).sample(results, round(share * len(results)))
    names = {result.name for result in results} - {result.name for result in kept}
    page = assert_sound(render(recipe, kept, tmp_path, tuple(names)))
    assert f"{len(names)} of {len(results)} stages have no result yet" in page.text


@pytest.mark.parametrize("kind", ["write", "pretrain", "rank", "evaluate", "transfer"])
def test_a_single_kind_of_results_makes_a_page(tmp_path: Path, kind: str) -> None:
    recipe = make_recipe()
    assert_sound(
        render(recipe, [result for result in make_results(recipe) if result.kind == kind], tmp_path)
    )


def test_a_recipe_without_targets_and_with_one_eps_makes_a_page(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,), targets=(), methods=())
    page = assert_sound(render(recipe, make_results(recipe), tmp_path))
    assert "transfers" not in page.tables and "accuracy-0-common_masked" in page.tables


def test_no_sentence_breaks_within_top_1_or_an_interval(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,), targets=(), methods=())
    path = write(recipe, make_results(recipe), [], tmp_path, ("html",))
    headline = path.read_text().split('<p class="headline">')[1].split("</p>")[0]
    assert 'clean <span class="word">top-1</span> on' in headline
    recipe = make_recipe(seeds=(0, 1, 2))
    text = render(recipe, make_results(recipe), tmp_path / "seeds")
    headline = text.split('<p class="headline">')[1].split("</p>")[0]
    assert re.search(r'by <span class="word">−[\d.]+ ± [\d.]+</span> points on', headline)


def test_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    recipe = make_recipe(seeds=(0, 1), eps=(0.0, 0.5), targets=("clothing",))
    results = make_results(recipe)
    shuffled = random.Random(3).sample(results, len(results))
    formats = ("html", "md", "csv")
    write(recipe, results, ["b", "a"], tmp_path / "one", formats)
    write(recipe, [*shuffled, shuffled[0]], ["a", "b"], tmp_path / "two", formats)
    program = (
        "from pathlib import Path; from tests.helpers.report_fakes import *; "
        "from harness.report.render.page import write; "
        "r = make_recipe(seeds=(0, 1), eps=(0.0, 0.5), targets=('clothing',)); "
        f"write(r, make_results(r), ['a', 'b'], Path({str(tmp_path / 'three')!r}), {formats!r})"
    )
    root = ROOT
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=tmp_path,
        timeout=240,
        env={
            "PYTHONPATH": str(root),
            "PYTHONHASHSEED": "7",
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        },
    )
    names = files_of(tmp_path / "one")
    # index.html, report.md and answer.txt; CSV tables; SVG and CSV of each figure.
    assert len(names) == 3 + 25 + 2 * 3
    for other in ("two", "three"):
        assert files_of(tmp_path / other) == names
        for name in names:
            assert (tmp_path / other / name).read_bytes() == (
                tmp_path / "one" / name
            ).read_bytes(), name


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    recipe = make_recipe(
        eps=(0.0,), targets=(HOSTILE,), question=f"Why {HOSTILE}?", archs=(HOSTILE,)
    )
    results = []
    for result in make_results(recipe):
        update = {
            "name": f"{result.name}{HOSTILE}",
            "environment": {**result.environment, HOSTILE: HOSTILE},
        }
        if result.timing:
            update["timing"] = {**result.timing, "verdict": HOSTILE}
        if result.kind == "rank":
            classes = [HOSTILE, *result.metrics["classes"]]
            result = replace_metrics(
                result,
                classes=classes,
                accuracy={**result.metrics["accuracy"], HOSTILE: 0.0},
                num_images={**result.metrics["num_images"], HOSTILE: 3},
            )
        results.append(result.model_copy(update=update))
    write(recipe, results, [HOSTILE], tmp_path, ("html", "md", "csv"))
    page = assert_sound((tmp_path / "index.html").read_text())
    assert page.text.count(HOSTILE) > 20
    assert page.tables["classes"][2][0] == HOSTILE
    outside_the_recipe = (tmp_path / "report.md").read_text().split("````")[0]
    assert "<script" not in outside_the_recipe
    assert "`x`" not in outside_the_recipe.replace("\\`", "")
    assert {row["target"] for row in read_csv(tmp_path / "transfer.csv")} == {HOSTILE}


def test_control_characters_of_class_names_become_escapes(tmp_path: Path) -> None:
    """Folders may have any names, and people print reports and CSV files in terminals."""
    recipe, name = make_recipe(eps=(0.0,)), "\x1b]0;owned\x07\x9b31m\u202egnp\r=1+1"
    results = []
    for result in make_results(recipe):
        if result.kind == "rank":
            result = replace_metrics(
                result,
                classes=[name, *result.metrics["classes"]],
                accuracy={**result.metrics["accuracy"], name: 0.0},
                num_images={**result.metrics["num_images"], name: 3},
            )
        results.append(result)
    write(recipe, results, [name], tmp_path, ("html", "md", "csv"))
    found = 0
    for path in tmp_path.rglob("*.*"):
        if path.suffix == ".parquet":
            continue
        text = path.read_bytes().decode()
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), path
        found += "owned" in text
        if path.suffix == ".svg":
            ElementTree.fromstring(text)
    assert found >= 4


def test_csv_reads_back_to_the_results(tmp_path: Path) -> None:
    recipe = make_recipe(seeds=(0, 1))
    results = {result.key: result for result in make_results(recipe)}
    write(recipe, list(results.values()), [], tmp_path, ("csv",))
    rows = read_csv(tmp_path / "accuracy.csv")
    # Subsets x seeds x views of each eps; models of eps 0 are not attacked.
    assert len(rows) == 3 * 2 * (3 + 6 + 6)
    for row in rows:
        scores = results[row["key"]].metrics[row["attack"]][row["view"]]
        assert [float(row[name]) for name in ("top1", "top5", "mean_per_class")] == [
            scores[name] for name in ("top1", "top5", "mean_per_class")
        ]
        assert int(row["num_images"]) == scores["num_images"]
        assert float(row["eps"]) == results[row["key"]].axes["eps"]
    rows = read_csv(tmp_path / "transfer.csv")
    assert len(rows) == 2 * 2 * 3 * 3 * 2  # targets, methods, subsets, eps, seeds
    for row in rows:
        metrics = results[row["key"]].metrics
        assert [float(row["top1"]), float(row["lr"])] == [metrics["test"]["top1"], metrics["lr"]]
        assert float(row["selected_score"]) == metrics["val"][row["metric"]]
    grid = read_csv(tmp_path / "transfer_grid.csv")
    assert len(grid) == 2 * len(rows) and sum(row["chosen"] == "True" for row in grid) == len(rows)
    timing = read_csv(tmp_path / "timing.csv")
    assert {row["key"] for row in timing} == {
        key for key, result in results.items() if result.timing
    }
    assert all(
        float(row["attack_ms"]) == results[row["key"]].timing["per_step_ms"]["attack"]
        for row in timing
    )
    assert {row["key"]: float(row["wall_s"]) for row in read_csv(tmp_path / "stages.csv")} == {
        key: result.wall_s for key, result in results.items()
    }
    left_out = [
        row["name"]
        for row in read_csv(tmp_path / "classes.csv")
        if row["removed_by"] == "minus3;minus6"
    ]
    assert len(left_out) == 3


def test_markdown_tables_have_equal_columns(tmp_path: Path) -> None:
    recipe = make_recipe(seeds=(0, 1))
    path = write(recipe, make_results(recipe), [], tmp_path, ("md",))
    assert path.name == "report.md" and not (tmp_path / "index.html").exists()
    blocks = re.findall(r"(?:^\|.*\|\n)+", path.read_text(), flags=re.MULTILINE)
    assert len(blocks) >= 8
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_markdown_lists_the_hints_of_headings_below_the_table() -> None:
    table = Table(
        "t",
        "T",
        (
            Column("p, t", hint="paired t-test"),
            Column("fed", group="a", hint="a share"),
            Column("fed", group="b", hint="a share"),
            Column("n"),
        ),
        (
            (
                Cell("0.1"),
                Cell("76.2", detail="(91.8)", below="± 0.4", best=True),
                Cell("2 of 4", below="1 tie"),
                Cell("all", detail="101"),
            ),
        ),
        "A note.",
    )
    *_, row, _, note, _, hints = to_markdown(table).splitlines()
    assert row == "| 0.1 | **76.2** (91.8) ± 0.4 | 2 of 4 (1 tie) | all (101) |"
    assert (note, hints) == ("A note.", "p, t: paired t-test; fed: a share")


def test_an_unknown_format_and_an_unwritable_folder_are_refused(tmp_path: Path) -> None:
    recipe = make_recipe()
    with pytest.raises(UserError, match="pdf"):
        write(recipe, [], [], tmp_path, ("html", "pdf"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write(recipe, [], [], tmp_path / "file", ("html",))
    assert (tmp_path / "file").read_text() == ""


def test_a_new_report_replaces_the_old_one(tmp_path: Path) -> None:
    recipe = make_recipe()
    render(recipe, [], tmp_path)
    text = render(recipe, make_results(recipe), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer.txt", "index.html"]
    assert "there is no answer" not in text


def test_the_page_begins_with_the_answer_in_one_sentence(tmp_path: Path) -> None:
    recipe = make_recipe()
    text = render(recipe, make_results(recipe), tmp_path)
    headline = html.escape((tmp_path / "answer.txt").read_text().strip())
    assert text.count(headline) == 1
    assert text.index(headline) < text.index("<svg") < text.index('<p class="caveat"')


def test_the_page_shows_robustness_before_the_folded_findings(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0, 0.5))
    text = render(recipe, make_results(recipe), tmp_path)
    assert text.count("Robust pretraining at eps 0.5 instead of 0") == 1
    start = text.index("Robust pretraining at eps 0.5")
    assert start < text.index("<svg") < text.index('<details class="more">')
    clean = make_recipe(eps=(0.0,))
    assert "Robust pretraining" not in render(clean, make_results(clean), tmp_path)


def test_only_a_table_that_scrolls_has_its_number_of_rows_in_the_heading(tmp_path: Path) -> None:
    recipe = make_recipe()
    text = render(recipe, make_results(recipe), tmp_path)
    num_rows = {name: len(rows) - 1 for name, rows in assert_sound(text).tables.items()}
    counts = dict(
        re.findall(r'<h3 id="([\w-]+)-title">[^<]*<span class="detail">\(([\d,]+) rows', text)
    )
    assert counts == {name: f"{rows:,}" for name, rows in num_rows.items() if rows > 24}
    assert "transfers" in counts and "kinds" not in counts
