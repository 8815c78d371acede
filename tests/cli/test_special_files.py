"""Every command refuses a pipe, a socket or a device in place of a path, and leaves it there.

Reading a pipe that nobody writes to would block forever.
"""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from PIL import Image

from harness.cli.main import cli, main
from harness.cli.path_types import PathType

# A parameter is tested if its metavar has one of these words.
PATH_WORDS = ("DIR", "FILE", "TAR", "BETON", "CSV", "RECIPE", "SUBSET", "MODEL", "STAGE")
# Word in the metavar -> name of a file that the command takes for a path, not for a name.
NAMES = {"RECIPE": "./s.yaml", "FILE.yaml": "s.yaml", "SUBSET": "./s.txt", "NAME|FILE": "./s.txt"}
# Required parameter -> a value for it while another parameter is tested.
VALUES = {
    "arch": "resnet10",
    "checkpoint": "plain",
    "checkpoints": "plain",
    "data": "plain",
    "dataset": "synthetic_patterns",
    "datasets": "pets",
    "file": "new.yaml",
    "files": "plain",
    "form": "timm",
    "keep": "0.5",
    "model": "efficientnet_lite0",
    "model_name": "efficientnet_lite0",
    "name": "in900",
    "out": "new",
    "recipe_name": "demo",
    "stage": "pretrain",
    "steps": "per_class: 1",
    "surrogate": "efficientnet_lite0",
    "target": "synthetic_patterns",
}


def commands(
    group: click.Group, names: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))
        elif command is not None:
            yield (*names, name), command


def is_path(parameter: click.Parameter) -> bool:
    metavar = parameter.metavar or ""
    return isinstance(parameter.type, click.Path) or any(word in metavar for word in PATH_WORDS)


