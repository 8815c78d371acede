"""`harness plan --calibrate`: hours from timed steps, against a calculation by hand."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli.main import main
from harness.estimate import calibration
from harness.estimate.calibration import Calibration, Machine
from harness.estimate.estimate import Estimate, estimate, unmeasured
from harness.matrix.expand import Matrix
from harness.matrix.stage import Stage
from harness.matrix.workload import Workload, step_key
from harness.runner import result
from harness.runner.result import Result
from harness.system.folders import Folders
from tests.helpers import ROOT
from tests.helpers.small_matrix import plan_of
from writers.errors import UserError

HERE = Machine("a device", "2.0")
SMALL = (
    "pretrain.resolution=16",
    "pretrain.batch_size=8",
    "pretrain.channels=[16, 16, 16, 16]",
    "evaluate.batch_size=8",
    "evaluate.attack.steps=2",
    "methods.fixed.resolution=16",
    "methods.fixed.batch_size=8",
    "methods.full.resolution=16",
    "methods.full.batch_size=8",
)
MISSING_CHECKPOINT = """\
name: lost
models: [{name: lost, checkpoint: lost.pt, arch: torchvision/alexnet}]
targets: [{dataset: synthetic_patterns}]
scores: [knn]
methods: {full: {resolution: 16, batch_size: 8}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def stages_by_key(plan: Matrix) -> dict[str, Stage]:
    return {stage.key: stage for stage in plan.stages}


def estimated(plan: Matrix, step_s: Callable[[dict[str, Any]], float]) -> Estimate:
    """Estimate the plan as if a step took the seconds that `step_s` returns."""
    steps = unmeasured(stages_by_key(plan), Path("runs"), Calibration(HERE, {}))
    known = Calibration(HERE, {step_key(step): step_s(step) for step in steps})
    assert unmeasured(stages_by_key(plan), Path("runs"), known) == []
    return estimate(stages_by_key(plan), Path("runs"), known)


def run_plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Run `harness plan` and return what it writes to stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    assert not ended.value.code
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_the_demo_is_calibrated_once_per_device(capsys: pytest.CaptureFixture[str]):
    sets = [part for value in SMALL for part in ("--set", value)]
    out, err = run_plan(capsys, "demo", *sets, "--calibrate", "--json")
    assert "timing 8 kinds of steps on" in err
    assert "train resnet10 under attack, 8 images at 16 pixels" in err
    found = json.loads(out)["estimate"]
    # Write stages stay unknown: they have no network to time.
    assert found["num_unknown"] == 5
    assert found["num_calibrated"] == 40
    assert found["hours"] == found["calibrated_hours"] > 0
    file = json.loads(Path("runs/calibration.json").read_text())
    assert found["calibrated_on"] == "{device}, torch {torch}".format(**file["steps"][0])
    assert len(file["steps"]) == 8
    assert file["steps"][0]["torch"] == torch.__version__.partition("+")[0]

    timed = Path("runs/calibration.json").read_bytes()
    out, err = run_plan(capsys, "demo", *sets)  # later, without --calibrate
    assert "calibrated: " in out
    assert found["calibrated_on"] in " ".join(out.split())
    assert "timing" not in err
    _, err = run_plan(capsys, "demo", *sets, "--calibrate")
    assert "timing 0 kinds of steps" in err and Path("runs/calibration.json").read_bytes() == timed

    for row in file["steps"]:
        row["device"] = "another device"
    Path("runs/calibration.json").write_text(json.dumps(file))
    out, _ = run_plan(capsys, "demo", *sets)
    assert (
        "without a measured time, because no similar stage has run yet" in out
        and "calibrated" not in out
    )


RECIPE = """\
name: hand
source: {dataset: synthetic_things}
ranking: {split: val}
subsets: [all, {name: minus3, remove: {hardest: 0.1, by: reference}}]
archs: [resnet10]
eps: [0, 1, 3]
seeds: [0, 1]
pretrain: {epochs: 4, batch_size: 10, resolution: 64, attack: {steps: 3}, eval_every: 2,
           ema_decay: 0.9, progressive: {start_resolution: 32, ramp: [1, 3]}}
evaluate: {batch_size: 20, attack: {steps: 2}, eps_of_clean: 1}
targets: [{dataset: synthetic_patterns}, {dataset: pets}]
methods:
  fixed: {epochs: 5, batch_size: 16, lrs: [0.1, 0.01, 0.001], flip_tta: true}
  full: {epochs: 7, batch_size: 32, lrs: [0.1, 0.01], refit: true}
  few: {method: full, steps: 11, batch_size: 32, per_class: 2, lrs: [0.1]}
  logreg: {}
"""


def test_hours_equal_a_manual_calculation():
    """Datasets that are not on this machine have their documented numbers of images.

    things: 30 classes, each with 50 train and 20 val images. patterns: 8 classes, each with 20
    train, 20 val and 40 test images. pets: 3680 images in 37 classes, a tenth of them for val, and
    3669 test images.
    """
    plan = plan_of(RECIPE)
    seconds = {
        "clean32": 0.1,
        "clean64": 0.2,
        "robust32": 0.4,
        "robust64": 0.8,
        "fixed": 1.6,
        "full": 3.2,
    }

    def step_s(step: dict[str, Any]) -> float:
        settings = step.get("settings", {})
        if step["step"] == "pretrain":
            return seconds[
                ("robust" if step["attacked"] else "clean") + str(settings["resolution"])
            ]
        if step["step"] == "transfer":
            assert step["num_trials"] == (3 if step["method"] == "fixed" else 1)
            return seconds[step["method"]]
        return {"forward": 0.01, "attack": 0.07}[step["step"]]

    def pretrain(num_train: int, num_val: int, robust: bool) -> float:
        """Return the seconds of a pretraining, which has epochs at 32, 32, 64 and 64 pixels.

        The weights and their moving average (EMA) are evaluated three times each.
        """
        kind = "robust" if robust else "clean"
        return (
            num_train / 10 * 2 * (seconds[f"{kind}32"] + seconds[f"{kind}64"])
            + 0.01 * 6 * num_val / 10
        )

    by_hand = (
        pretrain(1500, 600, False) + 0.01 * 600 / 20
    )  # the reference model, which ranks classes on val
    num_models = 0
    for num_train, num_val in ((1500, 600), (1350, 540)):
        for eps in (0, 1, 3):
            num_models += 2  # one per seed
            by_hand += 2 * (
                pretrain(num_train, num_val, eps > 0) + (0.01 + 2 * 0.07) * num_val / 20
            )
    for num_train, num_val, num_test, num_few in ((160, 160, 320, 16), (3312, 368, 3669, 74)):
        by_hand += num_models * (
            1.6 * 5 * num_train / 16
            + 0.01 * 2 * (3 * num_val + num_test) / 16
            + 3.2 * 7 * (2 * num_train + num_train + num_val) / 32
            + 0.01 * (2 * num_val + num_test) / 32
            + 3.2 * 11 * min(32, num_few) / 32
            + 0.01 * (num_val + num_test) / 32
            # Features for logreg.
            + 0.01 * (num_train + num_val + num_test) / 128
        )
    found = estimated(plan, step_s)
    assert len({stage.key for stage in plan.stages if stage.kind == "pretrain"}) == 13
    assert found.hours == found.calibrated_hours == pytest.approx(by_hand / 3600, rel=1e-9)
    assert found.num_unknown == sum(
        stage.kind == "write" or stage.axes.get("method") == "logreg" for stage in plan.stages
    )


def test_results_take_precedence_over_calibration_and_documented_counts():
    plan = plan_of("""\
name: counts
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
pretrain: {epochs: 2, batch_size: 10, resolution: 32}
""")
    write, model, evaluate = plan.stages
    assert [stage.kind for stage in plan.stages] == ["write", "pretrain", "evaluate"]
    by_documents = estimated(plan, lambda step: float(step["step"] == "pretrain")).hours
    assert by_documents == pytest.approx(2 * 150 / 3600)
    write_result(
        write,
        {
            "splits": {
                "train": {"num_samples": 70, "bytes": 0},
                "val": {"num_samples": 20, "bytes": 0},
            },
            "classes": ["a", "b"],
        },
    )
    assert estimated(plan, lambda step: float(step["step"] == "pretrain")).hours == pytest.approx(
        (2 * 7 + 60) / 3600
    )
    everything = unmeasured(stages_by_key(plan), Path("runs"), Calibration(HERE, {}))
    write_result(
        replace(model, axes={**model.axes, "seed": 7}, config={**model.config, "seed": 7}),
        {},
        wall_s=90.0,
    )
    steps = unmeasured(stages_by_key(plan), Path("runs"), Calibration(HERE, {}))
    assert {step["step"] for step in steps} == {"forward"}  # the result replaces timed pretraining
    # The result also takes precedence if pretraining was timed before.
    known = Calibration(HERE, {step_key(step): 9.0 for step in everything})
    found = estimate({model.key: model, evaluate.key: evaluate}, Path("runs"), known)
    assert found.num_calibrated == 1
    assert found.hours - found.calibrated_hours == pytest.approx(90 / 3600)


def write_result(stage: Stage, metrics: dict[str, Any], wall_s: float = 60.0) -> None:
    result.save(
        Result(
            kind=stage.kind,
            key=stage.key,
            name=stage.name,
            axes=stage.axes,
            config=stage.config,
            needs={},
            metrics=metrics,
            environment={},
            started_at="",
            wall_s=wall_s,
        ),
        stage.folder(Path("runs")),
    )


def test_steps_that_cannot_be_timed_stay_unknown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    Path("lost.yaml").write_text(MISSING_CHECKPOINT)
    out, err = run_plan(capsys, "lost.yaml", "--calibrate")
    assert err.count("weights/lost.pt cannot be read") == 3 and "Traceback" not in err
    assert "without a measured time, because no similar stage has run yet" in out
    assert not Path("runs/calibration.json").exists()

    from harness.estimate import calibrate
    from harness.stages import _timed_steps

    def exhausted(*size: object) -> None:
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."
        )

    monkeypatch.setattr(_timed_steps, "noise_batch", exhausted)
    step = {
        "step": "forward",
        "resolution": 16,
        "batch_size": 8,
        "precision": "float32",
        "model": {
            "arch": "resnet10",
            "channels": [16, 16, 16, 16],
            "blur_pool": False,
            "batch_norm_scale": True,
        },
    }
    folders = Folders.resolve("data", "raw", "runs")
    assert list(calibrate.measure([step], folders, device="cpu", num_threads=1)) == [
        (step, "there is not enough memory")
    ]


