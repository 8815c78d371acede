"""Shortlists: ranking by mean rank, failed models, and stages that are skipped."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.cli.commands.plan import states_of
from harness.cli.commands.report import write_report
from harness.config.recipe import Recipe
from harness.matrix.expand import Matrix, expand
from harness.matrix.stage import Stage
from harness.runner import result, shortlist
from harness.runner.context import StageContext
from harness.runner.executor import Run, begin, unfinished
from harness.runner.launcher import Finished
from harness.runner.result import Result
from harness.stages.shortlist import run as stage_of_shortlists
from harness.system.folders import Folders
from writers.errors import UserError

TARGETS = [{"dataset": "synthetic_patterns"}, {"dataset": "synthetic_scenes"}]
KNN = {"a": 0.3, "b": 0.9, "c": 0.6, "d": 0.5}


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "zoo",
        "targets": TARGETS,
        "scores": ["knn"],
        "models": [{"name": name, "checkpoint": f"{name}.pt", "arch": "resnet18"} for name in KNN],
        "methods": {"fixed": {}, "grid": {"method": "full"}},
        "shortlist": {"by": "knn", "best": 2, "methods": ["grid"]},
        **changes,
    }
    return Recipe.model_validate(values)


class InThisProcess:
    """Launcher that saves a made-up result of each stage at once.

    Only shortlist stages run their real code. Models named in `broken` cannot be loaded.
    """

    num_slots = 1

    def __init__(self, matrix: Matrix, folders: Folders, broken: set[str]) -> None:
        self.stages = {stage.key: stage for stage in matrix.stages}
        self.folders, self.broken, self.answers = folders, broken, []
        self.settings = SimpleNamespace(began_at=begin(folders))
        self.ran: list[str] = []

    def prefetch(self, kinds: Collection[str]) -> None:
        assert kinds <= {stage.kind for stage in self.stages.values()}

    def can_start(self, stage: Stage) -> bool:
        return not self.answers

    def start(self, stage: Stage, folder: Path) -> None:
        self.ran.append(stage.name)
        if stage.kind == "adopt" and stage.axes["model"] in self.broken:
            self.answers.append(Finished(folder, "failed", "no such weights", cause="mistake"))
            return
        metrics: dict[str, Any] = {"splits": {}}
        if stage.kind == "score":
            metrics = {"scores": {"knn": KNN[stage.axes["model"]]}, "failed": {}}
        if stage.kind == "shortlist":
            try:
                metrics = stage_of_shortlists.run(context_of(stage, self.folders)).metrics
            except UserError as error:
                self.answers.append(Finished(folder, "failed", str(error), cause="mistake"))
                return
        result.save(as_result(stage, metrics), folder)
        (folder / "model.pt").touch()
        self.answers.append(Finished(folder, "done"))

    def wait(self, timeout_s: float) -> list[Finished]:
        answers, self.answers = self.answers, []
        return answers


def as_result(stage: Any, metrics: dict[str, Any]) -> Result:
    return Result(
        kind=stage.kind,
        key=stage.key,
        name=stage.name,
        axes=stage.axes,
        config=stage.config,
        needs={},
        metrics=metrics,
        environment={},
        started_at="2026-01-01",
        wall_s=0.0,
    )


def context_of(stage: Any, folders: Folders) -> StageContext:
    needs = {role: result.load(need.folder(folders.runs)) for role, need in stage.needs.items()}
    return StageContext(
        stage.config,
        stage.folder(folders.runs),
        {role: need for role, need in needs.items() if need},
        {},
        folders.data,
        folders.raw,
        1,
        "cpu",
    )


def drive(
    chosen_recipe: Recipe, folders: Folders, broken: set[str] = frozenset()
) -> tuple[Run, InThisProcess, Matrix]:
    matrix = expand(chosen_recipe)
    launcher = InThisProcess(matrix, folders, broken)
    run = Run(matrix, folders, launcher)
    list(run.events())
    return run, launcher, matrix


def states(matrix: Matrix, folders: Folders, method: str) -> dict[str, set[str]]:
    of_model: dict[str, set[str]] = {}
    of = states_of(matrix, folders, unfinished(matrix, folders))
    for stage in matrix.stages:
        if stage.axes.get("method") == method:
            of_model.setdefault(stage.axes["model"], set()).add(of[stage.key])
    return of_model


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(data=tmp_path / "data", raw=tmp_path / "raw", runs=tmp_path / "runs")


def test_only_stages_of_the_best_models_run(folders: Folders):
    run, launcher, matrix = drive(recipe(), folders)
    assert not run.failed and not run.not_run
    assert [name for name in launcher.ran if "/grid/" in name] == [
        f"transfer/{target}/grid/{model}"
        for model in ("b", "c")
        for target in ("synthetic_patterns", "synthetic_scenes")
    ]
    assert len([name for name in launcher.ran if "/fixed/" in name]) == 8
    assert states(matrix, folders, "grid") == {
        "a": {"skipped"},
        "b": {"done"},
        "c": {"done"},
        "d": {"skipped"},
    }
    assert not unfinished(matrix, folders)
    again, launcher, _ = drive(recipe(), folders)
    assert launcher.ran == [] and not again.failed


def test_a_failed_model_is_left_out_until_it_succeeds(folders: Folders):
    run, launcher, matrix = drive(recipe(), folders, broken={"b"})
    assert set(run.failed.values()) == {"no such weights"}
    assert states(matrix, folders, "grid") == {
        "a": {"skipped"},
        "b": {"skipped"},
        "c": {"done"},
        "d": {"done"},
    }
    gate = next(stage for stage in matrix.stages if stage.kind == "shortlist")
    record = result.load(gate.folder(folders.runs))
    assert record is not None
    assert record.metrics["chosen"] == ["c", "d"]
    assert record.metrics["num_missing"] == 2
    assert record.metrics["left_out"] == {
        "b": "it, its features or its scores failed on synthetic_patterns"
    }
    assert {stage.axes["model"] for stage in run.not_run} == {"b"}
    run, launcher, _ = drive(recipe(), folders)
    assert not run.failed and "shortlist/knn" in launcher.ran
    assert [name for name in launcher.ran if "/grid/" in name] == [
        "transfer/synthetic_patterns/grid/b",
        "transfer/synthetic_scenes/grid/b",
    ]
    assert states(matrix, folders, "grid") == {
        "a": {"skipped"},
        "b": {"done"},
        "c": {"done"},
        "d": {"done"},
    }


def test_an_added_model_invalidates_nothing(folders: Folders):
    _, _, matrix = drive(
        recipe(models=[model for model in recipe().models if model.name != "a"]), folders
    )
    known = {stage.key for stage in matrix.stages if stage.kind != "shortlist"}
    assert known < {stage.key for stage in expand(recipe()).stages}
    _, launcher, _ = drive(recipe(), folders)
    assert {name.rpartition("/")[2] for name in launcher.ran} == {"a", "knn"}
    assert not [name for name in launcher.ran if "/grid/" in name]


def test_a_failed_shortlist_blocks_its_stages(folders: Folders):
    run, launcher, _ = drive(recipe(), folders, broken=set(KNN))
    assert launcher.ran[-1] == "shortlist/knn"
    assert "None of 4 models has a score knn" in " ".join(run.failed.values())
    assert len([stage for stage in run.not_run if "/grid/" in stage.name]) == 8


def test_a_report_distinguishes_skipped_from_missing_stages(folders: Folders):
    _, _, matrix = drive(recipe(), folders)
    (grid,) = [stage for stage in matrix.stages if stage.name == "transfer/synthetic_scenes/grid/b"]
    (grid.folder(folders.runs) / result.FILE_NAME).unlink()
    transfers = [stage for stage in matrix.stages if stage.kind == "transfer"]
    text = write_report(replace(matrix, stages=transfers[-1:]), folders, ("md",)).read_text()
    assert "1 stage was" in text and "best 2 models by knn" in text
    assert "no result yet" not in text
    text = write_report(replace(matrix, stages=[grid]), folders, ("md",)).read_text()
    assert "best 2 models" not in text
    assert f"1 of 1 stages has no result yet:\n\n- {grid.name}" in text.replace("\\", "")


def test_models_are_ranked_by_mean_rank_over_targets():
    """Equal scores share the mean of their ranks, as in scipy."""
    rows = shortlist.rank(
        {"a": {"x": 0.1, "y": 9.0}, "b": {"x": 0.3, "y": 5.0}, "c": {"x": 0.3, "y": 1.0}}
    )
    assert [(row["model"], row["mean_rank"]) for row in rows] == [
        ("b", 1.75),
        ("a", 2.0),
        ("c", 2.25),
    ]
    from scipy.stats import rankdata

    scores = {"x": [0.1, 0.3, 0.3], "y": [9.0, 5.0, 1.0]}
    ranks = sum(rankdata([-score for score in column]) for column in scores.values()) / 2
    assert dict(zip("abc", ranks, strict=True)) == {row["model"]: row["mean_rank"] for row in rows}


def test_targets_without_any_score_do_not_count_and_others_exclude_a_model():
    """A model is left out if it has no score on a target for which another model has one."""
    roles = {
        f"{model} on {target}": [model, target]
        for model in "ab"
        for target in ("voc", "pets", "cars")
    }
    config = {"by": "knn", "best": 5, "scores": roles}
    needs = {}
    for role, (model, target) in roles.items():
        metrics: dict[str, Any] = {"scores": {"knn": 0.5}, "failed": {}}
        if target == "voc" or (model, target) == ("b", "cars"):
            metrics = {"scores": {}, "failed": {"knn": "many labels"}}
        needs[role] = SimpleNamespace(metrics=metrics)
    context = StageContext(config, Path(), needs, {}, Path(), Path(), 1, "cpu")  # type: ignore[arg-type]
    metrics = stage_of_shortlists.run(context).metrics
    assert metrics["chosen"] == ["a"] and metrics["left_out"] == {"b": "knn on cars: many labels"}
    assert not metrics["num_missing"]
    assert metrics["ranking"][0]["scores"] == {"pets": 0.5, "cars": 0.5}
    with pytest.raises(UserError, match="models has a score nce"):
        stage_of_shortlists.run(
            StageContext({**config, "by": "nce"}, Path(), needs, {}, Path(), Path(), 1, "cpu")
        )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shortlist": {"by": "leep", "best": 2, "methods": ["grid"]}}, "shortlist.by is leep"),
        (
            {"shortlist": {"by": "knn", "best": 2, "methods": ["gird"]}},
            "shortlist.methods names gird",
        ),
        (
            {
                "shortlist": {"by": "knn", "best": 2, "methods": ["grid"]},
                "models": [],
                "source": {"dataset": "synthetic_things"},
                "subsets": ["all"],
            },
            "among `models`",
        ),
    ],
)
def test_contradicting_shortlists_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        recipe(**change)


def test_a_skipped_stage_that_has_run_before_is_done(folders: Folders):
    _, _, matrix = drive(recipe(shortlist=None), folders)
    assert states(matrix, folders, "grid") == {model: {"done"} for model in KNN}
    _, _, matrix = drive(recipe(), folders)
    assert states(matrix, folders, "grid") == {model: {"done"} for model in KNN}
