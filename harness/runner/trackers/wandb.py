"""Weights & Biases: a project per recipe, a run per stage.

Set login, server and mode as usual for wandb: `wandb login`, WANDB_MODE=offline, WANDB_PROJECT, ...
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.runner.tracker import TrackedRun

REQUIRES = "wandb"


def open(folder: Path, recipe: str) -> "WandB":
    """Open the tracker. Raises ImportError if wandb is not installed."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    return WandB(wandb, folder, os.environ.get("WANDB_PROJECT", recipe))


class WandB:
    """Runs of one project."""

    def __init__(self, library: Any, folder: Path, project: str) -> None:
        self._library, self._folder, self._project = library, folder, project
        self._runs: dict[str, Any] = {}

    def begin(self, run: TrackedRun) -> None:
        """Open a run whose id is the stage's key; wandb continues the run if it exists."""
        self._runs[run.key] = self._library.init(
            project=self._project,
            id=run.key,
            name=run.name,
            job_type=run.kind,
            config=run.config,
            dir=self._folder,
            resume="allow",
            reinit="create_new",
            settings=self._library.Settings(silent=True, console="off"),
        )
        self._runs[run.key].define_metric("epoch/*", step_metric="epoch")

    def log(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        """Log an epoch, or set the summary of the whole stage."""
        if step:
            epoch = {f"epoch/{name}": value for name, value in values.items()}
            self._runs[run.key].log({**epoch, "epoch": step})
        else:
            self._runs[run.key].summary.update(dict(values))

    def end(self, run: TrackedRun, succeeded: bool) -> None:
        """Finish the run."""
        self._runs.pop(run.key).finish(exit_code=0 if succeeded else 1)

    def close(self) -> None:
        """Finish runs that are still open."""
        while self._runs:
            self._runs.popitem()[1].finish()
