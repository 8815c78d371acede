"""Runs what is left of a matrix: each stage after those it needs, longest path first, side by side, to the end.

A failed stage blocks only those that need it, and is tried again at the next run; one that was preempted, lost its worker
or ran out of memory is tried again in this run, after a wait (`harness.runner.retry`). Nothing here is kept in memory that is not
on disk: end it anywhere, and the next run goes on from there.
"""

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.matrix.expand import Matrix
from harness.matrix.stage import Stage
from harness.runner import lease, provenance, result, retry, shortlist, stage_state
from harness.runner.gpu_packing import ResourceKey, resource_key
from harness.runner.launcher import Finished, Launcher
from harness.runner.retry import FailureCause, RetryPolicy
from harness.system import os_errors
from harness.system.atomic_write import write_json
from harness.system.folders import Folders

BUSY_RETRY_S = 0.5  # how often to ask again for a stage that another process holds


@dataclass(frozen=True)
class Event:
    """Something to show. `waiting` comes now and then, so that a display can move."""

    what: Literal["started", "done", "failed", "retry", "busy", "skipped", "waiting"]
    stage: Stage | None = None
    wall_s: float = 0.0
    message: str = ""


class Cancelled(Exception):
    """The run was asked to stop by `harness cancel`."""


@dataclass
class Run:
    """The state of one run. `events()` drives it to the end."""

    matrix: Matrix
    folders: Folders
    launcher: Launcher
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    is_cancelled: Callable[[], bool] = lambda: False
    on_all_started: Callable[[], None] = lambda: None  # called once, when all that is left is running
    running: dict[str, tuple[Stage, float]] = field(
        default_factory=dict
    )  # key -> stage, time of its start
    failed: dict[str, str] = field(default_factory=dict)  # key -> the line that says most
    finished: set[str] = field(default_factory=set)  # keys that are done

    def __post_init__(self) -> None:
        self.is_stopping = False
        self.pending = unfinished(self.matrix, self.folders)
        self.finished = {stage.key for stage in self.matrix.stages} - self.pending.keys()
        self.open_needs = {
            key: sum(need.key in self.pending for need in stage.waits_for)
            for key, stage in self.pending.items()
        }
        self.shortlists: dict[str, frozenset[str] | None] = {}
        self.in_vain: set[str] = set()  # wait for one that has failed
        # Stages that are alike -> a heap: the longest path first, then recipe order. A launcher may have room for some only.
        self.ready: dict[ResourceKey, list[tuple[float, int, str]]] = {}
        self.busy: dict[str, float] = {}  # held by another process -> when to ask again
        self.waiting: dict[str, float] = {}  # to be tried again -> when
        self.attempts: dict[str, Counter[FailureCause]] = {}  # of this run, that came to nothing
        asked = self.matrix.recipe if self.pending else None
        self.recipe_file = provenance.keep_recipe(asked, self.folders.runs) if asked else ""
        self.order = {stage.key: index for index, stage in enumerate(self.matrix.stages)}
        for key, num_open in self.open_needs.items():
            if num_open == 0:
                self._is_ready(key)

    @property
    def blocked(self) -> list[Stage]:
        """Stages that were not run because one that they need has failed."""
        return [
            stage
            for key, stage in self.pending.items()
            if key not in self.finished and key not in self.failed
        ]

    def events(self) -> Iterator[Event]:
        """Run to the end, telling what happens; raises Cancelled where `is_cancelled` says so. Leave the loop, or
        interrupt it, at any point: then call `stop`."""
        to_come, is_last = {stage.kind for stage in self.pending.values()}, False
        while not self._is_over():
            if self.is_cancelled():
                raise Cancelled
            yield from self._start_ready()
            if self._is_over():  # others have done or failed at all that was left
                return
            if to_come:  # not before: what is ready should not wait for what the others need
                self.launcher.prefetch(to_come)
                to_come = set()
            if not is_last and len(self.running) == self._num_left():
                self.on_all_started()
                is_last = True
            answers = self.launcher.wait(0.25)
            for answer in answers:
                yield from self._take(answer)
            if not answers:
                yield Event("waiting")

    def stop(self, grace_s: float) -> None:
        """Ask the running stages to save and stop."""
        self.is_stopping = True
        for answer in self.launcher.stop(grace_s):
            for _ in self._take(answer):
                pass

    def _num_left(self) -> int:
        """Stages that are not over, and do not wait in vain."""
        return len(self.matrix.stages) - len(self.finished) - len(self.failed) - len(self.in_vain)

    def _is_over(self) -> bool:
        return not (any(self.ready.values()) or self.running or self.busy or self.waiting)

    def _start_ready(self) -> Iterator[Event]:
        now = time.monotonic()
        for later in (self.busy, self.waiting):
            for key in [key for key, again_at in later.items() if again_at <= now]:
                del later[key]
                self._is_ready(key)
        while (stage := self._next()) is not None:
            folder = stage.folder(self.folders.runs)
            if lease.is_held(
                folder
            ):  # asked first: what another run does is told from what it has done by this
                self.busy[stage.key] = time.monotonic() + BUSY_RETRY_S
                yield Event("busy", stage)
                continue
            if shortlist.skipped(
                [stage], self.folders.runs, self.shortlists
            ):  # it is over, and will not change
                self._is_finished(stage.key)
                yield Event("skipped", stage)
                continue
            if stage_state.is_done(stage.spec, folder, self.folders.data) and not _is_drawn_up_again(
                stage, folder
            ):
                # another run has done it meanwhile
                self._is_finished(stage.key)
                yield Event("done", stage)
                continue
            message = stage_state.failed_since(folder, self.launcher.settings.began_at)
            if message is not None:
                self._has_failed(stage.key, message)
                yield Event("failed", stage, 0.0, message)
                continue
            try:
                prepare(stage, folder, self.recipe_file)
            except OSError as error:  # a full disk, a file in the way: what runs goes on
                message = str(os_errors.explain(error) or error).splitlines()[0]
                self._has_failed(stage.key, message)
                yield Event("failed", stage, 0.0, message)
                continue
            self.running[stage.key] = (
                stage,
                time.monotonic(),
            )  # first, so that an interruption finds it
            self.launcher.start(stage, folder)
            yield Event("started", stage)

    def _take(self, answer: Finished) -> Iterator[Event]:
        stage, started = self.running.pop(answer.folder.name)
        wall_s = time.monotonic() - started
        if answer.status == "done":
            self._is_finished(stage.key)
            yield Event("done", stage, wall_s)
        elif answer.status == "busy" or self.is_stopping:
            self.busy[stage.key] = time.monotonic() + BUSY_RETRY_S
            yield Event("busy", stage)
        else:
            cause: FailureCause = "preempted" if answer.status == "stopped" else answer.cause
            yield self._again_or_failed(stage, cause, answer.message, wall_s)

    def _again_or_failed(self, stage: Stage, cause: FailureCause, message: str, wall_s: float) -> Event:
        folder = stage.folder(self.folders.runs)
        earlier = self.attempts.setdefault(stage.key, Counter())
        wait_s = self.policy.wait_s(cause, earlier)
        earlier[cause] += 1
        if wait_s is None:
            self._has_failed(stage.key, message)
            retry.give_up(folder, message)
            return Event("failed", stage, wall_s, message)
        retry.note(folder, cause, message)
        self.waiting[stage.key] = time.monotonic() + wait_s
        return Event("retry", stage, wall_s, message or cause)

    def _next(self) -> Stage | None:
        """The most urgent stage that is ready and that the launcher has room for."""
        startable = [
            heap
            for heap in self.ready.values()
            if heap and self.launcher.can_start(self.pending[heap[0][2]])
        ]
        return (
            self.pending[heapq.heappop(min(startable, key=lambda heap: heap[0]))[2]]
            if startable
            else None
        )

    def _is_finished(self, key: str) -> None:
        self.finished.add(key)
        for after in self.matrix.dependants[key]:
            if after.key in self.open_needs:
                self._need_is_over(after, key)

    def _has_failed(self, key: str, message: str) -> None:
        self.failed[key] = message
        self._do_without(key)

    def _do_without(self, key: str) -> None:
        """Whoever can do without a stage that has failed, or waits in vain for one that has, waits for it no longer."""
        for after in self.matrix.dependants[key]:
            if after.key not in self.open_needs or after.key in self.in_vain:
                continue
            if after.spec.tolerates_failed_needs:
                self._need_is_over(after, key)
            else:
                self.in_vain.add(after.key)
                self._do_without(after.key)

    def _need_is_over(self, after: Stage, key: str) -> None:
        self.open_needs[after.key] -= sum(need.key == key for need in after.waits_for)
        if self.open_needs[after.key] == 0:
            self._is_ready(after.key)

    def _is_ready(self, key: str) -> None:
        heap = self.ready.setdefault(resource_key(self.pending[key]), [])
        heapq.heappush(heap, (-self.matrix.urgency[key], self.order[key], key))


