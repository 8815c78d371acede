"""The figure of Elo strengths: positions of its markers, converted with the axis of the SVG."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from harness.report.render.figures.models import elo_panel
from harness.report.render.figures.plot import Panel
from harness.report.stats.leaderboard import RankedModel


def panel_of(strengths: Sequence[float]) -> Panel:
    ranking = [
        RankedModel("full", f"net{place}", 0.5, 3, 0.0, None, 0, elo, None, None, 1200)
        for place, elo in enumerate(strengths)
    ]
    return elo_panel(ranking, 0)


def values_of_markers(svg: str) -> list[float]:
    """Convert the markers, from top to bottom, to values of the horizontal axis, by its ticks."""
    ticks = re.findall(r' x="([\d.]+)"[^>]*>([−\d.]+)</text>', svg)
    places = [float(x) for x, _ in ticks]
    labels = [float(text.replace("−", "-")) for _, text in ticks]
    slope, offset = np.polyfit(places, labels, 1)
    markers = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', svg)
    from_top = sorted((float(y), float(x)) for x, y in markers)
    return [slope * x + offset for _, x in from_top]


@pytest.mark.parametrize("strengths", [(1.5, 0.25, -1.0), (4.0, 3.5, 3.0), (-0.5, -0.75)])
def test_markers_are_at_their_strength_and_the_strongest_is_on_top(
    strengths: tuple[float, ...],
) -> None:
    panel = panel_of(strengths)
    assert values_of_markers(panel.svg) == pytest.approx(strengths, abs=0.01)
    names = re.findall(r' y="([\d.]+)"[^>]*>(net\d)</text>', panel.svg)
    assert [name for _, name in sorted(names, key=lambda item: float(item[0]))] == [
        f"net{place}" for place in range(len(strengths))
    ]
    assert "log odds against an average model" in panel.svg
    has_zero_line = "var(--quiet)" in panel.svg
    assert has_zero_line == (min(strengths) <= 0 <= max(strengths))


def test_a_long_ranking_names_how_many_models_and_rounds_it_has() -> None:
    panel = panel_of(np.linspace(2, -2, 1234).tolist())
    assert panel.detail.startswith("1,200 rounds") and panel.detail.endswith("of 1,234")
    assert len(panel.data.splitlines()) == 1 + 1234
    assert len(values_of_markers(panel.svg)) < 100