@pytest.mark.parametrize(
    "step",
    [
        {"step": "forward", "resolution": 24, "batch_size": 2, "precision": "float32"},
        {
            "step": "transfer",
            "method": "full",
            "num_trials": 1,
            "settings": {
                "batch_size": 4,
                "resolution": 24,
                "precision": "float32",
                "accumulate": 1,
                "bn_stats": "update",
            },
        },
    ],
)
def test_a_network_of_one_input_size_is_timed_at_that_size(step: dict[str, Any]):
    from harness.estimate import calibrate

    model = {
        "arch": "timm/test_vit",
        "channels": None,
        "blur_pool": False,
        "batch_norm_scale": True,
    }
    ((_, step_s),) = calibrate.measure(
        [{**step, "model": model}],
        Folders.resolve("data", "raw", "runs"),
        device="cpu",
        num_threads=1,
    )
    assert isinstance(step_s, float), step_s


def test_image_counts_of_a_missing_folder_are_unknown():
    plan = plan_of("name: folder\nsource: {path: things}\nsubsets: [all]\narchs: [resnet10]\n")
    assert unmeasured(stages_by_key(plan), Path("runs"), Calibration(HERE, {})) == []
    assert estimated(plan, lambda step: 1.0).num_unknown == len(plan.stages)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"schema_version": 9, "steps": []}',
        '{"schema_version": 1, "steps": [{}]}',
        '{"schema_version": 1, "steps": [{"device": "a device", "torch": "2.0", "step": {}, '
        '"step_s": NaN}]}',
    ],
)
def test_a_damaged_file_is_reported_and_replaced(content: str, capsys: pytest.CaptureFixture[str]):
    Path("runs").mkdir()
    Path("runs/calibration.json").write_text(content)
    out, err = run_plan(capsys, "demo")
    assert "without a measured time, because no similar stage has run yet" in out
    assert "calibration.json" in err and "Measure again: harness plan RECIPE --calibrate" in err
    with pytest.raises(UserError):
        calibration.read(Path("runs"), HERE)
    calibration.add(Path("runs"), HERE, {"step": "forward"}, 0.5)
    assert (
        calibration.read(Path("runs"), HERE).seconds([Workload({"step": "forward"}, 10, 30)]) == 1.5
    )


