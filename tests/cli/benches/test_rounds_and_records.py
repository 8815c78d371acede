"""Rounds are interleaved, ratios are taken within a round, and the record is complete."""

import importlib
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from harness.cli.benches import _rounds, load
from harness.cli.benches._checkout import ROOT, checkout_environment
from harness.cli.benches._record import Goal, compute_ratios, make_record, markdown, save
from harness.cli.benches._rounds import Measured, RoundPlan, plan_rounds, take_turns
from harness.cli.main import cli
from writers.errors import UserError


def test_the_order_of_contenders_rotates():
    called = []
    rates = take_turns(
        {name: lambda name=name: called.append(name) or float(len(called)) for name in "abc"}, 3
    )
    assert "".join(called) == "abcbcacab"
    assert rates == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


def test_on_round_gets_the_rates_and_rounds_end_at_the_deadline(monkeypatch):
    """The clock advances by 10 s in each round, so 3 of 9 rounds fit into 35 s."""
    clock = [0.0]
    monkeypatch.setattr(_rounds.time, "monotonic", lambda: clock[0])

    def run() -> float:
        clock[0] += 5.0
        return 1.0

    seen = []
    rates = take_turns(
        {"a": run, "b": run},
        9,
        on_round=lambda rates: seen.append([len(values) for values in rates.values()]),
        deadline=35.0,
    )
    assert seen == [[1, 1], [2, 2], [3, 3]] and rates == {"a": [1.0] * 3, "b": [1.0] * 3}
    assert take_turns({"a": run}, 9, deadline=0.0) == {"a": [1.0]}  # the first round always runs