def begin(folders: Folders) -> float:
    """The time at which a run begins, by the clock that stamps the stages' files: other hosts' clocks differ."""
    folders.runs.mkdir(parents=True, exist_ok=True)
    return lease.file_system_time(folders.runs / ".clock")


def unfinished(matrix: Matrix, folders: Folders) -> dict[str, Stage]:
    """Key -> stage, of all that a run would do, in dependency order.

    A finished stage whose files are gone (a deleted beton) is done again only if something that is left needs it. Stages of
    models that are not on their shortlist are not done, but where the shortlist itself is left, that is to be seen.
    """
    left: set[str] = set()
    skipped = shortlist.skipped(matrix.stages, folders.runs)
    with_result = stage_state.with_result(folders.runs, {stage.kind for stage in matrix.stages})
    drawn_up_again = {
        stage.key
        for stage in matrix.stages
        if stage.kind == shortlist.KIND and shortlist.is_incomplete(stage.folder(folders.runs))
    }
    for stage in reversed(matrix.stages):
        if (
            stage.key in skipped
            and stage.gated_by is not None
            and stage.gated_by.key not in drawn_up_again
        ):
            continue
        if stage.key in drawn_up_again:
            left.add(stage.key)
            continue
        needed = any(after.key in left for after in matrix.dependants[stage.key])
        if stage.key not in with_result or (
            needed and not stage_state.has_outputs(stage.spec, stage.folder(folders.runs), folders.data)
        ):
            left.add(stage.key)
    return {stage.key: stage for stage in matrix.stages if stage.key in left}


def _is_drawn_up_again(stage: Stage, folder: Path) -> bool:
    return stage.kind == shortlist.KIND and shortlist.is_incomplete(folder)


def prepare(stage: Stage, folder: Path, recipe_file: str = "") -> None:
    """Leave the stage's orders in its folder; a shortlist that is to be drawn up again goes."""
    if _is_drawn_up_again(stage, folder):
        (folder / result.FILE_NAME).unlink()
    write_json(folder / "stage.json", stage.describe() | {"recipe": recipe_file})
