"""Run the stages of a matrix that are not done yet, in parallel, longest path first.

Each stage starts after the stages that it needs. A failed stage blocks only the stages that need
it, and the next run retries it. A stage that was preempted, lost its worker, ran out of memory or
needs a new process is retried within this run (`harness.runner.retry`). All state is on disk: a run
may end at any point, and the next run continues from there.
"""

import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.matrix.expand import Matrix
from harness.matrix.stage import FILE_NAME, Stage, specs_of
from harness.runner import provenance, result, retry, shortlist, stage_state
from harness.runner.gpu_packing import ResourceKey, resource_key
from harness.runner.launcher import Finished, Launcher
from harness.runner.retry import FailureCause, RetryPolicy
from harness.system import os_errors
from harness.system.atomic_write import write_json
from harness.system.folders import Folders
from writers import lease

LOGGER = logging.getLogger(__name__)
BUSY_RETRY_S = 0.5  # interval between checks of a stage that another process runs
WAIT_S = 0.25  # longest wait for the launcher, and so the longest time between two events


@dataclass(frozen=True)
class Event:
    """Progress of a run, for display.

    Attributes:
        what: type of the event. While nothing happens, "waiting" comes several times a second.
        stage: stage of the event; None for "waiting".
        wall_s: seconds since this run started the stage; 0 if another run did, or if the stage has
            not ended.
        message: reason of a failure or retry; otherwise empty.
    """

    what: Literal["started", "done", "failed", "retry", "busy", "skipped", "waiting"]
    stage: Stage | None = None
    wall_s: float = 0.0
    message: str = ""


class Cancelled(Exception):
    """Raised in a run after `harness cancel`."""


