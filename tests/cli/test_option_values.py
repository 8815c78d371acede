"""Refused options: click accepts the value, but the command cannot use it, or would ignore it."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from harness.cli.benches import train
from harness.cli.main import cli, main
from harness.cli.number_types import FloatType
from harness.cli.path_types import PathType
from harness.modeling import classifier
from harness.system.gpu import select_gpu
from loaders.plan import LoaderPlan
from tests.helpers.tiny_stages import write_colors
from writers.errors import UserError


def commands(group: click.Group, name: str = "harness") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for part in group.list_commands(context):
        command = group.get_command(context, part)
        assert command is not None
        yield f"{name} {part}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {part}")


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused in one or two lines; return them."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and 1 <= len(lines) <= 2, lines
    return " ".join(lines)


def test_no_option_accepts_nan_or_infinity():
    """click's own FloatRange accepts NaN; `--keep nan` once ended in a traceback."""
    found = 0
    for name, command in commands(cli):
        for option in command.params:
            if isinstance(option.type, click.FloatRange | click.types.FloatParamType):
                assert isinstance(option.type, FloatType), (name, option.name)
                for text in ("nan", "inf", "-inf"):
                    with pytest.raises(click.BadParameter):
                        option.type.convert(text, option, None)
                found += 1
    assert found >= 8


def test_numbers_are_named_as_such(capsys: pytest.CaptureFixture[str]):
    """click's own words are `INTEGER RANGE`, and `is not a valid float range`."""
    for name, command in commands(cli):
        for option in command.params:
            metavar = option.make_metavar(click.Context(command))
            assert "RANGE" not in metavar and "None" not in str(option.type), (name, option.name)
    for option, text, words in (
        ("--jobs", "2.5", "'2.5' is not a whole number"),
        ("--jobs", "0", "0 is not in the range x>=1"),
        ("--checkpoint-minutes", "5 min", "'5 min' is not a number"),
    ):
        assert words in refusal(["run", "demo", option, text], capsys)
    means = ["--mean", "123", "116", "103", "--arch", "resnet10", "--out", "o.pt"]
    assert "123.0 is not in the range 0<=x<=1" in refusal(
        ["import-checkpoint", __file__, *means], capsys
    )


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["run", "demo", "--set"], "harness run"),
        (["-v", "subset", "show", "in900", "--beton"], "harness subset show"),
        (["bench", "load", "--rounds"], "harness bench load"),
        (["--sett"], "harness"),
        (["export", "x"], "harness export"),  # click lists the choices of --format on four lines
        (["subset", "shw"], ""),
        (["run", "demo", "--seeds", "1"], "harness run"),
        (["plan", "demo", "seeds=[1]"], "harness plan"),
        (["ls", "--seeds", "1"], "harness ls"),
    ],
)
def test_the_hint_names_the_command_of_a_usage_error(
    arguments: list[str], command: str, capsys: pytest.CaptureFixture[str]
):
    text = refusal(arguments, capsys)
    assert f"See {command} --help." in text if command else "Did you mean show?" in text
    assert ("--set KEY=VALUE" in text) == (
        arguments[0] in ("run", "plan") and "--set" not in arguments
    )


def test_no_path_may_be_empty():
    """An empty path is that of the working directory: `--out "$OUT"` once wrote there."""
    found = 0
    for name, command in commands(cli):
        for option in command.params:
            assert not isinstance(option.type, click.Path) or isinstance(option.type, PathType), (
                name
            )
            if isinstance(option.type, PathType):
                with pytest.raises(click.BadParameter, match="empty text"):
                    option.type.convert("", option, None)
                found += 1
    assert found >= 30


@pytest.mark.parametrize("device", ["gpu", "cpu:1", "meta", "mps", "cuda:", "cuda:-1", "cuda:0,1"])
def test_devices_that_no_command_can_use_are_refused(
    device: str, capsys: pytest.CaptureFixture[str]
):
    arguments = ["score", "--model", "m.pt", "--dataset", "pets", "--device", device]
    assert f"'{device}' is not a device" in refusal(arguments, capsys)


