"""The process that `harness bench load` starts for each compared loader: reports and memory."""

import subprocess
import sys

from harness.cli.benches._contenders import start_contender
from loaders import kernel_c
from tests.helpers import ROOT
from tests.helpers.tiny_betons import jpeg, photo

MEMORY = """
import os, subprocess, sys
from benchmarks.contender import memory_bytes

os.setsid()
before = memory_bytes()
held = bytearray(60 << 20)
script = "held = bytearray(90 << 20); print(1, flush=True); input()"
child = subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1)
child.stdout.readline()
print(memory_bytes() - before)
child.kill()
"""


def test_memory_includes_worker_processes():
    """60 MiB of the process and 90 MiB of its child process are added up."""
    process = subprocess.run(
        [sys.executable, "-c", MEMORY],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=240,
        check=True,
    )
    assert 145 << 20 < int(process.stdout) < 200 << 20


def test_a_contender_reports_imports_and_first_batch_separately(tmp_path):
    photos = tmp_path / "corpus" / "photos"
    photos.mkdir(parents=True)
    for number in range(24):
        (photos / f"{number}.jpg").write_bytes(jpeg(photo(150 + number, 120, seed=number)))
    work = {
        "corpus": str(photos.parent),
        "scratch": str(tmp_path / "converted"),
        "batch_size": 8,
        "resolution": 64,
        "num_threads": 1,
        "images_per_round": 24,
    }
    if kernel_c.library() is not None:
        work["instructions"] = "scalar"
    with start_contender("ours:jpeg", work) as contender:
        opened = contender.read()
        assert opened["shape"] == [8, 3, 64, 64] and opened["dtype"] == "torch.uint8"
        assert min(opened["import_s"], opened["first_batch_s"]) > 0
        assert contender.round()["num_images"] == 24
        assert contender.round(25)["num_images"] == 48  # whole epochs of 24 images
