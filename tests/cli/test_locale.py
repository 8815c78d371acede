"""Commands do the same in locales with other encodings than UTF-8."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.pictures import picture

# ASCII, as in the locale C without the workarounds that Python has for it
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
RECIPE = """\
name: tiny
source: {dataset: synthetic_things}
subsets: [all]
archs: [resnet10]
"""


def run(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode()


def test_a_report_is_written_in_ascii(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    run(tmp_path, ASCII, "report", "tiny.yaml", "--out", "here")
    run(tmp_path, {"PYTHONUTF8": "1"}, "report", "tiny.yaml", "--out", "there")
    here, there = (
        (tmp_path / name / "index.html").read_text("utf-8") for name in ("here", "there")
    )
    assert here == there and not here.isascii()


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "EUC-JP"])
def test_a_beton_does_not_depend_on_the_encoding_of_names(tmp_path: Path, encoding: str):
    compiler = shutil.which("localedef")
    (tmp_path / "locales").mkdir()
    made = compiler and subprocess.run(
        [compiler, "-i", "en_US", "-f", encoding, "--no-warnings=ascii", tmp_path / "locales/x"],
        capture_output=True,
    )
    if not made or made.returncode:
        pytest.skip("no locale with this encoding can be made here: install locales")
    for number, name in enumerate(("épée", "été")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for image in range(6):
            picture(10 * number + image, 30, 24).save(tmp_path / "photos" / name / f"ü{image}.png")
    locale = {"LC_ALL": "x", "LOCPATH": str(tmp_path / "locales"), "PYTHONUTF8": "0"}
    environments = (locale, {"LC_ALL": "C.UTF-8"})
    manifests = [
        json.loads(
            run(tmp_path, environment, "write-beton", "--source", "photos", "--out", out, "--json")
        )
        for environment, out in zip(environments, ("here", "there"), strict=True)
    ]
    assert manifests[0] == manifests[1]
    assert manifests[0][0]["classes"] == ["épée", "été"]
