"""MLflow: an experiment per recipe, a run per stage.

Numbers are sent to the server MLFLOW_TRACKING_URI. If that is not set, they are written to files in
$HARNESS_RUNS/tracking/mlflow/RECIPE.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.runner.tracker import TrackedRun

REQUIRES = "mlflow"

MAX_VALUE = 6000  # characters in the value of a parameter


def open(folder: Path, recipe: str) -> "MLflow":
    """Open the tracker. Raises ImportError if MLflow is not installed."""
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if address is None:
        address = (folder / "runs").absolute().as_uri()
        # MLflow 3 stores runs in files only if this variable is set.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient, entities

    client = MlflowClient(tracking_uri=address)
    found = client.get_experiment_by_name(recipe)
    experiment = found.experiment_id if found is not None else client.create_experiment(recipe)
    return MLflow(client, experiment, entities)


class MLflow:
    """Runs of one experiment."""

    def __init__(self, client: Any, experiment: str, entities: Any) -> None:
        self._client, self._experiment, self._entities = client, experiment, entities
        self._ids: dict[str, str] = {}

    def begin(self, run: TrackedRun) -> None:
        """Open the run that has the stage's key, or a new run."""
        found = self._client.search_runs(
            [self._experiment], filter_string=f"tags.stage = '{run.key}'", max_results=1
        )
        if found:
            self._ids[run.key] = found[0].info.run_id
            self._client.update_run(self._ids[run.key], status="RUNNING")
            return
        tags = {"stage": run.key, "kind": run.kind}
        created = self._client.create_run(self._experiment, run_name=run.name, tags=tags)
        self._ids[run.key] = created.info.run_id
        params = [
            self._entities.Param(name, str(value)[:MAX_VALUE]) for name, value in run.config.items()
        ]
        for first in range(0, len(params), 100):  # limit of a request
            self._client.log_batch(self._ids[run.key], params=params[first : first + 100])

    def log(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        """Log metrics at an epoch; metrics of the whole stage go into the group `result`."""
        now, prefix = int(1000 * time.time()), "epoch" if step else "result"
        metrics = [
            self._entities.Metric(f"{prefix}/{name}", value, now, step)
            for name, value in values.items()
        ]
        for first in range(0, len(metrics), 1000):
            self._client.log_batch(self._ids[run.key], metrics=metrics[first : first + 1000])

    def end(self, run: TrackedRun, succeeded: bool) -> None:
        """Close the run."""
        status = "FINISHED" if succeeded else "FAILED"
        self._client.set_terminated(self._ids.pop(run.key), status=status)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
