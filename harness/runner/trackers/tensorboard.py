"""TensorBoard: event files in $HARNESS_RUNS/tracking/tensorboard/RECIPE, one folder per stage.

View them with `tensorboard --logdir`. This module uses TensorBoard's own writer, without torch.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.runner.tracker import TrackedRun
from writers.text_names import file_name

REQUIRES = "tensorboard"


def open(folder: Path, recipe: str) -> "TensorBoard":
    """Open the tracker. Raises ImportError if TensorBoard is not installed."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
    from tensorboard.summary.writer import event_file_writer

    return TensorBoard(
        folder,
        event_file_writer.EventFileWriter,
        _Protos(event_pb2, summary_pb2, api_pb2, plugin_data_pb2, metadata),
    )


class _Protos:
    """TensorBoard's message types, which have no type hints."""

    def __init__(self, event: Any, summary: Any, api: Any, plugin: Any, metadata: Any) -> None:
        self.event, self.summary, self.api = event, summary, api
        self.plugin, self.metadata = plugin, metadata


class TensorBoard:
    """Event files, one folder per stage."""

    def __init__(self, folder: Path, writer: Any, protos: _Protos) -> None:
        self._folder, self._writer, self._protos = folder, writer, protos
        self._writers: dict[str, Any] = {}

    def begin(self, run: TrackedRun) -> None:
        """Open the stage's event file, with its settings as hyper-parameters."""
        folder = self._folder / file_name(f"{run.name.replace('/', '-')}-{run.key[:8]}")
        self._writers[run.key] = self._writer(str(folder), flush_secs=5)
        protos = self._protos
        start = protos.plugin.SessionStartInfo(group_name=run.name)
        for name, value in sorted(run.config.items()):
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, int | float):
                start.hparams[name].number_value = value
            else:
                start.hparams[name].string_value = value
        self._add(run, protos.metadata.SESSION_START_INFO_TAG, session_start_info=start)

    def log(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        """Write scalars; scalars of the whole stage go into the group `result`."""
        prefix = "epoch" if step else "result"
        scalars = [
            self._protos.summary.Summary.Value(tag=f"{prefix}/{name}", simple_value=value)
            for name, value in values.items()
        ]
        self._write(run, scalars, step)

    def end(self, run: TrackedRun, succeeded: bool) -> None:
        """Write the final state and close the event file."""
        status = self._protos.api.STATUS_SUCCESS if succeeded else self._protos.api.STATUS_FAILURE
        end = self._protos.plugin.SessionEndInfo(status=status)
        self._add(run, self._protos.metadata.SESSION_END_INFO_TAG, session_end_info=end)
        self._writers.pop(run.key).close()

    def close(self) -> None:
        """Close all files."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _add(self, run: TrackedRun, tag: str, **info: Any) -> None:
        """Write a record of TensorBoard's table of hyper-parameters."""
        protos = self._protos
        about = protos.metadata.create_summary_metadata(protos.plugin.HParamsPluginData(**info))
        value = protos.summary.Summary.Value(tag=tag, metadata=about)
        self._write(run, [value], 0)

    def _write(self, run: TrackedRun, values: list[Any], step: int) -> None:
        summary = self._protos.summary.Summary(value=values)
        event = self._protos.event.Event(wall_time=time.time(), step=step, summary=summary)
        self._writers[run.key].add_event(event)
