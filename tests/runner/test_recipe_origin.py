"""Two recipe files with one name do not replace each other's report."""

import shutil
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.config.load import read
from harness.runner.recipe_origin import claim
from writers.errors import UserError

TEXT = "name: mine\nsource: {path: photos}\nsubsets: [all]\narchs: [resnet10]\n"
OTHER = TEXT + "seeds: [0, 1]\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(TEXT)
    Path("two.yaml").write_text(OTHER)


def claimed(file: str, *overrides: str) -> None:
    claim(file, overrides, read(file, overrides).name, Path("runs"))


def test_a_second_file_with_the_name_and_other_settings_is_refused():
    claimed("one.yaml")
    with pytest.raises(UserError, match=r"two\.yaml and one\.yaml are two recipes .* mine\."):
        claimed("two.yaml")
    claimed("two.yaml", "name=theirs")
    claimed("one.yaml")


def test_a_file_may_be_edited_and_run_with_other_settings():
    claimed("one.yaml")
    claimed("./one.yaml", "seeds=[5]")
    Path("one.yaml").write_text(OTHER)
    claimed(str(Path("one.yaml").resolve()))
    Path("linked.yaml").symlink_to("one.yaml")
    claimed("linked.yaml")


@pytest.mark.parametrize("gone", ["moved", "renamed", "damaged", "equal"])
def test_a_file_keeps_the_name_only_while_it_uses_it_for_something_else(gone: str):
    claimed("one.yaml")
    match gone:
        case "moved":
            shutil.move("one.yaml", "two.yaml")
        case "renamed":
            Path("one.yaml").write_text(TEXT.replace("mine", "first"))
        case "damaged":
            Path("one.yaml").write_text("name: [")
        case "equal":
            Path("two.yaml").write_text(f"# the same study\n{TEXT}")
    claimed("two.yaml")
    Path("one.yaml").write_text(TEXT + "seeds: [7]\n")
    with pytest.raises(UserError, match=r"one\.yaml and .*two\.yaml"):
        claimed("one.yaml")


def test_the_scale_is_part_of_the_name():
    scales = "scales: {tiny: {seeds: [3]}}\n"
    Path("one.yaml").write_text(TEXT + scales)
    Path("two.yaml").write_text(OTHER + scales.replace("3", "4"))
    claimed("one.yaml", "scale=tiny")
    claimed("two.yaml")
    with pytest.raises(UserError, match="mine_tiny"):
        claimed("two.yaml", "scale=tiny")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"file": 1, "set": []}', "\x00"])
def test_a_damaged_record_counts_as_none(text: str):
    file = Path("runs/recipes/mine.origin.json")
    file.parent.mkdir(parents=True)
    file.write_text(text)
    claimed("two.yaml")
    with pytest.raises(UserError, match="two recipes"):
        claimed("one.yaml")


def test_run_and_report_write_nothing_for_a_second_recipe_with_the_name(
    capsys: pytest.CaptureFixture[str],
):
    def code(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return int(ended.value.code or 0)

    Path("raw/photos/a").mkdir(parents=True)
    assert code("report", "one.yaml") == 0
    files = sorted(Path("runs/reports/mine").iterdir())
    page = Path("runs/reports/mine/index.html").read_text()
    for command in ("report", "run"):
        capsys.readouterr()
        assert code(command, "two.yaml") == 2
        assert "Change `name:`" in capsys.readouterr().err
    assert Path("runs/reports/mine/index.html").read_text() == page
    assert sorted(Path("runs/reports/mine").iterdir()) == files
    assert not Path("runs/stages").exists()
    assert code("report", "two.yaml", "--out", "elsewhere") == 0


@pytest.mark.parametrize("command", ["plan", "status"])
def test_plan_and_status_warn_of_another_recipe_with_the_name(
    command: str, capsys: pytest.CaptureFixture[str]
):
    def warnings(recipe: str, *options: str) -> list[str]:
        with pytest.raises(SystemExit) as ended:
            main([command, recipe, *options])
        assert not ended.value.code
        return [line for line in capsys.readouterr().err.splitlines() if "has the name" in line]

    assert not warnings("two.yaml")
    assert not Path("runs").exists()
    claimed("one.yaml")
    record = Path("runs/recipes/mine.origin.json").read_text()
    assert not warnings("one.yaml") and not warnings("two.yaml", "--set", "name=theirs")
    (line,) = warnings("two.yaml")
    assert line.startswith("one.yaml has the name mine") and "two.yaml" in line
    assert Path("runs/recipes/mine.origin.json").read_text() == record
