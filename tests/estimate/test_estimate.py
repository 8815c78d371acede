"""harness plan: the graph of stages, and hours and bytes from finished stages."""

import json
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.config.load import read
from harness.estimate.estimate import estimate
from harness.matrix.expand import Matrix, expand
from harness.matrix.stage import Stage
from harness.runner import result
from harness.runner.result import Result

RECIPE = """\
name: tiny
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
seeds: [0, 1]
eps: [0, 0.5]
pretrain: {epochs: 2, attack: {steps: 3}}
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Matrix:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return expand(read("tiny.yaml"))


def finish(stage: Stage, wall_s: float, **metrics: object) -> None:
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


def show(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "tiny.yaml", *options])
    assert not ended.value.code
    return capsys.readouterr().out


def test_hours_come_from_finished_stages_scaled_by_work(plan: Matrix):
    left = {stage.key: stage for stage in plan.stages}
    unknown = estimate(left, Path("runs"))
    assert unknown.hours == 0 and unknown.num_unknown == len(left) and unknown.num_unknown_disk == 5
    clean = next(stage for stage in plan.stages if stage.name == "pretrain/all/eps0/seed0")
    finish(clean, wall_s=1800.0)
    (clean.folder(Path("runs")) / "model.pt").write_bytes(bytes(1000))
    del left[clean.key]
    partial = estimate(left, Path("runs"))
    # The other clean model is estimated to take the same time, and robust models to take longer by
    # the ratio of `work`.
    robust = next(stage for stage in plan.stages if stage.name == "pretrain/all/eps0.5/seed0")
    ratio = robust.spec.work(robust.config) / clean.spec.work(clean.config)
    assert ratio > 2 and partial.hours == pytest.approx(0.5 * (1 + 2 * ratio))
    assert partial.num_unknown == len(left) - 3
    assert partial.disk_bytes == 3000
    assert partial.num_unknown_disk == 1
    (clean.folder(Path("runs")) / "result.json").write_text("damaged")
    assert estimate(left, Path("runs")).num_unknown == len(left)


def test_the_plan_prints_known_and_unknown_hours(plan: Matrix, capsys: pytest.CaptureFixture[str]):
    assert "without a measured time, because no similar stage has run yet" in show(capsys)
    models = [stage for stage in plan.stages if stage.kind == "pretrain"]
    finish(models[0], wall_s=3600.0)
    assert "min one after another and" in show(capsys)
    found = json.loads(show(capsys, "--json"))["estimate"]
    assert found["hours"] > 0
    assert found["num_unknown"] == len([s for s in plan.stages if s.kind != "pretrain"])


def test_the_graph_has_all_stages_and_needs(plan: Matrix, capsys: pytest.CaptureFixture[str]):
    dot = show(capsys, "--dot")
    assert dot.startswith("digraph tiny {") and dot.rstrip().endswith("}")
    assert all(f'"{stage.key}" [label="{stage.name}"' in dot for stage in plan.stages)
    arrows = {(need.key, stage.key) for stage in plan.stages for need in stage.needs.values()}
    assert dot.count("->") == len(arrows)
    assert all(f'"{start}" -> "{end}"' in dot for start, end in arrows)
