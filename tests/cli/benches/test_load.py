"""The survey of `harness bench load`: its measurements on a small corpus, and its tables and picture of what was measured.

The other part, with contenders, is in tests/cli/benches/test_common.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contender import Work
from harness.cli.benches import _load_survey, load
from harness.cli.benches._common import Measured
from tests.helpers import ROOT
from tests.helpers.tiny_betons import jpeg, photo


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "corpus" / "photos").mkdir(parents=True)
    for number in range(24):
        (folder / "corpus" / "photos" / f"{number}.jpg").write_bytes(
            jpeg(photo(150 + number, 120, seed=number))
        )
    return {
        "corpus": str(folder / "corpus"),
        "scratch": str(folder / "converted"),
        "batch_size": 8,
        "resolution": 64,
        "num_threads": 1,
    }


def run(module: str, work: dict) -> dict:
    """What it prints, in a process of its own: it sets its processor."""
    ended = subprocess.run(
        [sys.executable, "-m", module, json.dumps(work), "3"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def views(work) -> dict:
    return run("benchmarks.views", work)


@pytest.fixture(scope="module")
def spent(work) -> dict:
    return run("benchmarks.time_split", work)


def test_a_view_is_measured_from_memory_and_from_the_disk(views):
    assert views["num_samples"] == 4 * 24
    assert [(case["from"], case["order"]) for case in views["cases"]] == [
        ("memory", "random"),
        ("disk", "random"),
        ("disk", "quasi_random"),
    ]
    for case in views["cases"]:
        assert case["ratio"] > 0 and len(case["rounds"]) == 3
        for view in ("whole", "tenth"):
            assert case[view]["img_per_s"] > 0
            if case["from"] == "memory":
                assert (
                    case[view]["in_memory_before"] == 1
                    and case[view]["bytes_read_per_byte_wanted"] < 0.1
                )


def test_the_parts_of_an_image_add_up_to_it(spent):
    if "absent" in spent:
        pytest.skip(spent["absent"])
    rounds = spent["rounds"]
    for whole, huffman, resize, transform in zip(
        *(rounds[name] for name in ("whole", "huffman", "resize", "transform")), strict=True
    ):
        assert (
            whole == pytest.approx(huffman + resize + transform)
            and huffman < whole
            and resize < whole
        )
    assert (
        1000 < spent["codes_per_image"] < 8 * spent["coded_bytes_per_image"]
        and spent["coded_bytes_per_image"] < 20_000
    )
    assert [part["part"].split()[0] for part in spent["parts"]] == [
        "Huffman",
        "inverse",
        "resize",
        "around",
        "memory,",
    ]
    assert 0 < spent["parts"][0]["limit_ms"] < spent["parts"][0]["ms"]


def test_a_person_sees_tables_and_a_picture(views, spent, tmp_path, capsys):
    one = {
        "ours": [300.0, 200.0],
        "stock": [100.0, 100.0],
        "ratio": 2.5,
        "memory_bytes": {"ours": 2**20, "stock": 2**30},
    }
    alone = {"ours": [500.0, 400.0], "ratio": None, "memory_bytes": {"ours": 2**21}}
    workloads = {name: one if name in _load_survey.STOCK_TOO else alone for name in load.WORKLOADS}
    survey = {
        "workloads": workloads,
        "threads_2_over_1": {"ours": 1.9, "stock": 1.8},
        "first_batch": {"ours, C kernel": {"import_s": 1.0, "first_batch_s": 0.12}},
        "views": views,
        "time": spent,
    }
    _load_survey.show(survey, {"restart": 12_300_000})
    said = capsys.readouterr().out
    shown = ["Huffman", "around the kernel"] if "parts" in spent else ["absent"]
    for words in ("rrc128", "2.50x", "0.12 s", "ours 1.90x", "quasi random", "12.3", *shown):
        assert words in said, words
    _load_survey.plot(survey, tmp_path / "survey.png")
    assert (tmp_path / "survey.png").stat().st_size > 10_000


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


def test_memory_is_what_a_process_and_its_workers_hold():
    ended = subprocess.run(
        [sys.executable, "-c", MEMORY],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert 145 << 20 < int(ended.stdout) < 200 << 20


def test_work_on_copies_is_the_same_images_under_other_names(work):
    from benchmarks.betons import copies

    real = Work(**work)
    more = copies(real, 3)
    assert len(more.files()) == 3 * len(real.files()) and more.scratch != real.scratch
    assert {Path(path).resolve() for path, _ in more.files()} == {
        Path(path).resolve() for path, _ in real.files()
    }


def test_the_survey_puts_its_parts_together(work, monkeypatch):
    """With rates in place of contenders and programs."""

    def take_turns(contenders: dict, num_rounds: int) -> tuple[dict, dict]:
        assert num_rounds == _load_survey.MOST_ROUNDS and len(contenders) == len(
            load.WORKLOADS
        ) + len(_load_survey.STOCK_TOO)
        rates = {
            key: [float(changed["num_threads"] * (300 if name.startswith("ours") else 100))]
            * num_rounds
            for key, (name, changed) in contenders.items()
        }
        return {
            key: Measured(
                key,
                rates=rate,
                details=[{"memory_bytes": 5}],
                opened={"import_s": 1.0, "first_batch_s": 0.5},
            )
            for key, rate in rates.items()
        }, {}

    monkeypatch.setattr(load, "take_turns", take_turns)
    monkeypatch.setattr(_load_survey, "_first_batches", lambda work: {})
    monkeypatch.setattr(
        _load_survey, "_subprocess", lambda module, work, num_rounds: {"ran": module}
    )
    survey = _load_survey.measure(work | {"num_threads": 2, "images_per_round": 99}, 7)
    assert survey["threads_2_over_1"] == {"ours": 2.0, "stock": 2.0} and survey["views"] == {
        "ran": "benchmarks.views"
    }
    assert {title: one["first_batch_s"] for title, one in survey["first_batch"].items()} == {
        "ours, C kernel": 0.5,
        "stock FFCV": 0.5,
    }
    assert (
        survey["workloads"]["rrc224"]["ratio"] == 3
        and survey["workloads"]["rrc128"]["ratio"] is None
    )
    assert survey["workloads"]["center224"]["memory_bytes"] == {"ours": 5, "stock": 5}


def test_the_first_batch_is_timed_from_the_call_on(work, monkeypatch):
    monkeypatch.setattr(_load_survey, "FIRST_BATCHES", {"ours": "ours:jpeg"})
    found = _load_survey._first_batches(work | {"images_per_round": 24})
    assert set(found["ours"]) == {"import_s", "first_batch_s"} and min(found["ours"].values()) > 0
