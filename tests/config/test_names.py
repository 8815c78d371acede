"""Names in a recipe are printable, and stay inert in file names, CSV files and terminals."""

from pathlib import Path

import pytest

from harness.config.data import DataSettings
from harness.config.recipe import Recipe
from harness.report.render.figures.plot import to_csv_text
from harness.report.render.tables.table import inert
from writers.text_names import MAX_FILE_NAME, file_name, printable_lines

PATHS = ["../../../escaped", "a/../../b", "..", ".", ".hidden", "/etc", "a\\..\\b", "-rf"]
UNPRINTABLE = ["a\nb", "a\0b", "\x1b[31mred", "a\tb", "\u202egnp", " a", "a ", "", "x" * 260]


def recipe(**settings: object) -> Recipe:
    basics = {"name": "r", "question": "Which?", "models": ["torchvision/resnet18"]}
    method = {"fixed": {"method": "fixed", "epochs": 1}}
    return Recipe.model_validate(
        basics | {"targets": [{"path": "t"}], "methods": method} | settings
    )


@pytest.mark.parametrize("name", [*PATHS, *UNPRINTABLE])
def test_names_of_targets_and_methods_are_checked(name):
    with pytest.raises(ValueError, match="a name m"):
        recipe(targets=[{"path": "t", "name": name}])
    with pytest.raises(ValueError, match="a name m"):
        recipe(methods={name: {"method": "fixed", "epochs": 1}})


@pytest.mark.parametrize("name", UNPRINTABLE)
def test_names_of_models_are_checked(name):
    with pytest.raises(ValueError, match="a name m"):
        recipe(models=[{"name": name, "checkpoint": "c.pt", "arch": "resnet18"}])


@pytest.mark.parametrize(
    "name", ["pets", "Oxford pets (v2)", "Blüten", "花", "a.b-c_d", "50%", "a/b/c"]
)
def test_other_names_are_accepted(name):
    assert recipe(targets=[{"path": "t", "name": name}]).targets[0].label == name


@pytest.mark.parametrize("path", ["x/a\nb.tar", "x/\x1b[2J", "..", "x/" + "y" * 300])
def test_a_label_made_of_a_path_is_one_short_printable_line(path):
    label = DataSettings(path=path).label
    assert label.isprintable() and 0 < len(label) <= 100


@pytest.mark.parametrize(
    "text", [*PATHS, *UNPRINTABLE, "a/b/c", "a\\b", "x" * 5000, "é" * 300, "花" * 100]
)
def test_file_names_stay_in_their_folder(text, tmp_path: Path):
    folder = tmp_path / "data"
    name = file_name(f"{text}-all-0123456789abcdef")
    assert len(name.encode()) <= MAX_FILE_NAME and name.endswith("0123456789abcdef")
    (folder / name).mkdir(parents=True)
    assert [path.name for path in folder.iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\tx", "\r=1"])
def test_csv_cells_are_not_formulas(text):
    assert inert(text) == "'" + text.replace("\r", "\n")
    assert to_csv_text(("a", "b"), [(text, -1.5)]).splitlines()[-1].endswith(",-1.5")


@pytest.mark.parametrize("text", ["a\x1b]0;x\x07", "a\x9b31m", "a\u202eb", "a\u2028b", "a\udcffb"])
def test_control_characters_become_escapes(text):
    shown = printable_lines(f"{text}\tb\nc\u00a0d")
    assert shown.endswith("\tb\nc\u00a0d") and shown.startswith("a\\")
    assert inert(text).isprintable()


def test_colors_and_carriage_returns_of_logs_are_dropped():
    assert printable_lines("\x1b[1;31mred\x1b[0m 5%\r10%\r\nend") == "red 5%\n10%\nend"


@pytest.mark.parametrize("text", ["-1.5", "+3", "1e-5", "-2.5e-7", "pets", "a=b", ""])
def test_numbers_and_words_in_csv_cells_are_unchanged(text):
    assert inert(text) == text
