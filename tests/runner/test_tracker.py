"""Trackers (tensorboard, mlflow, wandb) receive each number once, while a recipe runs.

The files of each tracker are read with its own package.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.matrix.expand import expand
from harness.matrix.stage import Stage
from harness.runner import result, tracker
from harness.runner.context import EPOCHS_FILE
from harness.runner.executor import Event
from harness.runner.tracker import TrackedRun, Tracking, open_tracker
from tests.helpers import ROOT
from tests.helpers.report_fakes import make_recipe, make_results
from writers.errors import UserError

RECIPE = make_recipe(
    eps=(0.0,), targets=("grocery",), methods=("full",), subsets=("all",), ranking=None
)
STAGES = {stage.kind: stage for stage in expand(RECIPE).stages}
RESULTS = {record.key: record for record in make_results(RECIPE)}
EPOCHS = [
    {
        "epoch": number,
        "lr": 0.1 / number,
        "train_loss": 2.0 / number,
        "train_top1": 0.1 * number,
        "resolution": 32,
    }
    for number in (1, 2, 3)
]


class Recorder:
    """Tracker that stores the calls that it receives."""

    def __init__(self, *, fails: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._fails = fails

    def begin(self, run: TrackedRun) -> None:
        if self._fails:
            raise ConnectionError("no route to the server\nand more")
        self.calls.append(("begin", run.name))

    def log(self, run: TrackedRun, values: dict[str, float], step: int) -> None:
        self.calls.append(("log", run.name, step, dict(values)))

    def end(self, run: TrackedRun, succeeded: bool) -> None:
        self.calls.append(("end", run.name, succeeded))

    def close(self) -> None:
        self.calls.append(("close",))


@pytest.fixture(autouse=True)
def read_at_once(monkeypatch):
    monkeypatch.setattr(tracker, "READ_EVERY_S", 0.0)


def tracking(
    recorder: tracker.Tracker, folder: Path, warnings: list[str] | None = None
) -> Tracking:
    return Tracking(
        recorder,
        folder / "tracking",
        folder / "runs",
        (warnings if warnings is not None else []).append,
    )


def save_epochs(stage: Stage, folder: Path, count: int) -> None:
    place = stage.folder(folder / "runs")
    place.mkdir(parents=True, exist_ok=True)
    (place / EPOCHS_FILE).write_text(json.dumps(EPOCHS[:count]))


def save_result(stage: Stage, folder: Path) -> None:
    place = stage.folder(folder / "runs")
    place.mkdir(parents=True, exist_ok=True)
    record = RESULTS[stage.key]
    if stage.kind == "pretrain":
        record = record.model_copy(update={"metrics": {**record.metrics, "epochs": EPOCHS}})
    result.save(record, place)


def test_epochs_appear_while_a_stage_runs_and_results_at_its_end(tmp_path):
    recorder, stage = Recorder(), STAGES["pretrain"]
    observer = tracking(recorder, tmp_path)
    observer(Event("started", stage))
    observer(Event("waiting"))
    assert recorder.calls == []
    save_epochs(stage, tmp_path, 1)
    observer(Event("waiting"))
    observer(Event("waiting"))
    assert [call[:3] for call in recorder.calls] == [("begin", stage.name), ("log", stage.name, 1)]
    assert recorder.calls[1][3] == {
        "lr": 0.1,
        "train_loss": 2.0,
        "train_top1": 0.1,
        "resolution": 32.0,
    }
    save_result(stage, tmp_path)
    observer(Event("done", stage))
    assert [call[2] for call in recorder.calls if call[0] == "log"] == [1, 2, 3, 0]
    values = recorder.calls[-2][3]
    assert values["val/top1"] == RESULTS[stage.key].metrics["val"]["top1"]
    assert values["wall_s"] == RESULTS[stage.key].wall_s
    assert recorder.calls[-1] == ("end", stage.name, True)


def test_nothing_is_tracked_twice_and_earlier_results_are_caught_up(tmp_path):
    first, pretrain, transfer = Recorder(), STAGES["pretrain"], STAGES["transfer"]
    observer = tracking(first, tmp_path)
    observer(Event("started", pretrain))
    save_epochs(pretrain, tmp_path, 2)
    observer(Event("waiting"))
    observer.close()
    save_result(pretrain, tmp_path)
    save_result(transfer, tmp_path)
    second = Recorder()
    observer = tracking(second, tmp_path)
    observer.catch_up([pretrain, transfer, STAGES["evaluate"]])
    logged = [call[1:3] for call in second.calls if call[0] == "log"]
    assert logged == [(pretrain.name, 3), (pretrain.name, 0), (transfer.name, 0)]
    third = Recorder()
    tracking(third, tmp_path).catch_up([pretrain, transfer])
    assert third.calls == []


def test_stages_without_a_model_are_not_tracked_and_failures_are(tmp_path):
    recorder = Recorder()
    observer = tracking(recorder, tmp_path)
    save_result(STAGES["write"], tmp_path)
    observer(Event("done", STAGES["write"]))
    assert recorder.calls == []
    stage = STAGES["pretrain"]
    observer(Event("started", stage))
    save_epochs(stage, tmp_path, 1)
    observer(Event("waiting"))
    observer(Event("failed", stage, 1.0, "diverged"))
    assert recorder.calls[-1] == ("end", stage.name, False)


def test_a_tracker_that_fails_is_reported_once_and_not_called_again(tmp_path):
    warnings: list[str] = []
    recorder = Recorder(fails=True)
    observer = tracking(recorder, tmp_path, warnings)
    for kind in ("pretrain", "transfer"):
        save_result(STAGES[kind], tmp_path)
        observer(Event("done", STAGES[kind]))
    observer.close()
    assert len(warnings) == 1
    assert "no route to the server" in warnings[0]
    assert "\n" not in warnings[0]
    assert recorder.calls == []


def test_a_damaged_record_of_what_was_tracked_is_replaced(tmp_path):
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "tracked.json").write_text('{"num_epochs": 3')
    save_result(STAGES["transfer"], tmp_path)
    recorder = Recorder()
    tracking(recorder, tmp_path).catch_up([STAGES["transfer"]])
    assert recorder.calls[-1][0] == "end"
    assert json.loads((tmp_path / "tracking" / "tracked.json").read_text())["ended"]


def test_numbers_and_settings_are_flat():
    record = {
        "a": 1,
        "b": {"c": 0.5, "d": None, "e": True, "f": [1, 2]},
        "g": float("nan"),
        "h": "text",
    }
    assert tracker.flat_numbers(record) == {"a": 1.0, "b/c": 0.5}
    settings = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": "text"}
    assert tracker.flat_settings(settings) == {"a.b": 1, "a.c": "[1, 2]", "e": "text"}


def test_unknown_trackers_and_missing_packages_are_explained(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="tensorbord") as error:
        open_tracker("tensorbord", tmp_path, "photos")
    assert "tensorboard" in str(error.value)
    for package in ("wandb", "mlflow", "tensorboard.compat.proto"):
        monkeypatch.setitem(sys.modules, package, None)
    for name in ("wandb", "mlflow", "tensorboard"):
        with pytest.raises(UserError, match="needs the package") as error:
            open_tracker(name, tmp_path, "photos")
        assert f"harness[{name}]" in error.value.hint


def track(name: str, folder: Path) -> None:
    """Track a training that is interrupted after two epochs, and a transfer."""
    pretrain, transfer = STAGES["pretrain"], STAGES["transfer"]
    place = folder / "tracking"
    observer = tracking(open_tracker(name, place, "photos"), folder)
    observer(Event("started", pretrain))
    save_epochs(pretrain, folder, 2)
    observer(Event("waiting"))
    observer.close()
    save_result(pretrain, folder)
    save_result(transfer, folder)
    failures: list[str] = []
    observer = tracking(open_tracker(name, place, "photos"), folder, failures)
    observer.catch_up([pretrain, transfer])
    observer.close()
    assert failures == []


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs tensorboard")
def test_tensorboard_reads_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, metadata

    track("tensorboard", tmp_path)
    folders = {
        folder.name.split("-")[0]: folder
        for folder in (tmp_path / "tracking").iterdir()
        if folder.is_dir()
    }
    assert set(folders) == {"pretrain", "transfer"}
    events = EventAccumulator(str(folders["pretrain"]))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("epoch/train_loss")]
    assert losses == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    (top1,) = events.Scalars("result/val/top1")
    assert top1.value == pytest.approx(RESULTS[STAGES["pretrain"].key].metrics["val"]["top1"])
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    info = metadata.parse_session_start_info_plugin_data(content)
    assert info.hparams["settings.batch_size"].number_value == 256
    assert info.hparams["arch"].string_value == "resnet10"
    content = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(content).status == api_pb2.STATUS_SUCCESS


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow")
def test_mlflow_reads_the_curves(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    track("mlflow", tmp_path)
    client = MlflowClient(tracking_uri=(tmp_path / "tracking" / "runs").as_uri())
    experiment = client.get_experiment_by_name("photos")
    runs = {run.data.tags["kind"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"pretrain", "transfer"}
    pretrain = runs["pretrain"]
    assert pretrain.info.status == "FINISHED"
    assert pretrain.info.run_name == STAGES["pretrain"].name
    assert pretrain.data.params["settings.batch_size"] == "256"
    history = client.get_metric_history(pretrain.info.run_id, "epoch/train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
    expected = RESULTS[STAGES["transfer"].key].metrics["test"]["top1"]
    assert runs["transfer"].data.metrics["result/test/top1"] == expected


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log, the format of wandb's files.

    The log consists of blocks of 32 KiB. A record that crosses blocks is split into parts. Each
    part starts with 7 bytes: 4 of a checksum, 2 of its size, and 1 of its kind.
    """
    place, record = 7, b""  # the first 7 bytes are wandb's file header
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # too short for a header: the rest of the block is empty
            place += 2**15 - place % 2**15
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a record in one part, or the last part
            yield record
            record = b""


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")
def test_wandb_writes_its_files_offline(tmp_path):
    """A subprocess uses wandb, because wandb's service ends only with the process that uses it."""
    script = (
        "from pathlib import Path\n"
        "from tests.runner import test_tracker\n"
        "test_tracker.tracker.READ_EVERY_S = 0.0\n"
        f"test_tracker.track('wandb', Path({str(tmp_path)!r}))\n"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB")},
        "WANDB_MODE": "offline",
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_DATA_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr

    from wandb.proto import wandb_internal_pb2

    losses, summaries, batch_sizes = [], {}, set()
    for file in sorted((tmp_path / "tracking").rglob("*.wandb")):
        for data in leveldb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                if "epoch/train_loss" in row:
                    losses.append((row["epoch"], row["epoch/train_loss"]))
            if record.HasField("summary"):
                for item in record.summary.update:
                    summaries[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            if record.HasField("run"):
                configs = {item.key: item.value_json for item in record.run.config.update}
                batch_sizes.add(json.loads(configs["settings.batch_size"]))
    assert sorted(losses) == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]
    assert summaries["test/top1"] == RESULTS[STAGES["transfer"].key].metrics["test"]["top1"]
    assert batch_sizes == {
        STAGES[kind].config["settings"]["batch_size"] for kind in ("pretrain", "transfer")
    }
