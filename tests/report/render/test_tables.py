"""Tables of the page have the numbers that are recomputed from the results."""

import itertools
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from harness.config.recipe import EvaluateSettings, Recipe
from harness.report.data.collection import Collection
from harness.report.data.records import format_eps
from harness.report.data.rows import accuracy_rows
from harness.report.render.page import write
from harness.report.render.report import collect
from harness.report.render.tables.accuracy import accuracy_tables
from harness.report.render.tables.cells import CHANCE_NOTE
from harness.report.render.tables.table import Cell, Column, table_of
from harness.runner.result import Result
from tests.helpers.report_fakes import CLASSES, make_recipe, make_results, replace_metrics
from tests.helpers.report_html import Page


def page_of(
    recipe: Recipe, results: Iterable[Result], out: Path, unfinished: Iterable[str] = ()
) -> Page:
    return Page(write(recipe, list(results), list(unfinished), out, ("html",)).read_text())


def select(results: Iterable[Result], kind: str, **axes: Any) -> list[Result]:
    return [
        result
        for result in results
        if result.kind == kind
        and "role" not in result.axes
        and all(result.axes.get(name) == value for name, value in axes.items())
    ]


def mean(results: Iterable[Result], *path: str) -> float:
    return statistics.mean(_at(result, path) for result in results)


def spread(results: Iterable[Result], *path: str) -> float:
    return statistics.stdev(_at(result, path) for result in results)


def _at(result: Result, path: Iterable[str]) -> float:
    value: Any = result.metrics
    for name in path:
        value = value[name]
    return float(value)


def shown(sd: float) -> str:
    """Format a standard deviation with one decimal, or as a bound if that would be 0.0."""
    return f"{sd:.1f}" if sd >= 0.05 or sd < 1e-9 else "< 0.1"


@pytest.mark.parametrize("view", ["common_unmasked", "common_masked", "own"])
def test_accuracy_table_shows_the_means_over_seeds(tmp_path: Path, view: str) -> None:
    recipe = make_recipe(seeds=(0, 1, 2))
    results = make_results(recipe)
    table = page_of(recipe, results, tmp_path).tables[f"accuracy-0-{view}"]
    assert [row[0].split()[:2] for row in table[2:]] == [
        ["all", "24"],
        ["minus3", "21"],
        ["minus6", "18"],
    ]
    for row, subset in zip(table[2:], ("all", "minus3", "minus6"), strict=True):
        expected = []
        for eps in recipe.eps:
            models = select(results, "evaluate", subset=subset, eps=eps)
            assert len(models) == 3
            for attack in ("clean", "adversarial"):
                if models[0].metrics[attack] is None:
                    expected.append("–")
                    continue
                top1, top5 = (100 * mean(models, attack, view, name) for name in ("top1", "top5"))
                sd1, sd5 = (100 * spread(models, attack, view, name) for name in ("top1", "top5"))
                expected.append(f"{top1:.1f} ({top5:.1f}) sd {shown(sd1)} ({shown(sd5)})")
        assert row[1:] == expected


def test_best_of_each_column_is_marked(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,))
    results = make_results(recipe)
    text = write(recipe, results, [], tmp_path, ("html",)).read_text()
    table = text[text.index('<table id="accuracy-0-common_unmasked"') :]
    table = table[: table.index("</table>")]
    best = max(
        mean(select(results, "evaluate", subset=name), "clean", "common_unmasked", "top1")
        for name in ("all", "minus3", "minus6")
    )
    assert table.count('class="value best"') == 1
    assert f'<span class="value best">{100 * best:.1f}</span>' in table


def test_transfer_table_shows_every_number(tmp_path: Path) -> None:
    recipe = make_recipe(seeds=(0, 1))
    results = make_results(recipe)
    table = page_of(recipe, results, tmp_path).tables["transfers"]
    assert len(table) == 1 + 2 * 2 * 3 * 3
    for (
        target,
        method,
        subset,
        eps,
        top1,
        per_class,
        top5,
        chance,
        lr,
        tried,
    ) in table[1:]:
        models = select(
            results,
            "transfer",
            target=target,
            method=method,
            subset=subset.split()[0],
            eps=float(eps),
        )
        assert len(models) == 2
        for text, name in ((top1, "top1"), (per_class, "mean_per_class"), (top5, "top5")):
            score, sd = 100 * mean(models, "test", name), 100 * spread(models, "test", name)
            assert text == f"{score:.1f} sd {shown(sd)}"
        expected = {"grocery": f"{100 / 81:.1f} 2,485 images", "clothing": "10.0 372 images"}
        assert chance == expected[target]
        assert (lr, tried) == ("0.1", "2 on val")