def test_each_machine_keeps_its_own_times():
    for machine, step_s in (
        (HERE, 1.0),
        (Machine("another", "2.0"), 2.0),
        (replace(HERE, torch="2.1"), 3.0),
        (HERE, 4.0),
    ):
        calibration.add(Path("runs"), machine, {"step": "forward"}, step_s)
    assert len(json.loads(Path("runs/calibration.json").read_text())["steps"]) == 3
    assert list(calibration.read(Path("runs"), HERE).step_s.values()) == [4.0]
    assert list(calibration.read(Path("runs"), Machine("another", "2.0")).step_s.values()) == [2.0]


def test_plan_reads_a_calibration_without_torch():
    Path("runs").mkdir()
    Path("runs/calibration.json").write_text('{"schema_version": 1, "steps": []}')
    code = (
        "import sys\nfrom harness.cli.main import main\n"
        "try:\n    main(['plan', 'demo'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert ended.returncode == 0, ended.stderr


def test_calibrate_excludes_dot():
    with pytest.raises(SystemExit) as ended:
        main(["plan", "demo", "--calibrate", "--dot"])
    assert ended.value.code == 2


def test_steps_of_detectors_are_described(capsys: pytest.CaptureFixture[str]):
    Path("boxes.yaml").write_text(
        "name: boxes\nmodels: [{name: lost, checkpoint: lost.pt, arch: resnet18}]\n"
        "targets: [{dataset: voc2007_detection}]\n"
        "methods: {detection: {neck: c4, batch_size: 2}}\n"
    )
    _, err = run_plan(capsys, "boxes.yaml", "--calibrate")
    described = [line.partition("unknown  ")[2].partition(":")[0] for line in err.splitlines()]
    assert "train lost by detection, 2 images at 600 pixels" in described
    assert "detect objects with lost, 2 images at 600 pixels" in described


def test_every_step_belongs_to_a_kind_of_stage():
    from harness.stages._timed_steps import find_step

    for name in ("pretrain", "transfer", "forward", "attack"):
        assert callable(find_step(name))
    with pytest.raises(UserError, match="forwrad"):
        find_step("forwrad")
