"""Tables of `harness bench load`: names of rows, and contenders that ran in one round."""

import pytest

from benchmarks.contenders.ours import VARIANTS
from harness.cli.benches._load_tables import print_rates
from harness.cli.benches.load import _comparisons


def contender(what: str, rates: list[float], first_batch_s: float) -> dict[str, object]:
    return {
        "what": what,
        "median": rates[0],
        "rates": rates,
        "opened": {"first_batch_s": first_batch_s},
        "details": [{"memory_bytes": 2**20}],
    }


def test_one_round_has_no_range_and_a_short_time_is_not_zero(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rates(
        {
            "work": {"workload": "rrc224"},
            "contenders": {
                "ours:raw": contender("ours", [700.0], 0.0134),
                "dali:cpu": contender("DALI", [500.0, 480.0], 17.4),
            },
            "absent": {},
            "ratios": [
                {"title": "first batch: DALI / ours", "median": 1298.16, "rounds": [1298.16]},
                {"title": "ours / DALI", "median": 1.4, "rounds": [1.35, 1.45]},
            ],
        }
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "ours 700 one round 13.4 ms 1 MiB" in lines
    assert "DALI 500 480 to 500 17.4 s 1 MiB" in lines
    assert "first batch: DALI / ours 1298.16 measured once" in lines
    assert "ours / DALI 1.40 1.35 to 1.45" in lines


def test_ratios_name_our_variants_in_the_words_of_the_rates() -> None:
    named = 0
    for goal in _comparisons():
        words = goal.title.partition(" / ")[0].removeprefix("ours").removeprefix(", ")
        assert words in VARIANTS[goal.ours.partition(":")[2]], goal.title
        named += bool(words)
    assert named > 5
