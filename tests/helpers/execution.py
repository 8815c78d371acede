"""Build and run matrices of fake stages, and watch the processes that run them."""

import contextlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from harness.matrix.expand import Matrix
from harness.matrix.stage import Stage
from harness.runner import result
from harness.runner.executor import Run
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.runner.retry import RetryPolicy
from harness.system.folders import Folders
from tests.helpers import ROOT

FAKE_STAGES = "tests.helpers.fake_stages"
# Loopback addresses as in /proc/net/tcp and tcp6: 127.0.0.1, the same in IPv6, and ::1.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
FAST_RETRIES = RetryPolicy(max_retries=2, first_wait_s=0.05)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Return folders for `.beton` files, raw data and stages inside the test's own folder."""
    return Folders(tmp_path / "data", tmp_path / "raw", tmp_path / "runs")


@pytest.fixture(autouse=True)
def fake_stages_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes import the fake stages."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Stage]:
    """Return a function that builds a fake stage: make(name, *needs, kind=..., **config)."""

    def make(name: str, *needs: Stage, kind: str = "rank", **config: Any) -> Stage:
        config = {"name": name, "journal": str(tmp_path / "journal.txt"), **config}
        return Stage(
            kind,
            config,
            {f"need_{index}": need for index, need in enumerate(needs)},
            {},
            f"{kind}/{name}",
        )

    return make


@pytest.fixture
def journal(tmp_path: Path) -> Callable[[], list[str]]:
    """Return a function that lists the names of the stages that have run, in order."""
    path = tmp_path / "journal.txt"
    return lambda: path.read_text().split() if path.exists() else []


def matrix_of(*stages: Stage) -> Matrix:
    """Build a matrix without a recipe, which the executor does not need."""
    return Matrix(None, stages)  # type: ignore[arg-type]


def settings_for(folders: Folders, jobs: int | None = 1, **settings: Any) -> LauncherSettings:
    """Return settings of a launcher that runs fake stages on the CPU.

    `jobs` stages run at once; None means as many as the machine can run.
    """
    return LauncherSettings(folders, jobs, "cpu", FAKE_STAGES, **settings)


def execute(matrix: Matrix, folders: Folders, jobs: int = 1) -> Run:
    """Run the matrix to its end on this machine."""
    with local.open(settings_for(folders, jobs)) as launcher:
        run = Run(matrix, folders, launcher, FAST_RETRIES)
        for _ in run.events():
            pass
    return run


def load_result(stage: Stage, folders: Folders) -> result.Result:
    """Load the result of a stage that is done."""
    record = result.load(stage.folder(folders.runs))
    assert record is not None, f"{stage.name} is not done"
    return record


def value(stage: Stage, folders: Folders) -> int:
    """Return the value that a fake stage has computed: 1 plus the values of its needs."""
    return int(load_result(stage, folders).metrics["value"])


SCRIPT = """
import json, sys
sys.path[:0] = {path!r}
from pathlib import Path
from tests.helpers.execution import matrix_of, settings_for
from harness.runner.executor import Run, begin
from harness.system.folders import Folders
from harness.runner.launchers import local
from harness.matrix.stage import Stage
stages = {{}}
for spec in json.loads(Path({file!r}).read_text()):
    needs = {{role: stages[need["key"]] for role, need in spec["needs"].items()}}
    stages[spec["key"]] = Stage(spec["kind"], spec["config"], needs, spec["axes"], spec["name"])
folders = Folders(*map(Path, {folders!r}))
settings = settings_for(folders, int(sys.argv[1]), began_at=begin(folders))
with local.open(settings) as launcher:
    run = Run(matrix_of(*stages.values()), folders, launcher)
    try:
        for _ in run.events():
            pass
    except KeyboardInterrupt:
        run.stop(240)
        sys.exit(130)
"""


def write_script(tmp_path: Path, folders: Folders, stages: list[Stage]) -> str:
    """Write a program that runs these stages, as `harness run` would; its argument is --jobs."""
    specs, script = tmp_path / "stages.json", tmp_path / "run.py"
    specs.write_text(json.dumps([stage.to_json() for stage in stages]))
    script.write_text(
        SCRIPT.format(
            path=[str(ROOT)],
            file=str(specs),
            folders=[str(folders.data), str(folders.raw), str(folders.runs)],
        )
    )
    return str(script)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing or incomplete."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def wait_for(condition: Callable[[], Any], timeout_s: float = 240) -> None:
    """Poll the condition until it is true; fail after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true after {timeout_s:.0f} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Return True if the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def listening_addresses(pids: Iterable[int]) -> set[str]:
    """Return the addresses at which these processes accept TCP, as in /proc/net/tcp."""
    addresses = {}  # inode of a listening socket -> its address
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A":
                addresses[columns[9]] = columns[1].rpartition(":")[0]
    found = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError, KeyError):
                inode = str(link.readlink()).removeprefix("socket:[").rstrip("]")
                found.add(addresses[inode])
    return found


def workers_of(pid: int) -> list[int]:
    """List all descendants of a process: the fork server and the workers."""
    try:
        children = [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []
    return [*children, *(grandchild for child in children for grandchild in workers_of(child))]
