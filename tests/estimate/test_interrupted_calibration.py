"""`harness plan --calibrate` continues after an interruption, and then estimates all stages."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.estimate import calibrate
from harness.estimate.calibration import FILE_NAME

TINY = ("imagenet_rn18_16", "scale=tiny")
DAY = ("robust_l2", "scale=day")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def plan(name: str, scale: str, *options: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", name, "--set", scale, *options])
    return ended.value.code


def rows() -> list[dict[str, Any]]:
    return json.loads((Path("runs") / FILE_NAME).read_text())["steps"]


class Interrupted:
    """Yield the results of `measure`; raise KeyboardInterrupt instead of result `at`.

    Results are numbered from 0.
    """

    def __init__(self, measure, at: int) -> None:
        self._measure, self._at = measure, at
        self.timed: list[dict[str, Any]] = []

    def __call__(self, steps, *arguments, **options) -> Iterator[tuple[Any, Any]]:
        for number, (step, seconds) in enumerate(self._measure(steps, *arguments, **options)):
            if number == self._at:
                raise KeyboardInterrupt
            self.timed.append(step)
            yield step, seconds


def made_up_seconds(steps, *_: Any, **options: Any) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield each step with made-up seconds: timing steps of full size takes minutes on a CPU."""
    for number, step in enumerate(steps, 1):
        yield step, 0.01 * number


@pytest.mark.parametrize("recipe", [TINY, DAY], ids=" ".join)
def test_an_interrupted_calibration_keeps_what_it_has_timed(recipe, monkeypatch, capsys):
    measure = calibrate.measure if recipe == TINY else made_up_seconds
    first = Interrupted(measure, at=2)
    monkeypatch.setattr(calibrate, "measure", first)
    assert plan(*recipe, "--calibrate")
    kept = rows()
    assert [row["step"] for row in kept] == first.timed and len(kept) == 2
    second = Interrupted(measure, at=1000)
    monkeypatch.setattr(calibrate, "measure", second)
    capsys.readouterr()
    assert not plan(*recipe, "--calibrate", "--json")
    found = json.loads(capsys.readouterr().out)
    assert rows()[:2] == kept and [row["step"] for row in rows()[2:]] == second.timed
    assert second.timed and not any(step in first.timed for step in second.timed)
    # Only write stages stay unknown, because they have no network to time.
    estimate, kinds = found["estimate"], [stage["kind"] for stage in found["stages"]]
    assert estimate["num_unknown"] == kinds.count("write")
    assert estimate["num_calibrated"] == len(kinds) - estimate["num_unknown"] > 0
    assert estimate["hours"] == estimate["calibrated_hours"] > 0
    third = Interrupted(measure, at=0)
    monkeypatch.setattr(calibrate, "measure", third)
    assert not plan(*recipe, "--calibrate") and not third.timed


def test_a_network_that_cannot_be_timed_does_not_stop_the_others(monkeypatch, capsys):
    given: list[dict[str, Any]] = []

    def fails_at_first(steps, *_: Any, **options: Any) -> Iterator[tuple[Any, Any]]:
        for number, step in enumerate(steps):
            given.append(step)
            yield step, 0.01 if number else "there is not enough memory"

    monkeypatch.setattr(calibrate, "measure", fails_at_first)
    assert not plan(*TINY, "--calibrate")
    shown = capsys.readouterr()
    assert "there is not enough memory" in shown.err
    assert len(given) > 1 and [row["step"] for row in rows()] == given[1:]