def test_the_mark_for_chance_is_explained_below_the_tables_that_have_it(tmp_path: Path) -> None:
    recipe = make_recipe()
    results = make_results(recipe)
    at_chance = []
    for result in results:
        if result.kind == "transfer" and result.axes["target"] == "clothing":
            result = replace_metrics(
                result, test={**result.metrics["test"], "top1": 0.1, "num_correct": 37}
            )
        elif result.kind == "evaluate":
            low = {**result.metrics["clean"]["common_masked"], "top1": 1 / 18}
            clean = {**result.metrics["clean"], "common_masked": low}
            result = replace_metrics(result, clean=clean)
        at_chance.append(result)
    report = collect(recipe, at_chance, [], {}, {})
    marked = [
        table.name
        for section in report.sections
        for table in section.all_tables
        if any("°" in cell.text for row in table.rows for cell in row)
    ]
    explained = [
        table.name
        for section in report.sections
        for table in section.all_tables
        if CHANCE_NOTE in table.note
    ]
    assert set(marked) >= {"transfers", "accuracy-0-common_masked"}
    assert explained == marked


def test_learning_rates_that_diverged_are_counted(tmp_path: Path) -> None:
    recipe = make_recipe(seeds=(0, 1), eps=(0.0,), targets=("clothing",), methods=("full",))
    results = make_results(recipe)
    grid = [{"lr": 0.1, "val": results[-1].metrics["val"]}, {"lr": 0.01, "val": None}]
    results[-1] = replace_metrics(results[-1], grid=grid)
    assert results[-1].axes["subset"] == "minus6"
    table = page_of(recipe, results, tmp_path).tables["transfers"]
    assert [row[8] for row in table[1:]] == ["2 on val", "2 on val", "2 on val, 1 diverged"]
    write(recipe, results, [], tmp_path, ("csv",))
    assert ",0.01,,,False" in (tmp_path / "transfer_grid.csv").read_text()


def test_the_targets_metric_is_underlined(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,), methods=("full",))
    text = write(recipe, make_results(recipe), [], tmp_path, ("html",)).read_text()
    table = text[text.index('<table id="transfers"') :]
    rows = [
        row
        for row in table[: table.index("</table>")].split("<tr>")
        if "grocery" in row or "clothing" in row
    ]
    assert len(rows) == 6
    for row in rows:
        underlined = [
            index
            for index, cell in enumerate(row.split("<td")[1:], start=1)
            if "own" in cell.split(">")[0]
        ]
        assert underlined == [4 if "grocery" in row else 3]


def test_missing_seeds_and_models_are_marked(tmp_path: Path) -> None:
    recipe = make_recipe(seeds=(0, 1), eps=(0.0, 0.5))
    results = make_results(recipe)
    gone = {
        result.key
        for result in [
            *select(results, "evaluate", subset="minus3", eps=0.5),
            *select(results, "evaluate", subset="all", eps=0.0, seed=1),
        ]
    }
    page = page_of(
        recipe,
        [result for result in results if result.key not in gone],
        tmp_path,
        ["evaluate/one", "two"],
    )
    table = page.tables["accuracy-0-common_masked"]
    left = select(results, "evaluate", subset="all", eps=0.0, seed=0)
    top1, top5 = (100 * mean(left, "clean", "common_masked", name) for name in ("top1", "top5"))
    assert table[2][1] == f"{top1:.1f} ({top5:.1f}) 1 of 2 seeds"
    assert table[3][3:] == ["not run", "not run"]
    assert "2 of " in page.text
    assert "stages have no result yet" in page.text
    assert "evaluate/one" in page.text


def test_an_attack_at_another_eps_is_in_the_heading(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0, 0.5), evaluate=EvaluateSettings(eps_of_clean=0.5))
    results = [
        replace_metrics(result, attack={"eps": 0.5}, adversarial=result.metrics["clean"])
        if result.kind == "evaluate" and not result.axes["eps"]
        else result
        for result in make_results(recipe)
    ]
    page = page_of(recipe, results, tmp_path)
    assert page.tables["accuracy-0-common_masked"][1] == [
        "training classes",
        "clean",
        "adversarial at 0.5",
        "clean",
        "adversarial",
    ]
    assert "Top-1 under attack at eps 0.5 changed by −" in page.text


@pytest.mark.parametrize(
    ("eps", "shown"),
    [
        (8 / 255, "8/255"),
        (0.5 / 255, "0.5/255"),
        (0.03137254901960784, "8/255"),
        (0.2, "0.2"),
        (0.5, "0.5"),
        (3.0, "3"),
        (0.0, "0"),
        (0.25, "0.25"),
        (0.03, "0.03"),
        (0.0314159, "0.0314159"),
    ],
)
def test_radii_are_formatted_as_fraction_or_decimal(eps: float, shown: str) -> None:
    assert format_eps(eps) == shown


def test_attacks_are_named_with_their_steps_and_norm(tmp_path: Path) -> None:
    recipe = make_recipe(
        eps=(0.0, 8 / 255), evaluate=EvaluateSettings(attack={"norm": "linf", "steps": 7})
    )
    page = page_of(recipe, make_results(recipe), tmp_path)
    assert page.tables["accuracy-0-common_masked"][0][1:] == ["eps 0", "eps 8/255"]
    assert "Adversarial: PGD-7, Linf, at the model's own eps." in page.text
    assert "Robust pretraining at eps 8/255 instead of 0 changed" in page.text