def test_a_gpu_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="cannot use a GPU"):
        select_gpu("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="no GPU cuda:2: this process sees 2 GPUs"):
        select_gpu("cuda:2")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["load", "--parts", "--rounds", "2"], "--rounds"),
        (["load", "--parts", "--scaling"], "--scaling"),
        (["load", "--scaling", "--plot", "x.png"], "--plot"),
        (["load", "--workload", "rrc224_1thread", "--threads", "4"], "--threads"),
        (["train", "--fed-mode", "eager"], "--fed-mode"),
    ],
)
def test_options_without_effect_are_refused(
    arguments: list[str],
    option: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("harness.cli.benches._training_steps.plain_step", lambda *_: None)
    assert f"{option} has no effect" in refusal(["bench", *arguments], capsys)
    assert {option.name for option in train.command.params} >= train.OPTIONS_OF_FED


def test_outputs_that_exclude_each_other_are_refused(capsys: pytest.CaptureFixture[str]):
    for command in (
        ["plan", "demo", "--json", "--dot"],
        ["subset", "show", "in900", "--json", "--map"],
    ):
        assert "exclude each other" in refusal(command, capsys)
    watch = ["status", "demo", "--json", "--watch"]
    assert "--watch has no effect with --json" in refusal(watch, capsys)


def test_a_benchmark_leaves_the_files_of_its_scratch_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`bench matrix --scratch DIR` once deleted DIR and all files in it."""
    (tmp_path / "thesis.tex").write_text("text")
    monkeypatch.setattr("harness.cli.benches.matrix.MatrixRuns.warm_up", lambda runs: 1 / 0)
    arguments = ["bench", "matrix", "--overhead", "--scratch", str(tmp_path)]
    ended = CliRunner().invoke(cli, arguments)
    assert isinstance(ended.exception, ZeroDivisionError)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_batch_that_does_not_fit_into_memory_is_refused(tmp_path: Path):
    """Without this check, numpy raises ValueError for the largest shapes, else MemoryError."""
    with pytest.raises(UserError, match="memory for a batch of 128 images"):
        LoaderPlan(tmp_path / "x.beton", 128, 10**9)
    assert LoaderPlan(tmp_path / "x.beton", 10**6, 224).batch_size == 10**6


def test_subset_rank_needs_the_resolution_the_classes_and_the_split(tmp_path: Path):
    """The checkpoint may lack its resolution or its classes, as those of other programs do."""
    write_colors(tmp_path)
    source = ["--source", str(tmp_path / "colors-images")]
    betons = ["--out", str(tmp_path / "betons")]
    assert CliRunner().invoke(cli, ["write-beton", *source, *betons]).exit_code == 0
    file = next((tmp_path / "betons").glob("val.beton"))
    from writers.beton.store import open_beton

    classes = open_beton(file).manifest.classes
    model = classifier.build("resnet10", len(classes), channels=(16, 16, 16, 16))
    about = {"arch": "resnet10", "channels": [16, 16, 16, 16], "classes": classes}
    classifier.save(tmp_path / "m.pt", model, about)
    classifier.save(tmp_path / "unnamed.pt", model, {**about, "classes": None, "resolution": 24})

    def rank(name: str, *arguments: str) -> str:
        checkpoint = ["--checkpoint", str(tmp_path / name), "--data", str(file)]
        ended = CliRunner().invoke(cli, ["subset", "rank", *checkpoint, *arguments])
        assert ended.exception is None or isinstance(ended.exception, UserError), ended.exception
        return str(ended.exception or ended.output)

    assert "does not state the resolution" in rank("m.pt")
    assert "class,accuracy" in rank("m.pt", "--resolution", "24")
    assert "different classes (none and" in rank("unnamed.pt")
    assert "holds the split val, not train" in rank("m.pt", "--split", "train")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--val", "0.6", "--test", "0.6"], "leaves none to train on"),
        (["--val", "1"], "leaves none to train on"),
        (["--preset", "0_0.5_90"], "max_resolution: Input should be greater"),
    ],
)
def test_writing_without_training_images_or_pixels_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    place = ["--source", str(tmp_path), "--out", str(tmp_path / "out")]
    assert message in refusal(["write-beton", *place, *arguments], capsys)
