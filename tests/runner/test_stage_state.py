"""State of a stage whose folder is leased by another host."""

from pathlib import Path

from harness.matrix import stage_kind
from harness.runner import stage_state
from writers import lease, lock
from writers.lease import Holder

FAR = Holder("far", "boot-of-far", 1)


def test_a_stage_of_another_host_counts_as_running(tmp_path: Path):
    folder = tmp_path / "stages" / "rank" / "abc"
    folder.mkdir(parents=True)
    held = lease.take(folder, FAR)
    assert not lock.is_held(folder)
    assert stage_state.state(stage_kind.find("rank"), folder, tmp_path) == "running"
    held.release()
    assert stage_state.state(stage_kind.find("rank"), folder, tmp_path) == "left"