@dataclass
class Run:
    """State of one run; iterating over `events()` drives it to its end.

    Attributes:
        matrix: all stages of the recipe.
        folders: folders of `.beton` files, raw data and stages.
        launcher: starts the stages.
        policy: number of retries and waits between them.
        is_cancelled: returns True after `harness cancel`.
        on_idle_slot: called once, as soon as a slot is free and no stage is left to start. Not
            called if the last stages end at the same time.
        on_event: called with each event before it is yielded.
        running: key -> stage and monotonic time of its start.
        failed: key -> the most informative line of the error; without stages that will be retried.
        finished: keys of the stages that are done, or that a shortlist skips.
        pending: key -> stage that was not done when this run began. Never changes.
        num_unmet: key -> number of needed stages that are not finished.
        blocked: keys of pending stages that cannot run because a stage that they need failed.
        ready: `gpu_packing.resource_key` -> heap of stages that may start, by longest path, then by
            recipe order. The launcher can start either all stages of a heap or none, so only the
            first stage of each heap is checked.
        busy: key -> time of the next check, for stages that another process runs.
        waiting: key -> time of the retry, for failed stages that will be retried.
        attempts: key -> cause -> number of failed attempts in this run.
    """

    matrix: Matrix
    folders: Folders
    launcher: Launcher
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    is_cancelled: Callable[[], bool] = lambda: False
    on_idle_slot: Callable[[], None] = lambda: None
    on_event: Callable[[Event], None] = lambda event: None
    running: dict[str, tuple[Stage, float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Determine which stages are pending, and which of them are ready."""
        self.is_stopping = False
        self.pending = unfinished(self.matrix, self.folders)
        self.finished = {stage.key for stage in self.matrix.stages} - self.pending.keys()
        self.num_unmet = {
            key: sum(need.key in self.pending for need in stage.waits_for)
            for key, stage in self.pending.items()
        }
        self.shortlists: dict[str, frozenset[str] | None] = {}
        self.blocked: set[str] = set()
        self.ready: dict[ResourceKey, list[tuple[float, int, str]]] = {}
        self.busy: dict[str, float] = {}
        self.waiting: dict[str, float] = {}
        self.attempts: dict[str, Counter[FailureCause]] = {}
        recipe = self.matrix.recipe if self.pending else None
        self.recipe_file = provenance.keep_recipe(recipe, self.folders.runs) if recipe else ""
        self.order = {stage.key: index for index, stage in enumerate(self.matrix.stages)}
        for key, num_unmet in self.num_unmet.items():
            if num_unmet == 0:
                self._mark_ready(key)

    @property
    def not_run(self) -> list[Stage]:
        """Pending stages that have neither finished nor failed.

        After a complete run, these are the stages that a failed stage blocks.
        """
        return [
            stage
            for key, stage in self.pending.items()
            if key not in self.finished and key not in self.failed
        ]

    def events(self) -> Iterator[Event]:
        """Run to the end and yield an event for everything that happens.

        The caller may leave the loop early, but must then call `stop`.

        Raises:
            Cancelled: `is_cancelled` returned True.
        """
        for event in self._events():
            self.on_event(event)
            yield event

    def _events(self) -> Iterator[Event]:
        kinds, was_idle = {stage.kind for stage in self.pending.values()}, False
        while not self._is_over():
            if self.is_cancelled():
                raise Cancelled
            yield from self._start_ready()
            if self._is_over():  # all other stages have ended, also in other runs
                return
            if kinds:  # prefetch after the first start, so that ready stages do not wait for it
                self.launcher.prefetch(kinds)
                kinds = set()
            if not was_idle and self._has_idle_slot():
                self.on_idle_slot()
                was_idle = True
            answers = self.launcher.wait(WAIT_S)
            for answer in answers:
                yield from self._handle(answer)
            if not answers:
                yield Event("waiting")

    def stop(self, grace_s: float) -> None:
        """Ask the running stages to save and stop, and wait at most `grace_s` for them."""
        self.is_stopping = True
        for answer in self.launcher.stop(grace_s):
            for _ in self._handle(answer):
                pass

    def _num_left(self) -> int:
        """Count the stages that have not ended and are not blocked."""
        return len(self.matrix.stages) - len(self.finished) - len(self.failed) - len(self.blocked)

    def _has_idle_slot(self) -> bool:
        """Return True if all remaining stages run and a slot is free.

        If there is only one slot, it counts as free, because it will be busy until the end.
        """
        num_running = len(self.running)
        return num_running == self._num_left() and num_running < max(2, self.launcher.num_slots)

    def _is_over(self) -> bool:
        return not (any(self.ready.values()) or self.running or self.busy or self.waiting)

    def _start_ready(self) -> Iterator[Event]:
        now = time.monotonic()
        for later in (self.busy, self.waiting):
            for key in [key for key, retry_at in later.items() if retry_at <= now]:
                del later[key]
                self._mark_ready(key)
        while (stage := self._next()) is not None:
            folder = stage.folder(self.folders.runs)
            # First check that no other run executes the stage: it could invalidate the next checks.
            if lease.is_held(folder):
                self.busy[stage.key] = time.monotonic() + BUSY_RETRY_S
                yield Event("busy", stage)
                continue
            # The shortlist has finished at this point, so it does not change any more.
            if shortlist.skipped([stage], self.folders.runs, self.shortlists):
                self._mark_done(stage.key)
                yield Event("skipped", stage)
                continue
            is_done = stage_state.is_done(stage.spec, folder, self.folders.data)
            if is_done and not stage_state.is_incomplete(stage.spec, folder):
                self._mark_done(stage.key)  # another run has finished it meanwhile
                yield Event("done", stage)
                continue
            message = stage_state.failed_since(folder, self.launcher.settings.began_at)
            if message is not None:
                self._mark_failed(stage.key, message)
                yield Event("failed", stage, 0.0, message)
                continue
            try:
                prepare(stage, folder, self.recipe_file)
            except OSError as error:  # full disk, or the path exists; continue with others
                message = str(os_errors.explain(error) or error).splitlines()[0]
                self._mark_failed(stage.key, message)
                yield Event("failed", stage, 0.0, message)
                continue
            # Record the stage before it starts, so that `stop` handles it after an interruption.
            self.running[stage.key] = (stage, time.monotonic())
            LOGGER.debug("Start %s in %s", stage.name, folder)
            self.launcher.start(stage, folder)
            yield Event("started", stage)

    def _handle(self, answer: Finished) -> Iterator[Event]:
        stage, started = self.running.pop(answer.folder.name)
        wall_s = time.monotonic() - started
        if answer.status == "done":
            self._mark_done(stage.key)
            yield Event("done", stage, wall_s)
        elif answer.status == "busy" or self.is_stopping:
            self.busy[stage.key] = time.monotonic() + BUSY_RETRY_S
            yield Event("busy", stage)
        else:
            cause: FailureCause = "preempted" if answer.status == "stopped" else answer.cause
            yield self._retry_or_fail(stage, cause, answer.message, wall_s)

    def _retry_or_fail(
        self, stage: Stage, cause: FailureCause, message: str, wall_s: float
    ) -> Event:
        folder = stage.folder(self.folders.runs)
        earlier = self.attempts.setdefault(stage.key, Counter())
        wait_s = self.policy.wait_s(cause, earlier)
        earlier[cause] += 1
        if wait_s is None:
            self._mark_failed(stage.key, message)
            retry.give_up(folder, message)
            return Event("failed", stage, wall_s, message)
        retry.record_attempt(folder, cause, message)
        self.waiting[stage.key] = time.monotonic() + wait_s
        return Event("retry", stage, wall_s, message or cause)

    def _next(self) -> Stage | None:
        """Pop the most urgent ready stage that the launcher can start; None if there is none."""
        startable = [
            heap
            for heap in self.ready.values()
            if heap and self.launcher.can_start(self.pending[heap[0][2]])
        ]
        if not startable:
            return None
        return self.pending[heapq.heappop(min(startable, key=lambda heap: heap[0]))[2]]

    def _mark_done(self, key: str) -> None:
        self.finished.add(key)
        for dependant in self.matrix.dependants[key]:
            if dependant.key in self.num_unmet:
                self._mark_need_over(dependant, key)

    def _mark_failed(self, key: str, message: str) -> None:
        self.failed[key] = message
        self._release_dependants(key)

    def _release_dependants(self, key: str) -> None:
        """Block stages that need a failed or blocked stage, unless their kind tolerates that."""
        for dependant in self.matrix.dependants[key]:
            if dependant.key not in self.num_unmet or dependant.key in self.blocked:
                continue
            if dependant.spec.tolerates_failed_needs:
                self._mark_need_over(dependant, key)
            else:
                self.blocked.add(dependant.key)
                self._release_dependants(dependant.key)

    def _mark_need_over(self, dependant: Stage, key: str) -> None:
        self.num_unmet[dependant.key] -= sum(need.key == key for need in dependant.waits_for)
        if self.num_unmet[dependant.key] == 0:
            self._mark_ready(dependant.key)

    def _mark_ready(self, key: str) -> None:
        heap = self.ready.setdefault(resource_key(self.pending[key]), [])
        heapq.heappush(heap, (-self.matrix.urgency[key], self.order[key], key))


def begin(folders: Folders) -> float:
    """Create the runs folder and return the start time of the run, by the file system's clock.

    The clocks of hosts differ, but the file system's clock stamps the files of all stages.
    """
    folders.runs.mkdir(parents=True, exist_ok=True)
    return lease.file_system_time(folders.runs / ".clock")


def unfinished(matrix: Matrix, folders: Folders) -> dict[str, Stage]:
    """Return key -> stage for all stages that a run would execute, in dependency order.

    If the output files of a finished stage were deleted, the stage is repeated only if an
    unfinished stage needs it. Stages that an existing shortlist skips are left out. If a shortlist
    is not finished, the stages that wait for it are included, because some of them will run.
    """
    keys: set[str] = set()
    needed: set[str] = set()  # keys of stages that an unfinished stage waits for
    skipped = shortlist.skipped(matrix.stages, folders.runs)
    spec_of = specs_of(matrix.stages)
    with_result = stage_state.with_result(folders.runs, spec_of)
    to_recompute = {
        stage.key
        for stage in matrix.stages
        # Make paths only for kinds that can be incomplete: 100,000 paths take two seconds.
        if spec_of[stage.kind].is_incomplete is not None
        and stage_state.is_incomplete(stage.spec, stage.folder(folders.runs))
    }
    for stage in reversed(matrix.stages):
        key, gate = stage.key, stage.gated_by
        if key in skipped and gate is not None and gate.key not in to_recompute:
            continue
        if (
            key not in with_result
            or key in to_recompute
            or (
                key in needed
                and not stage_state.has_outputs(
                    stage.spec, stage.folder(folders.runs), folders.data
                )
            )
        ):
            keys.add(key)
            needed.update(stage_needed.key for stage_needed in stage.waits_for)
    return {stage.key: stage for stage in matrix.stages if stage.key in keys}


def prepare(stage: Stage, folder: Path, recipe_file: str = "") -> None:
    """Write the stage's stage.json. Delete a result that `stage_state.is_incomplete` rejects.

    recipe_file: path of the recipe in the runs folder, from `provenance.keep_recipe`.
    """
    if stage_state.is_incomplete(stage.spec, folder):
        (folder / result.FILE_NAME).unlink()
    spec = stage.to_json()
    spec["recipe"] = recipe_file
    write_json(folder / FILE_NAME, spec)