def test_processes_of_a_benchmark_inherit_pythonpath(monkeypatch):
    """Packages may be installed only in a folder of PYTHONPATH."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/one", "/two"]))
    assert checkout_environment()["PYTHONPATH"].split(os.pathsep) == [
        str(ROOT),
        "/one",
        "/two",
    ]
    monkeypatch.delenv("PYTHONPATH")
    assert checkout_environment()["PYTHONPATH"] == str(ROOT)


@pytest.mark.parametrize(
    ("option", "name", "hint"),
    [
        ("--against", "ffvc", "Did you mean ffcv?"),
        ("--against", "ffcv:jpeg,torchvision:jpeg", "nvjpeg"),
        ("--ours", "ours:jepg", "jpeg"),
        ("--instructions", "AVX3", "AVX2"),
    ],
)
def test_unknown_names_are_refused_before_the_corpus_is_made(
    option: str, name: str, hint: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("loaders.kernel_c.instruction_sets", lambda: ("AVX2", "scalar"))
    monkeypatch.setattr("harness.cli.benches._corpus.make_photo_tiles", lambda _: 1 / 0)
    ended = CliRunner().invoke(cli, ["bench", "load", option, name])
    assert isinstance(ended.exception, UserError) and hint in ended.exception.hint
    for others in ("all", "dali:gpu", "ours:resident,streaming"):
        ended = CliRunner().invoke(cli, ["bench", "load", "--against", others])
        assert isinstance(ended.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "step_s, overhead_s, left_s, planned",
    [
        # A plan may take 90 % of the seconds left.
        ({"a": 0.1}, {}, 1000, RoundPlan(5, 20)),  # 5 rounds * 20 steps * 0.1 s = 10 s of 900 s
        ({"a": 0.5, "b": 0.5}, {}, 50, RoundPlan(5, 9)),  # 45 s / 5 rounds = 9 steps of 1 s
        # 9 s per round, less 4 s of overhead, leave 5 steps of 1 s.
        ({"a": 0.5, "b": 0.5}, {"b": 4.0}, 50, RoundPlan(5, 5)),
        ({"a": 1.0}, {}, 14, RoundPlan(4, 3)),  # 12.6 s: 4 rounds of 3 steps, not 5 of 2
        ({"a": 1.0}, {}, 1, RoundPlan(3, 3)),  # the minimum, although it does not fit
        ({"a": 1.0}, {}, -5, RoundPlan(3, 3)),
        ({"a": 0.0}, {}, 10, RoundPlan(5, 20)),  # a step below the clock's resolution
    ],
)
def test_rounds_are_sized_by_measured_steps(step_s, overhead_s, left_s, planned):
    plan = plan_rounds(step_s, overhead_s, left_s, RoundPlan(5, 20))
    assert plan == planned
    round_s = sum(overhead_s.values()) + plan.num_steps * sum(step_s.values())
    assert plan.num_rounds * round_s <= 0.9 * left_s or plan == RoundPlan(3, 3)


def test_the_plan_never_exceeds_the_wanted_rounds():
    assert plan_rounds({"a": 9.0}, {}, 1, RoundPlan(2, 1)) == RoundPlan(2, 1)
    assert plan_rounds({"a": 0.001}, {}, 999, RoundPlan(2, 1)) == RoundPlan(2, 1)


def test_a_record_before_the_first_round():
    content = make_record(
        "train", {}, {"a": Measured("a")}, [], device="cpu", rounds_planned=5, absent={"b": "why"}
    )
    assert (content["rounds_complete"], content["rounds_planned"]) == (0, 5)
    assert content["contenders"] == {} and "why" in markdown(content)
    assert content["decoding_kernel"] in ("c", "numba")


def test_a_ratio_compares_within_rounds_with_the_best_contender():
    """In round 2 the machine runs at half speed: rates halve, but the ratio is about the same."""
    measured = {
        "ours": Measured("ours", rates=[300, 150, 330]),
        "x": Measured("x", rates=[100, 50, 100]),
        "y": Measured("y", rates=[90, 60, 110]),
    }
    (ratio,) = compute_ratios(
        measured,
        [
            Goal("ours", ("x", "y"), must=2.0, aim=3.5, title="ours / all"),
            Goal("ours", ("absent",)),
            Goal("nobody", ("x",)),
        ],
    )
    assert ratio.against == ("x", "y")
    assert ratio.rounds == pytest.approx((3.0, 2.5, 3.0))
    assert ratio.median == 3.0
    assert ratio.verdict == "reached" and ratio.title == "ours / all"
    assert (
        compute_ratios(measured, [Goal("ours", ("x",), must=2.0, aim=3.0)])[0].verdict
        == "aim reached"
    )
    assert compute_ratios(measured, [Goal("x", ("ours",), must=1.0)])[0].verdict == "NOT REACHED"
    assert measured["ours"].spread == pytest.approx(180 / 300)


def test_a_ratio_with_absent_contenders_has_no_goal():
    measured = {
        name: Measured(name, rates=[rate])
        for name, rate in (("ours", 300.0), ("x", 100.0), ("y", 90.0))
    }
    (ratio,) = compute_ratios(
        measured, [Goal("ours", ("x", "y", "fast"), must=2.0, aim=2.5, title="ours / best of all")]
    )
    assert ratio.title == "ours / x or y" and ratio.against == ("x", "y") and ratio.median == 3.0
    assert ratio.must is None and ratio.aim is None and ratio.verdict == ""


def test_ratios_of_a_gpu_run():
    """The contenders are some of those that benchmarks/gpu_check.py measures."""
    measured = {
        name: Measured(name, rates=[1.0])
        for name in ("ours:restart", "ours:resident", "ffcv:jpeg", "torchvision:io", "dali:gpu")
    }
    ratios = compute_ratios(measured, load._comparisons())
    assert [(ratio.ours, ratio.against) for ratio in ratios] == [
        ("ours:restart", ("ffcv:jpeg",)),
        ("ours:restart", ("torchvision:io",)),
        ("ours:restart", ("dali:gpu",)),
        ("ours:resident", ("dali:gpu",)),
        ("ours:resident", ("ours:restart",)),
    ]
    assert ratios[1].title == "ours:restart / torchvision:io"


def test_ours_and_the_others_are_opened_alternately(monkeypatch, tmp_path):
    """A time limit may leave out the last contenders, and a ratio needs one of each side."""
    opened: list[str] = []

    def measure(names, work, num_rounds, **options):
        opened.extend(names)
        return {}, {}, RoundPlan(1, 1)

    # Imported later, this module would bind the replaced function for the rest of the session.
    importlib.import_module("harness.cli.benches._load_parts")
    monkeypatch.setattr("harness.cli.benches._contenders.measure_contenders", measure)
    corpus = tmp_path / "photos"
    corpus.mkdir()
    Image.new("RGB", (40, 30)).save(corpus / "0.jpg")
    arguments = ["bench", "load", "--corpus", str(corpus), "--data-dir", str(tmp_path / "data")]
    names = ["--ours", "ours:restart,ours:dct,ours:resident", "--against", "ffcv:jpeg,dali:gpu"]
    ended = CliRunner().invoke(cli, [*arguments, *names], catch_exceptions=False)
    assert ended.exit_code == 0
    assert opened == ["ours:restart", "ffcv:jpeg", "ours:dct", "dali:gpu", "ours:resident"]


def test_a_record_that_cannot_be_written_raises_user_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save(tmp_path / "file" / "x.json", {})


@pytest.mark.skipif(
    not (ROOT / "benchmarks" / "contender.py").is_file(),
    reason="benchmarks/ is not part of the package",
)
def test_bench_load_end_to_end(tmp_path: Path):
    """Two contenders on a flat folder of small JPEGs, one absent contender, one unknown name."""
    corpus = tmp_path / "photos"
    corpus.mkdir()
    for index in range(12):
        Image.effect_noise((130 + index, 110), 60).convert("RGB").save(corpus / f"{index}.jpg")
    arguments = [
        "bench",
        "load",
        "--corpus",
        str(corpus),
        "--data-dir",
        str(tmp_path / "data"),
        "--rounds",
        "2",
        "--images",
        "24",
        "--batch-size",
        "8",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "load.json"),
        "--plot",
        str(tmp_path / "load.png"),
    ]
    ended = CliRunner().invoke(
        cli, [*arguments, "--ours", "ours:jpeg", "--against", "torchvision:pil,dali:gpu"]
    )
    assert ended.exit_code == 0, ended.output
    assert not {"must", "aim", "reached", "NOT"} & set(ended.output.replace("│", " ").split())
    content = json.loads((tmp_path / "load.json").read_text())
    assert set(content["contenders"]) == {"ours:jpeg", "torchvision:pil"}
    assert set(content["absent"]) == {"dali:gpu"}
    for row in content["contenders"].values():
        assert len(row["rates"]) == 2
        assert min(row["rates"]) > 0
        assert row["opened"]["shape"] == [8, 3, 224, 224]
        # The images are noise around mid-gray (128), so the mean pixel shows that they were read.
        assert 100 < row["opened"]["mean_pixel"] < 156
        assert [detail["num_images"] for detail in row["details"]] == [24, 24]
    assert content["environment"]["packages"]["torch"] and content["work"]["num_images"] == 12
    assert (tmp_path / "load.png").stat().st_size > 0
    assert content["rounds_complete"] == content["rounds_planned"] == 2
    limited = [*arguments, "--ours", "ours:jpeg", "--against", "", "--time-limit", "600"]
    assert CliRunner().invoke(cli, limited, catch_exceptions=False).exit_code == 0
    content = json.loads((tmp_path / "load.json").read_text())
    assert content["work"]["images_per_round"] == 24 and content["rounds_complete"] == 2
    (row,) = content["contenders"].values()
    assert [detail["num_images"] for detail in row["details"]] == [24, 24]
    with pytest.raises(UserError, match="no contender named 'torchvisio'"):
        CliRunner().invoke(cli, [*arguments, "--against", "torchvisio"], catch_exceptions=False)


def test_first_batches_are_compared_with_stock_ffcvs_once():
    def opened(seconds: float) -> Measured:
        return Measured("x", rates=[1.0], opened={"first_batch_s": seconds})

    measured = {"ours:dct": opened(0.1), "ours:raw400": opened(9.0), "ffcv:jpeg": opened(5.0)}
    (ratio,) = load._first_batch_ratios(measured)
    assert ratio.ours == "ours:dct" and ratio.rounds == (50.0,)
    assert load._first_batch_ratios({"ours:dct": opened(0.1)}) == []
