"""A folder of a report has no files of another report."""

from pathlib import Path

import pytest

from harness.cli.commands import run
from harness.cli.commands.report import write_report
from harness.config.load import read
from harness.matrix.expand import expand
from harness.report.render.folder import formats_of
from harness.runner import result
from harness.system.folders import Folders
from tests.helpers.report_fakes import make_recipe, make_results

REPORT = Path("runs/reports/photos")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    """Write results of a recipe with two seeds."""
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(eps=(0.0,), targets=("clothing",), methods=("full",), seeds=(0, 1))
    Path("photos.yaml").write_text(recipe.model_dump_json(exclude_unset=True))
    for record in make_results(read("photos.yaml")):
        folder = tmp_path / "runs" / "stages" / record.kind / record.key
        folder.mkdir(parents=True)
        result.save(record, folder)
    return Folders.resolve("data", "raw", "runs")


def test_a_run_rewrites_the_report_of_other_settings(folders: Folders) -> None:
    plan = expand(read("photos.yaml"))
    own = run._report(plan, folders).read_text()
    write_report(expand(read("photos.yaml", ["seeds=[0]"])), folders)
    assert (REPORT / "index.html").read_text() != own
    assert run._report(plan, folders).read_text() == own


def test_a_run_rewrites_further_formats_that_were_asked_for(folders: Folders) -> None:
    assert formats_of(REPORT) == ("html", "csv")
    one_seed = expand(read("photos.yaml", ["seeds=[0]"]))
    write_report(one_seed, folders, ("md",))
    before = (REPORT / "report.md").read_text()
    assert formats_of(REPORT) == ("html", "csv", "md")
    run._report(expand(read("photos.yaml")), folders)
    assert (REPORT / "report.md").read_text() != before


def test_figures_of_an_earlier_report_are_deleted_only_in_the_recipes_folder(
    folders: Folders,
) -> None:
    plan = expand(read("photos.yaml"))
    for folder in (REPORT, Path("elsewhere")):
        (folder / "figures").mkdir(parents=True)
        for name in ("old.svg", "old.csv", "notes.txt"):
            (folder / "figures" / name).touch()
    write_report(plan, folders, ("html",))
    assert (REPORT / "figures" / "old.svg").exists()  # the format has no figures
    write_report(plan, folders)
    write_report(plan, folders, out=Path("elsewhere"))
    names = {path.name for path in (REPORT / "figures").iterdir()}
    assert {"means.svg", "means.csv", "notes.txt"} <= names and "old.svg" not in names
    assert {path.name for path in Path("elsewhere/figures").iterdir()} == {
        *names,
        "old.svg",
        "old.csv",
    }
