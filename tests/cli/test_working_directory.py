"""Modules of the user in the working directory are not imported in place of others."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT
from tests.helpers.pictures import picture

RECIPE = """\
name: tiny
source: {path: photos}
subsets: [all]
archs: [resnet10]
pretrain: {epochs: 1, batch_size: 8, resolution: 32}
"""
NAMES = ("harness/__init__", "loaders/__init__", "writers/__init__", "torch", "queue", "timm")
# -P and -c do not pass on what is on the path, other than PYTHONSAFEPATH
COMMANDS = (
    ["-P", "-m", "harness.cli.main", "run", "tiny.yaml", "--jobs", "1"],
    ["-P", "-c", "import harness; print(harness.run('tiny.yaml', options={'gpus_per_stage': 2}))"],
)


def test_a_recipe_runs_in_a_folder_with_modules_of_the_same_names(tmp_path: Path):
    for name in NAMES:
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("raise SystemExit('a module of the user')\n")
    for number in range(24):
        folder = tmp_path / "photos" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture(number, 40, 36).save(folder / f"{number}.png")
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    environment = {"PYTHONPATH": str(ROOT), "HARNESS_RAW": ".", "CUDA_VISIBLE_DEVICES": ""}
    for number, command in enumerate(COMMANDS):
        done = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            env={
                **{key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
                **environment,
                "HARNESS_RUNS": f"runs{number}",
                "HARNESS_DATA": f"data{number}",
            },
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"runs{number}/reports/tiny/index.html").is_file()
