"""Estimate the remaining time of a run from the stages that it has finished so far.

`harness.estimate.reference_times` gives the seconds of each stage on a reference machine. Finished
stages, and the progress of running stages, give ratios of measured seconds to reference seconds.
A waiting stage takes its reference seconds times the ratio of the most similar stages. These are
stages with the same model, data and method, or else with the same kind and network, or else of the
same kind, or else with any network. Waiting stages are then assigned to slots in the order in which
the run starts them. Imports no torch.
"""

import heapq
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.estimate import reference_times
from harness.estimate.estimate import cost_key, expected_runs, measured_rates
from harness.estimate.image_counts import ImageCounts
from harness.estimate.reference_times import Reference
from harness.estimate.workload import Workloads
from harness.matrix.stage import Stage

# The progress of a running stage is used if at least this fraction of its work is done and it has
# run for at least MIN_ELAPSED_S seconds.
MIN_FRACTION = 0.02
MIN_ELAPSED_S = 1.0
MIN_SECONDS = 1e-3  # smallest seconds of a stage on the reference machine
PRIOR_SHARE = 0.02  # weight of the reference machine's speed, as a fraction of the run's time
MAX_PLACED = 3000  # stages that are assigned to slots one by one
MACHINE = "machine"  # key of the ratio over all stages that the reference machine has run


@dataclass(frozen=True)
class Running:
    """A stage that runs now.

    Attributes:
        elapsed_s: seconds since its start.
        fraction: fraction of its progress that is done, in [0, 1]; 0 if unknown. At 1, what follows
            after the progress may still run.
    """

    stage: Stage
    elapsed_s: float
    fraction: float

    @property
    def is_predictable(self) -> bool:
        """True if the stage's end can be predicted from its progress."""
        return (
            self.stage.spec.counts_once
            and self.fraction >= MIN_FRACTION
            and self.elapsed_s >= MIN_ELAPSED_S
        )


@dataclass(frozen=True)
class _Ratio:
    """Ratio of measured seconds to reference seconds, over stages that are similar."""

    num_stages: int = 0
    seconds: float = 0.0
    reference_s: float = 0.0

    def with_stage(self, seconds: float, reference_s: float) -> "_Ratio":
        return _Ratio(
            self.num_stages + 1,
            self.seconds + seconds,
            self.reference_s + max(reference_s, MIN_SECONDS),
        )

    def near(self, wider: float | None, most_s: float) -> float:
        """Ratio over these stages and an additional stage of average length with the ratio `wider`.

        The additional stage keeps a single exceptional stage from determining the result.

        Args:
            wider: ratio of less similar stages; None if there is none.
            most_s: largest length of the additional stage, in seconds on the reference machine.
        """
        if wider is None:
            return self.seconds / self.reference_s
        one = min(self.reference_s / self.num_stages, most_s)
        return (self.seconds + wider * one) / (self.reference_s + one)


