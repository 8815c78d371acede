"""The documentation site builds without warnings, and its generated pages are complete."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from harness.cli.main import cli
from harness.config.recipe import Recipe
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return folder


def test_each_command_has_a_page_with_its_options(site: Path) -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        if not isinstance(cli.get_command(context, name), click.Group):
            page = (site / "commands" / name / "index.html").read_text()
            assert f"harness {name}" in page
    assert "--jobs-per-gpu" in (site / "commands/run/index.html").read_text()


def test_each_setting_of_a_recipe_is_listed(site: Path) -> None:
    page = (site / "recipes/settings/index.html").read_text()
    for name in Recipe.model_fields:
        assert f"<code>{name}</code>" in page


def test_pages_request_nothing_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        for attribute in (
            '<script src="http',
            '<link rel="stylesheet" href="http',
            '<img src="http',
        ):
            assert attribute not in text, page


def test_the_page_of_costs_has_each_recipe_with_its_number_of_stages(site: Path) -> None:
    page = (site / "recipes/costs/index.html").read_text()
    assert ">717<" in page
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    counts = [
        [int(cell.replace(",", "")) for cell in re.findall(r"<td[^>]*>([\d,]+)</td>", row)]
        for row in rows[1:]
    ]
    assert len(counts) == len(list((ROOT / "recipes").glob("*.yaml")))
    for total, *by_kind in counts:
        assert total == sum(by_kind)
