"""Code blocks of the README and the documentation run, or are marked with what they need.

In a bash block, each command is a line, with backslashes for continuation. A command marked [data]
needs files of the reader, and a command marked [long] takes minutes. Only the options of marked
commands are checked. Python blocks marked [data] run here on a few generated photographs.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest
import yaml
from PIL import Image

from harness.cli.commands.ls import describe
from harness.cli.main import cli
from harness.config import load
from tests.helpers import ROOT
from writers.text_names import counted

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"#.*\[(?:data|long)\]")
SET_UP = {"make", "source", "eval", "git"}  # steps of an installation


class Block(NamedTuple):
    page: str
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    return [block for block in all_blocks() if block.language == language]


def all_blocks() -> list[Block]:
    return [
        Block(str(page.relative_to(ROOT)), language, text)
        for page in PAGES
        for language, text in FENCE.findall(page.read_text())
    ]


def commands(block: Block) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", block.text)
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def distinct_commands() -> list[tuple[str, str]]:
    """Return (page, command) pairs; a command on several pages with the same mark occurs once."""
    found: dict[tuple[tuple[str, ...], bool], tuple[str, str]] = {}
    for block in blocks("bash"):
        for command in commands(block):
            key = tuple(shlex.split(command, comments=True)), bool(MARK.search(command))
            found.setdefault(key, (block.page, command))
    return list(found.values())


ALL_COMMANDS = [
    pytest.param(command, id=f"{page}-{command[:50]}") for page, command in distinct_commands()
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images of two classes in `my-photos/`, and their `.beton` files."""
    folder = tmp_path_factory.mktemp("reader")
    rng = np.random.default_rng(0)
    for name in ("apple", "pear"):
        (folder / "my-photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"my-photos/{name}/{number}.jpg")
    run("harness write-beton --source my-photos/", folder)
    return folder


def run(command: str, folder: Path) -> None:
    words = shlex.split(command, comments=True)
    program = [sys.executable, "-m", "harness.cli.main"] if words[0] == "harness" else [words[0]]
    ended = run_program([*program, *words[1:]], folder)
    assert ended.returncode == 0, ended.stderr


def run_program(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder, without the HARNESS_* variables of this environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    return subprocess.run(
        command, cwd=folder, env=kept, capture_output=True, text=True, timeout=300
    )


def check_options(words: list[str]) -> None:
    """Raise click.UsageError if the command or an option does not exist."""
    command: click.Command = cli
    # click caches a command's help option, whose names come from the first context.
    context = click.Context(cli, info_name="harness", **cli.context_settings)
    words = words[1:]
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
        context = click.Context(command, parent=context)
    command.make_parser(context).parse_args(list(words))


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_commands_run_or_have_valid_options(command: str, workspace: Path) -> None:
    words = shlex.split(command, comments=True)
    if words[0] in SET_UP:
        return
    is_ours = words[0] == "harness" or words[0].startswith(".venv/")
    assert is_ours or MARK.search(command), "only commands of this project are tested"
    if words[0] == "harness":
        check_options(words)
        # tests/cli/test_cpu_check.py runs doctor, which starts five processes with torch.
        if not MARK.search(command) and words[1:] != ["doctor"]:
            run(command, workspace)


# Runs blocks in turn, each with its own globals. Prints a JSON list of tracebacks, "" on success.
RUN_BLOCKS = """
import json, sys, traceback
errors = []
for block in json.loads(sys.argv[1]):
    try:
        exec(compile(block, "block", "exec"), {"__name__": "__main__"})
        errors.append("")
    except Exception:
        errors.append(traceback.format_exc())
print()
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def python_errors(workspace: Path) -> dict[Block, str]:
    """Run the Python blocks that are not [long]; return their tracebacks, "" on success.

    One process runs all blocks, because importing torch takes seconds.
    """
    run_here = [block for block in blocks("python") if "[long]" not in block.text]
    texts = json.dumps([block.text for block in run_here])
    ended = run_program([sys.executable, "-c", RUN_BLOCKS, texts], workspace)
    assert ended.returncode == 0, ended.stderr
    errors = json.loads(ended.stdout.splitlines()[-1])
    return dict(zip(run_here, errors, strict=True))


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.page)
def test_python_blocks_run(block: Block, python_errors: dict[Block, str]) -> None:
    compile(block.text, block.page, "exec")
    assert not python_errors.get(block)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.page)
def test_yaml_blocks_are_recipes_or_parts_of_one(block: Block, tmp_path: Path) -> None:
    tree = yaml.safe_load(block.text)
    file = tmp_path / "recipe.yaml"
    base = {} if "name" in tree else {"base": "demo", "name": "part"}
    file.write_text(yaml.safe_dump({**base, **tree}))
    load.read(file)


def test_every_block_has_a_language() -> None:
    unnamed = [f"{block.page}: {block.text[:40]!r}" for block in all_blocks() if not block.language]
    assert not unnamed


def test_an_unknown_option_is_found() -> None:
    with pytest.raises(click.UsageError):
        check_options(["harness", "run", "demo", "--no-such-option"])


def test_messages_of_the_troubleshooting_page_exist() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    source = "\n".join(
        file.read_text()
        for package in ("harness", "writers", "loaders")
        for file in (ROOT / package).rglob("*.py")
    )
    joined = re.sub(r'"\s*\n\s*f?"', "", source)
    rows = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert len(rows) > 5
    for message in rows:
        assert message in joined, message


def test_numbers_of_subsets_and_classes_are_as_the_commands_print_them() -> None:
    (num_subsets,) = re.findall(r"(\d+) subsets have names", (ROOT / "README.md").read_text())
    assert int(num_subsets) == len(describe("subsets"))
    samples = [block.text for block in all_blocks() if block.language == "text"]
    seen = re.findall(r"^\S+ of (.+ classes) are seen\.", "\n".join(samples), re.MULTILINE)
    assert seen
    for shown in seen:
        number = int(shown.removesuffix(" classes").replace(",", ""))
        assert shown == counted(number, "class")