class RemainingTime:
    """Estimate of the remaining seconds of one run, updated with each stage that ends."""

    def __init__(
        self,
        pending: Mapping[str, Stage],
        runs: Path,
        urgency: Mapping[str, float] | None = None,
        *,
        on_cpu: bool = False,
    ) -> None:
        """Compute the work of the stages.

        Args:
            pending: stages of the run by key, in the order of the recipe.
            runs: folder of stages.
            urgency: `Matrix.urgency`: of the stages that may start, the most urgent starts first.
                None means they start in the order of the recipe.
            on_cpu: the stages run on a CPU, so the seconds on the reference machine are used as a
                first estimate before any stage has ended.
        """
        workloads, images = Workloads(runs), ImageCounts(runs)
        earlier = measured_rates(dict(pending), runs)
        self._place = {
            key: (-(urgency or {}).get(key, 0.0), index) for index, key in enumerate(pending)
        }
        self._stages = dict(pending)
        self._reference: dict[str, Reference] = {}
        self._earlier: dict[str, float] = {}
        self._kinship: dict[str, tuple[Hashable, ...]] = {}
        for key, stage in pending.items():
            reference = _reference(stage, workloads, images)
            self._reference[key] = reference
            self._kinship[key] = _kinship(stage, reference, on_cpu=on_cpu)
            if (rate := earlier.get(cost_key(stage))) is not None:
                self._earlier[key] = rate * stage.spec.work(stage.config)
        total_s = sum(reference.total_s for reference in self._reference.values())
        self._most_s = PRIOR_SHARE * total_s
        self._on_cpu = on_cpu
        self._is_warm: set[bool] = set()  # has_network of the stages that have ended
        self._ratios: dict[Hashable, _Ratio] = {}
        if on_cpu:
            self._ratios[MACHINE] = _Ratio(1, self._most_s, max(self._most_s, MIN_SECONDS))

    def add(self, stage: Stage, wall_s: float) -> None:
        """Count a finished stage of the run that took `wall_s` seconds."""
        reference = self._reference[stage.key]
        reference_s = reference.total_s + self._cold_s(reference)
        if reference.is_measured:
            self._is_warm.add(reference.has_network)
        self._count(self._ratios, stage.key, wall_s, reference_s)

    def _cold_s(self, reference: Reference) -> float:
        """Extra seconds of a first stage on the reference machine; 0 if such a stage has ended.

        The first stage with a network, and the first one without, import code. 0 if the extra
        seconds are unknown, as on a GPU.
        """
        is_known = self._on_cpu and reference.is_measured
        if not is_known or reference.has_network in self._is_warm:
            return 0.0
        return reference_times.COLD_S if reference.has_network else reference_times.IMPORTS_S

    def seconds(
        self, waiting: Iterable[Stage], running: Iterable[Running], num_slots: int
    ) -> float | None:
        """Estimate the seconds until the last stage ends.

        Args:
            waiting: stages that have not started.
            running: stages that run.
            num_slots: number of stages that run at the same time.

        Returns:
            None if the time of most of the work is unknown.
        """
        running, waiting = list(running), list(waiting)
        ratios = self._with(running)
        left: dict[str, float] = {}
        known = {True: 0.0, False: 0.0}  # seconds on the reference machine
        for one in running:
            expected = self._expected_cold(one.stage.key, ratios)
            left[one.stage.key] = self._left(one, expected)
            known[expected is not None] += self._reference[one.stage.key].total_s
        takes: dict[str, float] = {}
        for stage in waiting:
            expected = self._expected(stage.key, ratios)
            takes[stage.key] = (expected or 0.0) * expected_runs(stage)
            known[expected is not None] += self._reference[stage.key].total_s
        if known[False] > known[True]:
            return None
        return self._last_end(takes, left, num_slots)

    def _left(self, one: Running, expected: float | None) -> float:
        """Seconds until a running stage ends; 0 if unknown."""
        if expected is None:
            return 0.0
        if one.is_predictable:
            reference = self._reference[one.stage.key]
            left_s = (1 - one.fraction) * reference.counted_s + reference.end_s
            return expected * left_s / reference.total_s
        return max(0.0, expected - one.elapsed_s)

    def _with(self, running: Iterable[Running]) -> dict[Hashable, _Ratio]:
        """Return the ratios of finished stages, with the work that running stages have done."""
        ratios = dict(self._ratios)
        for one in running:
            reference = self._reference[one.stage.key]
            expected = self._expected_cold(one.stage.key, self._ratios)
            cold_s = self._cold_s(reference)
            if one.is_predictable:
                done_s = reference.start_s + one.fraction * (reference.counted_s + cold_s)
                self._count(ratios, one.stage.key, one.elapsed_s, done_s)
            elif expected is not None and one.elapsed_s > expected:  # it takes longer than expected
                self._count(ratios, one.stage.key, one.elapsed_s, reference.total_s + cold_s)
        return ratios

    def _count(
        self, ratios: dict[Hashable, _Ratio], key: str, seconds: float, reference_s: float
    ) -> None:
        for similar in self._kinship[key]:
            ratios[similar] = ratios.get(similar, _Ratio()).with_stage(seconds, reference_s)

    def _expected_cold(self, key: str, ratios: Mapping[Hashable, _Ratio]) -> float | None:
        """Total seconds of a running stage, with the extra seconds of a first stage."""
        expected = self._expected(key, ratios)
        return None if expected is None else expected + self._cold_s(self._reference[key])

    def _expected(self, key: str, ratios: Mapping[Hashable, _Ratio]) -> float | None:
        """Total seconds of a stage; None if no similar stage is known."""
        exact, *similar = self._kinship[key]
        if exact not in ratios and key in self._earlier:
            return self._earlier[key]
        reference = self._reference[key]
        ratio = None
        for wider in (*reversed(similar), exact):
            if wider in ratios:
                ratio = ratios[wider].near(ratio, self._most_s)
        return None if ratio is None else ratio * reference.total_s

    def _last_end(
        self, takes: Mapping[str, float], left: Mapping[str, float], num_slots: int
    ) -> float:
        """Seconds until the last stage ends, if each free slot takes the most urgent ready stage.

        Args:
            takes: total seconds of each waiting stage.
            left: remaining seconds of each running stage.
            num_slots: number of stages that run at the same time.
        """
        if len(takes) > MAX_PLACED:
            longest = max((*takes.values(), *left.values()))
            return max(longest, (sum(takes.values()) + sum(left.values())) / max(1, num_slots))
        dependants: dict[str, list[str]] = {}
        num_unmet: dict[str, int] = {}
        for key in takes:
            needs = {stage.key for stage in self._stages[key].waits_for}
            unmet = [need for need in needs if need in takes or need in left]
            num_unmet[key] = len(unmet)
            for need in unmet:
                dependants.setdefault(need, []).append(key)
        ready = [(self._place[key], key) for key, number in num_unmet.items() if not number]
        heapq.heapify(ready)
        ends = [(seconds, key) for key, seconds in left.items()]
        heapq.heapify(ends)
        now = 0.0
        while ready or ends:
            while ready and len(ends) < max(1, num_slots):
                _, key = heapq.heappop(ready)
                heapq.heappush(ends, (now + takes[key], key))
            now, ended = heapq.heappop(ends)
            for key in dependants.get(ended, ()):
                num_unmet[key] -= 1
                if not num_unmet[key]:
                    heapq.heappush(ready, (self._place[key], key))
        return now


def _reference(stage: Stage, workloads: Workloads, images: ImageCounts) -> Reference:
    """Seconds on the reference machine."""
    if parts := workloads.of(stage):
        return reference_times.of_network(stage, parts)
    if stage.kind == "write":
        return reference_times.of_write(stage, images.of(stage))
    return reference_times.of_other(stage)


def _kinship(stage: Stage, reference: Reference, *, on_cpu: bool) -> tuple[Hashable, ...]:
    """List keys that the stage shares with similar stages, the most specific key first."""
    # A stage that copies samples from another `.beton` file, as for a subset, takes less time.
    copies = bool(stage.needs)
    network = stage.axes.get("arch"), stage.axes.get("model")
    keys: list[Hashable] = [(*cost_key(stage), copies), (stage.kind, *network, copies)]
    if reference.has_network:
        keys += [(stage.kind, copies), ()]
    if on_cpu and reference.is_measured:
        keys.append(MACHINE)
    return tuple(keys)
