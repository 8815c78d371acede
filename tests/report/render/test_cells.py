"""Cells of tables: thousands separators, intervals near zero, and fractions near 100 %."""

import re
from dataclasses import replace
from typing import Any

import pytest

from harness.report.data.collection import Collection
from harness.report.data.rows import transfer_rows
from harness.report.data.run_rows import BetonRow, StageRow, TimingRow
from harness.report.render.figures.transfer import subset_panels, transfer_panels
from harness.report.render.tables import cells, runs
from harness.report.render.tables.transfer import transfer_table
from tests.helpers.report_fakes import make_recipe, make_results


def test_numbers_of_four_digits_have_a_separator() -> None:
    assert cells.number(1_234_567.0).text == "1,234,567"
    assert cells.sized_cell("in900", 1_000).detail == "1,000"
    beton = BetonRow("things", "all", "train", 21_841, 14_197_122, 1_234_500_000, "ab", "x.beton")
    (row,) = runs.beton_table([beton]).rows
    assert [cell.text for cell in row[3:6]] == ["21,841", "14,197,122", "1,234.5"]
    stages = [StageRow("transfer", "x", "k", "2026-11-21", 3600.0)] * 1200
    (row,) = runs.kinds_table(stages).rows
    assert (row[1].text, row[2].text) == ("1,200", "1,200 h 00 min")


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-0.0021, -0.0004, "−0.21 to −0.04"),
        (0.00004, 0.002, "+0.004 to +0.200"),
        (-0.0021, 0.0004, "−0.21 to +0.04"),
        (-0.0004, 0.01, "−0.04 to +1.00"),
        (0.0, 0.01, "0.0 to +1.0"),
        (0.01, 0.02, "+1.0 to +2.0"),
    ],
)
def test_the_bounds_of_an_interval_have_their_signs_on_the_page(
    low: float, high: float, text: str
) -> None:
    assert cells.interval_cell(low, high, None, cells.NONE).text == text
    mean, half = (low + high) / 2, (high - low) / 2
    is_clear = low * high > 0
    assert (float(cells.points(mean, half).replace("−", "-")) != 0) or not is_clear


def timing(**fields: float) -> TimingRow:
    spans = dict.fromkeys(
        f"{name}_ms"
        for name in ("data_wait", "copy", "augment", "attack", "forward", "backward", "optimizer")
    )
    others = dict.fromkeys(
        ("num_steps", "train_s", "eval_s", "checkpoint_s", "startup_s", "img_per_s")
    )
    more = dict.fromkeys(("replay_img_per_s", "gpu_fed", "data_wait_fraction"))
    values: dict[str, Any] = {**dict.fromkeys(spans, 1.0), **others, **more, **fields}
    return TimingRow(kind="pretrain", name="x", verdict="", key="k", **values)


def test_a_fraction_below_one_is_not_shown_as_100_percent() -> None:
    (table,) = runs.timing_tables([timing(gpu_fed=0.999), timing(gpu_fed=1.0)])
    assert [row[2].text for row in table.rows] == ["99 %", "100 %"]
    assert cells.percent_cell(0.9997).text == "99.9"


@pytest.mark.parametrize(("num_images", "shown"), [(20_000, "99.96 %"), (200, "99.9 %")])
def test_hover_texts_of_figures_round_as_the_tables(num_images: int, shown: str) -> None:
    """An accuracy of 99.96 % was 100.0 % in the figure."""
    for recipe, draw in (
        (make_recipe(eps=(0.0,), targets=("clothing",)), subset_panels),
        (make_recipe(targets=("clothing",)), transfer_panels),
    ):
        rows = [
            replace(row, top1=0.99961, num_images=num_images)
            for row in transfer_rows(Collection(recipe, make_results(recipe)))
        ]
        (panel,) = draw(recipe, rows)
        titles = re.findall("<title>(.*?)</title>", panel.svg)
        assert len(titles) >= len(rows) and all(title.endswith(f": {shown}") for title in titles)
        texts = {cell.text for line in transfer_table(recipe, rows).rows for cell in line}
        assert shown.removesuffix(" %") in texts and "100.0" not in texts