EVERY = [
    pytest.param(names, command, parameter, id=f"{' '.join(names)} {parameter.name}")
    for names, command in commands(cli)
    for parameter in command.params
    if is_path(parameter)
]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def memory_of_a_process(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


def arguments_with(command: click.Command, tested: click.Parameter, value: str) -> list[str]:
    options, arguments = [], []
    for parameter in command.params:
        if parameter is not tested and not parameter.required:
            continue
        given = value if parameter is tested else VALUES[parameter.name or ""]
        if isinstance(parameter, click.Argument):
            arguments.append(given)
        else:
            options += [parameter.opts[-1], given]
    return [*options, *arguments]


def refusal(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command that must exit with code 2, and return its standard error."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capfd.readouterr().err
    assert ended.value.code == 2, error
    return error


@pytest.mark.parametrize(("names", "command", "parameter"), EVERY)
def test_a_pipe_in_place_of_any_path_is_refused_and_stays(
    names: tuple[str, ...],
    command: click.Command,
    parameter: click.Parameter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    Path("plain").write_text("plain")
    metavar = parameter.metavar or ""
    name = next((name for word, name in NAMES.items() if word in metavar), "./s.pt")
    os.mkfifo(name)
    error = refusal([*names, *arguments_with(command, parameter, name)], capfd)
    assert 1 <= len(error.splitlines()) <= 2
    if metavar != "STAGE":  # the name or key of a stage, never a path
        assert f"{Path(name)}" in error and "is a pipe" in error
    assert Path(name).is_fifo()


def test_paths_have_the_type_that_refuses_special_files():
    plain = [case.id for case in EVERY if type(case.values[2].type) is click.Path]
    assert plain == []


WRITTEN = ("csv_file", "json_file", "out", "plot_file", "publish", "root", "scratch")
WRITTEN += ("trace_folder",)


@pytest.mark.parametrize(
    ("names", "command", "parameter"),
    [
        case
        for case in EVERY
        if case.values[2].name in WRITTEN or case.id in ("subset make file", "which-classes out")
    ],
)
def test_a_path_that_takes_no_new_files_is_refused_before_the_work(
    names: tuple[str, ...],
    command: click.Command,
    parameter: click.Parameter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """/proc refuses new files also of the superuser; the commands ended in tracebacks."""
    monkeypatch.chdir(tmp_path)
    Path("plain").write_text("plain")
    error = refusal([*names, *arguments_with(command, parameter, "/proc/none/x.yaml")], capfd)
    assert error.startswith("No such file or directory: /proc/none/x.yaml\n")
    assert len(error.splitlines()) == 2 and "/proc" in error.splitlines()[1]


@pytest.mark.parametrize(
    ("command", "writes"),
    [
        ("run demo --runs-dir", True),
        ("plan demo --runs-dir", False),
        ("report demo --runs-dir", True),
        ("cancel demo --runs-dir", True),
        ("gc demo --runs-dir", False),
        ("status demo --runs-dir", False),
        ("write-beton --source tree --data-dir", True),
    ],
)
def test_folders_that_take_no_new_files_are_refused_by_commands_that_write(
    command: str,
    writes: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        folder = Path("tree", "ab"[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (30 * number, 0, 0)).save(folder / f"{number}.png")
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "/proc/none"])
    error = capfd.readouterr().err
    if writes:
        assert ended.value.code == 2 and "Traceback" not in error
        assert "No such file or directory" in error and "/proc/none" in error
    else:
        assert ended.value.code == 0 and error == ""


@pytest.mark.parametrize("make", [pipe, unix_socket, device])
def test_the_type_of_paths_accepts_files_and_folders_only(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    make(Path("special"))
    Path("file").write_text("")
    Path("folder").mkdir()
    any_path = PathType()
    assert [any_path.convert(name, None, None) for name in ("file", "folder", "absent")] == [
        Path("file"),
        Path("folder"),
        Path("absent"),
    ]
    for refusing in (any_path, PathType(file=False), PathType(folder=False), PathType(exists=True)):
        with pytest.raises(click.BadParameter, match=r"is a (pipe|socket|device), not a"):
            refusing.convert("special", None, None)


def test_folders_files_and_empty_texts_in_place_of_each_other_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "betons").mkdir()
    for name in ("val", "test"):
        (tmp_path / f"betons/{name}.beton").touch()
    for arguments, message in (
        (
            ["verify", "betons"],
            "'betons' is a folder, not a file. Betons in it: betons/test.beton, betons/val.beton.",
        ),
        (["verify", "."], "'.' is a folder, not a file."),
        (["ls", "--data-dir", "betons/val.beton"], "'betons/val.beton' is a file, not a folder."),
        (["ls", "--data-dir", ""], "an empty text is not the name of a folder."),
        (["verify", ""], "an empty text is not the name of a file."),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        first, hint = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2 and first.endswith(message)
        assert hint == f"See harness {arguments[0]} --help."


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (unix_socket, "is a socket"),
        (device, "is a device"),
        (memory_of_a_process, "Input/output error"),
        (Path.mkdir, "is a folder|is not a file"),
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "s.yaml"],
        ["plan", "base.yaml"],
        ["subset", "show", "./s.txt"],
        ["subset", "show", "./s.yaml"],
        ["subset", "show", "ranking.yaml"],
        ["subset", "show", "scores.yaml"],
        ["subset", "show", "map.yaml"],
        ["write-beton", "--source", "tree", "--labels", "s.csv"],
        ["write-beton", "--source", "tree", "--labels", "s.json"],
        ["write-beton", "--source", "tree", "--labels", "s.parquet"],
        ["export", "./s.pt", "--format", "timm", "--out", "out"],
    ],
    ids=" ".join,
)
def test_special_files_in_place_of_input_files_are_refused_in_two_lines_at_most(
    arguments: list[str],
    make,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    for extension in ("yaml", "txt", "csv", "json", "parquet", "pt"):
        make(Path(f"s.{extension}"))
    Path("tree/train/a").mkdir(parents=True)
    Path("tree/train/a/0.jpg").write_bytes(b"")
    Path("base.yaml").write_text("name: base\nbase: ./s.yaml\n")
    Path("ranking.yaml").write_text("remove: {hardest: 1, by: ./s.csv}\n")
    Path("scores.yaml").write_text("label_mapping: {by: ./s.csv, keep: 0.5}\n")
    Path("map.yaml").write_text("granularity: {map: ./s.csv}\n")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capfd.readouterr().err
    assert ended.value.code == 2, error
    assert 1 <= len(error.splitlines()) <= 2
    assert re.search(rf"\bs\.\w+'? .*({words})", error), error
