"""Whole recipes on a fake GPU, by worker processes that share it."""

import pytest

from harness.config import load as recipe
from harness.matrix.expand import Matrix, expand
from harness.runner import result
from harness.runner.executor import Run
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.system.folders import Folders
from harness.train.evaluation_attack import attack_modes
from tests.rehearsal.conftest import child_environment
from tests.rehearsal.product import COMPILE_MODES

COMPILED = ["scale=tiny", "pretrain.compile=auto"]
# tests/recipes runs all subsets. Here, each further network would measure the same compile modes.
TWO_SUBSETS = [
    "subsets=[all, {name: minus1, remove: {hardest: 1, by: reference}}]",
    "evaluate.common=[all, minus1]",
    "exclude=[]",
]
RECIPES = {
    "robust_l2": [*COMPILED, "eps=[0, 3]"],
    "fewer_classes": [*COMPILED, *TWO_SUBSETS],
}


@pytest.fixture(scope="module")
def matrices() -> dict[str, Matrix]:
    return {name: expand(recipe.read(name, settings)) for name, settings in RECIPES.items()}


@pytest.fixture(scope="module")
def folders(matrices: dict[str, Matrix], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Run the stages of both recipes, two at a time on the GPU."""
    folder = tmp_path_factory.mktemp("rehearsal")
    folders = Folders(folder / "data", folder / "raw", folder / "runs")
    merged = {stage.key: stage for matrix in matrices.values() for stage in matrix.stages}
    together = Matrix(matrices["fewer_classes"].recipe, tuple(merged.values()))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in child_environment(folder).items():
            patch.setenv(name, value)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        settings = LauncherSettings(folders, num_threads=1, device="cuda", jobs_per_gpu=2)
        with local.open(settings) as launcher:
            run = Run(together, folders, launcher)
            for _ in run.events():
                pass
    assert not {merged[key].name: why for key, why in run.failed.items()}
    return folders


def records(matrix: Matrix, folders: Folders, *kinds: str) -> list[result.Result]:
    found = [
        result.load(stage.folder(folders.runs)) for stage in matrix.stages if stage.kind in kinds
    ]
    assert found and None not in found
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_every_stage_that_computes_did_so_on_the_gpu(name, matrices, folders):
    for record in records(matrices[name], folders, "pretrain", "evaluate", "transfer"):
        assert record.environment["device"] == "cuda:0"
        assert record.environment["gpu"] == "NVIDIA H100 80GB HBM3"
        assert record.gpu_memory_bytes and record.gpu_memory_bytes > 0


@pytest.mark.parametrize("name", RECIPES)
def test_compile_auto_measured_every_way(name, matrices, folders):
    for record in records(matrices[name], folders, "pretrain"):
        measured = record.timing["compile"]
        ways = {way for way in COMPILE_MODES if record.axes.get("eps") or "captured" not in way}
        assert set(measured) == {*ways, "chosen"}, record.name
        assert all("step_s" in measured[way] for way in ways), record.name
    attacked = 0
    for record in records(matrices[name], folders, "evaluate"):
        if record.metrics["attack"]:
            measured = record.timing["compile"]
            assert set(measured) == {*attack_modes(on_gpu=True), "chosen"}, record.name
            assert record.metrics["attack"]["compiled"] == measured["chosen"]
            attacked += 1
    assert attacked


@pytest.mark.parametrize("name", RECIPES)
def test_every_network_has_a_finite_loss(name, matrices, folders):
    for record in records(matrices[name], folders, "pretrain"):
        assert all(0 < epoch["train_loss"] < 5 for epoch in record.metrics["epochs"]), record.name


def test_stages_shared_the_gpu(matrices, folders):
    """The first stage of a kind runs alone, to measure its use; later stages run with others."""
    found = records(matrices["fewer_classes"], folders, "transfer")
    assert {record.gpu_busy is None for record in found} == {True, False}