def test_classes_left_out_are_listed_hardest_first(tmp_path: Path) -> None:
    recipe = make_recipe()
    results = make_results(recipe)
    ranking = next(result for result in results if result.kind == "rank")
    table = page_of(recipe, results, tmp_path).tables["classes"]
    assert [row[0] for row in table[2:]] == list(CLASSES[:6])
    for place, row in enumerate(table[2:], start=1):
        assert row[1:4] == [str(place), f"{100 * ranking.metrics['accuracy'][row[0]]:.1f}", "40"]
        assert row[4:] == (["left out", "left out"] if place <= 3 else ["kept", "left out"])


def test_timing_shows_spans_speeds_and_verdicts(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0, 0.5))
    results = make_results(recipe)
    table = page_of(recipe, results, tmp_path).tables["timing-pretrain"]
    by_name = {result.name: result.timing for result in results if result.kind == "pretrain"}
    assert len(table) == 1 + len(by_name) == 1 + 7
    for run, step, speed, replayed, fed, waits in table[1:]:
        name, _, verdict = run.partition(" ")
        timing = by_name[name]
        assert verdict == timing["verdict"]
        assert step == f"{sum(timing['per_step_ms'].values()):,.1f}"
        assert (speed, replayed) == (
            f"{timing['img_per_s']:,.0f}",
            f"{timing['replay_img_per_s']:,.0f}",
        )
        assert (fed, waits) == (
            f"{100 * timing['gpu_fed']:.0f} %",
            f"{100 * timing['data_wait_fraction']:.0f} %",
        )


def test_a_replay_slower_than_the_run_is_not_shown_as_100_percent(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,))
    results = [
        result.model_copy(
            update={
                "timing": result.timing | {"replay_img_per_s": 0.5 * result.timing["img_per_s"]}
            }
        )
        if result.kind == "pretrain"
        else result
        for result in make_results(recipe)
    ]
    table = page_of(recipe, results, tmp_path).tables["timing-pretrain"]
    assert {row[4] for row in table[1:]} == {"200 % replay slower"}


def test_time_by_kind_adds_up(tmp_path: Path) -> None:
    recipe = make_recipe(eps=(0.0,), targets=("clothing",), methods=("full",))
    results = [result.model_copy(update={"wall_s": 30.0}) for result in make_results(recipe)]
    evaluated = [result for result in results if result.kind == "evaluate"]
    for result, precision in zip(evaluated, ("float32", "bf16", "bf16"), strict=True):
        result.metrics["precision"] = precision
    table = page_of(recipe, results, tmp_path).tables["kinds"]
    assert table[1:] == [
        ["write", "4", "2 min 00 s", "30.0 s", "–"],
        ["pretrain", "4", "2 min 00 s", "30.0 s", "float32"],
        ["rank", "1", "30.0 s", "30.0 s", "–"],
        ["evaluate", "3", "1 min 30 s", "30.0 s", "bf16 (2); float32 (1)"],
        ["transfer", "3", "1 min 30 s", "30.0 s", "–"],
        ["all", "15", "7 min 30 s", "30.0 s", ""],
    ]


def test_rows_of_a_table_are_made_when_they_are_read():
    made: list[int] = []

    def cell(row: int) -> Cell:
        made.append(row)
        return Cell(str(row))

    lines = table_of("t", "T", range(1000), [(Column("row"), cell)]).rows
    assert len(lines) == 1000
    assert made == []
    assert [line[0].text for line in lines[:3]] == ["0", "1", "2"]
    assert made == [0, 1, 2]
    everything = list(lines)
    for index in (0, 7, -1, slice(5, 2, -1), slice(990, None, 3), slice(3, 3)):
        expected = everything[index]
        assert lines[index] == (tuple(expected) if isinstance(index, slice) else expected)
    with pytest.raises(IndexError):
        lines[1000]


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        ({"scored"}, "attack is on the masked logits, those that are scored"),
        ({"all"}, "on all logits, so masked accuracies look more robust"),
        ({"scored", "all"}, "Some attacks are on the masked logits, others on all"),
    ],
)
def test_a_caption_names_the_attacked_logits(logits: set[str], words: str) -> None:
    recipe = make_recipe(eps=(0.5,), targets=(), methods=())
    results = make_results(recipe)
    attacks = itertools.cycle(sorted(logits))
    results = [
        replace_metrics(result, attack={**result.metrics["attack"], "logits": next(attacks)})
        if result.kind == "evaluate"
        else result
        for result in results
    ]
    collection = Collection(recipe, results)
    tables = accuracy_tables(recipe, accuracy_rows(collection), collection.planned)
    notes = {table.name.rpartition("-")[2]: table.note for table in tables}
    assert words in notes["common_masked"]
    assert "masked" not in notes["common_unmasked"] and "logits" not in notes["own"]


def test_classes_left_out_are_a_section_only_if_a_subset_may_leave_out_classes(tmp_path: Path):
    def has_section(recipe: Recipe, out: str) -> bool:
        written = write(recipe, make_results(recipe), [], tmp_path / out, ("html",))
        return "Classes left out" in written.read_text()

    assert not has_section(make_recipe(subsets=("all",), ranking=None), "one")
    assert has_section(make_recipe(), "three")
