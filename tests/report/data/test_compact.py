"""Packed entries equal the list that they replace; compact results keep what a report reads."""

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.matrix.stage import Stage
from harness.report.data.compact import Compactor, PackedEntries, num_diverged
from harness.runner.result import Result

VALUES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text()
ENTRIES = st.lists(st.dictionaries(st.text(), VALUES | st.dictionaries(st.text(), VALUES)))


@given(ENTRIES)
@settings(deadline=None)
def test_packed_entries_equal_the_list(entries: list[dict[str, object]]) -> None:
    packed = PackedEntries(entries)
    assert len(packed) == len(entries)
    assert repr(list(packed)) == repr(entries) == repr(packed[:])
    if entries:
        assert repr(packed[-1]) == repr(entries[-1])


@given(ENTRIES)
@settings(deadline=None)
def test_diverged_configurations_are_counted_in_both_forms(
    entries: list[dict[str, object]],
) -> None:
    entries += [{"lr": 1.0, "val": None}, {"lr": 0.1, "val": {"top1": 0.5}}]
    expected = len([entry for entry in entries if entry.get("val", 0) is None])
    assert num_diverged(PackedEntries(entries)) == num_diverged(entries) == expected


def test_keys_of_equal_entries_are_packed_once() -> None:
    def num_bytes(num_entries: int) -> int:
        key = "x" * 1000
        return PackedEntries([{key: float(number)} for number in range(num_entries)]).num_bytes

    assert num_bytes(100) < num_bytes(1) + 100 * 100


def test_results_share_settings_names_and_environments() -> None:
    def record(key: str) -> Result:
        return Result(
            kind="transfer",
            key=key,
            name="of another recipe",
            axes={"seed": 1},
            config={"lr": [0.1]},
            needs={"model": "abc"},
            metrics={
                "grid": [{"lr": 0.1, "val": None}],
                "lr": 0.1,
                "classes": ["cat", "dog"],
                "order": ["dog", "cat"],
                "counts": [1, 2],
                "none": [],
            },
            environment={"cpu": "x", "packages": {"torch": "2"}},
            started_at="2026-01-01T00:00:00+00:00",
            wall_s=1.0,
        )

    stage = Stage("transfer", {"lr": [0.1]}, axes={"seed": 0}, name="of this recipe")
    compactor = Compactor()
    first, second = (compactor.compact(record(key), stage) for key in ("a", "b"))
    assert first.environment is second.environment == record("a").environment
    assert first.config is second.config is stage.config
    assert (second.key, second.name, second.axes, second.needs, second.metrics["lr"]) == (
        "b",
        "of this recipe",
        {"seed": 0},
        {"model": "abc"},
        0.1,
    )
    assert list(second.metrics["grid"]) == [{"lr": 0.1, "val": None}]
    assert first.metrics["classes"] is second.metrics["classes"]
    lists = {name: second.metrics[name] for name in ("classes", "order", "counts", "none")}
    expected = {"classes": ["cat", "dog"], "order": ["dog", "cat"], "counts": [1, 2], "none": []}
    assert lists == expected
