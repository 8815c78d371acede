"""Which stages fit on one GPU together: by the memory that the first of each kind was measured to take, alone on its GPU."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from harness import result
from harness.stage import Stage

MOST_READ = 200             # results of a kind
CONTEXT_BYTES = 700e6       # of a process on a GPU beside torch's own memory: the context, cuDNN's and cuBLAS's kernels
USABLE_SHARE = 0.92         # of a GPU's memory: fragments, and what differs between stages of a kind
Likeness = tuple[Any, ...]


def likeness(stage: Stage) -> Likeness:
    """Stages of which this is equal take about as much memory: whatever their seed, rates, subset and data."""
    settings = {**stage.config, **stage.config.get("settings", {})}
    return (stage.kind, stage.axes.get("arch"), stage.axes.get("model"), stage.axes.get("method"), settings.get("resolution"),
            settings.get("batch_size"), bool(stage.axes.get("eps")))


@dataclass
class GpuMemory:
    """What is known of the stages in `runs`; results on disk are read when a kind is first asked about."""

    runs: Path
    total_bytes: float                                      # of the smallest GPU
    known: dict[Likeness, float] = field(default_factory=dict)
    kinds_read: set[str] = field(default_factory=set)

    def fit(self, stage: Likeness, running: Sequence[Likeness]) -> bool:
        """Whether the stage may join those that run on a GPU. One of which nothing is known has the GPU to itself."""
        if not running:
            return True
        needs = [self._bytes(one) for one in (stage, *running)]
        return all(need is not None for need in needs) and sum(filter(None, needs)) <= USABLE_SHARE * self.total_bytes

    def learn(self, stage: Likeness, folder: Path) -> None:
        """From the result of a stage that has just ended."""
        try:
            measured = json.loads((folder / result.FILE_NAME).read_text()).get("gpu_memory_bytes")
        except (OSError, ValueError, AttributeError):
            return
        if measured is not None:
            self.known[stage] = max(self.known.get(stage, 0.0), measured + CONTEXT_BYTES)

    def was_too_much(self, stage: Likeness) -> None:
        """It ran out of memory: from now on it has a GPU to itself."""
        self.known[stage] = self.total_bytes

    def _bytes(self, stage: Likeness) -> float | None:
        kind = stage[0]
        if kind not in self.kinds_read:
            self.kinds_read.add(kind)
            for file in islice((self.runs / "stages" / kind).glob(f"*/{result.FILE_NAME}"), MOST_READ):
                try:
                    record = json.loads(file.read_text())
                    self.learn(likeness(Stage(kind, record["config"], axes=record["axes"])), file.parent)
                except (OSError, ValueError, KeyError, TypeError, AttributeError):
                    continue        # damaged, or of another schema: whoever needs it says so
        return self.known.get(stage)
