"""`harness bench train` and `bench attack` at tiny sizes: contenders, rounds, plain attack.

A contender is one of the compared ways to train or to attack. A fed contender trains on batches of
a loader; the others repeat one batch of noise.
"""

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from harness.cli.benches import _rounds, _training_rounds, _training_steps
from harness.cli.benches._checkout import ROOT
from harness.cli.benches._fed_steps import FED_WARM_UP_STEPS, FedBy, FedByLoader
from harness.cli.benches._rounds import RoundPlan
from harness.cli.benches._training_rounds import measure_steps
from harness.cli.benches._training_steps import pgd3, plain_attack
from harness.cli.main import cli
from harness.modeling import classifier
from harness.profiling.timer import Timer
from harness.train.attack import pgd
from harness.train.autotune import noise_batch
from writers.beton.store import open_beton
from writers.errors import UserError

TINY = [
    "--arch",
    "resnet10",
    "--resolution",
    "16",
    "--batch-size",
    "2",
    "--rounds",
    "2",
    "--steps",
    "1",
]


@pytest.fixture(autouse=True)
def few_classes(monkeypatch):
    monkeypatch.setattr(_training_steps, "NUM_CLASSES", 10)
    monkeypatch.setattr(_training_rounds, "WARM_UP_STEPS", 1)


def run(tmp_path: Path, *arguments: str) -> dict:
    file = tmp_path / "record.json"
    result = CliRunner().invoke(
        cli, ["bench", *arguments, "--json", str(file)], catch_exceptions=False
    )
    assert result.exit_code == 0
    return json.loads(file.read_text())


def test_bench_train_with_and_without_a_loader(tmp_path):
    folder = tmp_path / "photos" / "noise"
    folder.mkdir(parents=True)
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
    record = run(
        tmp_path,
        "train",
        *TINY,
        "--fed",
        "--corpus",
        str(folder.parent),
        "--scratch",
        str(tmp_path / "s"),
        "--threads",
        "1",
    )
    assert set(record["contenders"]) == {"plain", "ours:eager", "ours:fed"} and not record["absent"]
    assert [ratio["title"] for ratio in record["ratios"]] == [
        "ours:eager / plain, clean",
        "gpu_fed, clean",
    ]
    assert all(
        len(row["rates"]) == 2 and row["median"] > 0 for row in record["contenders"].values()
    )
    assert record["work"]["clock"] == "this process's CPU time"
    assert record["environment"]["packages"]["torch"]
    (beton,) = (tmp_path / "s").glob("*.beton")
    # A round reads 5 batches of 2 images (4 of them to warm up), so the 9 images are written twice.
    assert open_beton(beton).manifest.num_samples == 18


def test_compiled_steps_are_fed_from_each_format_by_each_number_of_threads(tmp_path, monkeypatch):
    """All fed contenders share one compiled network; --trace writes a trace of its steps."""
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    folder = tmp_path / "photos" / "noise"
    folder.mkdir(parents=True)
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")
    places = ["--corpus", str(folder.parent), "--scratch", str(tmp_path / "s")]
    options = ["--fed-mode", "compiled", "--fed-from", "jpeg,dct,raw", "--threads", "2,1"]
    trace = ["--trace", str(tmp_path / "trace")]
    record = run(tmp_path, "train", *TINY, "--fed", "--eager", *places, *options, *trace)
    fed = {f"ours:fed:{name}:{threads}" for name in ("jpeg", "dct", "raw") for threads in (2, 1)}
    assert set(record["contenders"]) == {"plain", "ours:eager", "ours:compiled", *fed}
    ratios = {ratio["title"]: ratio["against"] for ratio in record["ratios"]}
    assert ratios["gpu_fed, clean dct 2"] == ["ours:compiled"]
    assert record["flops_per_image"] > 1e6
    assert all(row["opened"]["warm_up_s"] > 0 for row in record["contenders"].values())
    formats = {path.stem.rpartition("_")[2] for path in (tmp_path / "s").glob("*.beton")}
    assert formats == {"jpeg", "dct", "raw"}
    assert json.loads((tmp_path / "trace" / "trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("fast", "jpeg", None), "no compile mode 'fast'"),
        (("eager", "jpeg,png", None), "no format 'png'"),
        (("eager", "jpeg", "4,x"), "not a list of numbers"),
        (("eager", "jpeg", "0"), "not a list of numbers"),
    ],
)
def test_invalid_fed_from_options_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        FedBy.parse(*values)


def test_the_loader_is_idle_while_others_are_measured(monkeypatch):
    """A fed round is one epoch, which starts before the clock does and ends with the round."""
    calls: list[str] = []

    class Loader:
        plan = SimpleNamespace(batches_ahead=2)

        @contextmanager
        def epoch(self, number):
            calls.append(f"epoch {number}")
            yield ((f"batch {batch}",) for batch in range(FED_WARM_UP_STEPS + 2))
            calls.append("end")

    class Learner:
        set_rate, train_batch = calls.append, calls.append

    fed = FedByLoader(Learner, Loader())
    steps = {"plain": ("plain", lambda: calls.append("plain")), "fed": ("fed", fed.step)}
    monkeypatch.setattr(
        _training_rounds.time,
        "process_time",
        lambda: calls.append("clock") or float(calls.count("clock")),
    )
    measured, _ = measure_steps(
        steps, "cpu", RoundPlan(2, 2), batch_size=10, absent={}, around={"fed": fed.round}
    )
    before, counted = [f"batch {number}" for number in range(4)], ["batch 4", "batch 5"]
    plain = ["clock", "plain", "plain", "clock"]
    first, second = (
        [f"epoch {number}", *before, "clock", *counted, "clock", "end"] for number in (1, 2)
    )
    assert calls[-28:] == [*plain, *first, *second, *plain]  # the order of contenders rotates
    assert measured["fed"].rates == [20, 20]


def test_a_time_limit_sizes_the_rounds_and_is_recorded(tmp_path):
    """All requested steps fit into 10 minutes; an exceeded limit leaves one round."""
    steps = [*TINY, "--steps", "4"]
    roomy = run(tmp_path, "train", *steps, "--eager", "--time-limit", "600")
    assert roomy["rounds_complete"] == roomy["rounds_planned"] == 2
    assert roomy["work"]["num_steps"] == 4
    over = run(tmp_path, "train", *steps, "--rounds", "9", "--eager", "--time-limit", "0.001")
    assert over["work"]["num_steps"] == _rounds.MIN_STEPS
    assert (over["rounds_complete"], over["rounds_planned"]) == (1, _rounds.MIN_ROUNDS)
    assert set(over["contenders"]) == {"plain"}
    assert "no time was left" in over["absent"]["ours:eager"]


def test_contenders_are_saved_before_the_next_one_compiles():
    """Compilation may use up the time, and the process is then killed during a warm-up."""
    saved: list[dict[str, list[float]]] = []
    seen: list[dict[str, list[float]]] = []
    steps = {
        "plain": ("plain", lambda: None),
        "ours": ("ours", lambda: seen.append(saved[-1])),
    }
    measured, plan = measure_steps(
        steps,
        "cpu",
        RoundPlan(2, 1),
        batch_size=10,
        absent={},
        deadline=time.monotonic() + 600,
        on_round=lambda found, _: saved.append({name: list(found[name].rates) for name in found}),
    )
    assert seen[0].keys() == {"plain"} and len(seen[0]["plain"]) == 1
    assert saved[1].keys() == {"plain", "ours"}
    assert all(len(row.rates) == plan.num_rounds == 2 for row in measured.values())


def test_a_killed_benchmark_leaves_its_complete_rounds(tmp_path):
    """After SIGKILL, the record is complete JSON and has the number of finished rounds."""
    file = tmp_path / "record.json"
    command = [sys.executable, "-m", "harness.cli.main", "bench", "attack", *TINY]
    process = subprocess.Popen(
        [*command, "--rounds", "100000", "--json", str(file)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not file.exists():
            assert process.poll() is None, "the benchmark ended before its first round"
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    record = json.loads(file.read_text())
    assert 1 <= record["rounds_complete"] < record["rounds_planned"] == 100000
    counts = {len(row["rates"]) for row in record["contenders"].values()}
    assert counts == {record["rounds_complete"]} and len(record["contenders"]) == 4
    assert len(record["cost_over_clean"]["ours"]["rounds"]) == record["rounds_complete"]


def test_bench_attack_records_the_cost_of_an_attack(tmp_path):
    record = run(tmp_path, "attack", *TINY)
    assert set(record["contenders"]) == {"ours:clean", "ours:pgd3", "plain:clean", "plain:pgd3"}
    rates = {name: row["rates"] for name, row in record["contenders"].items()}
    assert record["cost_over_clean"]["ours"]["rounds"] == pytest.approx(
        [
            clean / attacked
            for clean, attacked in zip(rates["ours:clean"], rates["ours:pgd3"], strict=True)
        ]
    )
    assert all(ratio["must"] is None for ratio in record["ratios"])  # goals apply to GPUs only


def test_the_plain_attack_equals_the_harness():
    """The compared attacks return the same images, so their speeds can be compared."""
    torch.manual_seed(0)
    # In float64, rounding does not change which side of zero a ReLU's input is on.
    model = classifier.build("resnet10", 10).double()
    model.register_forward_pre_hook(lambda _, inputs: inputs[0].double())
    images, labels = noise_batch(4, 16, 10, "cpu")
    pixels, settings = images.float() / 255, pgd3()
    plain = plain_attack(model, pixels, labels, 0.5, settings, torch.enable_grad)
    ours = pgd(
        model, pixels, labels, norm="l2", eps=0.5, steps=3, step_size=settings.step_length(0.5)
    )
    assert (plain - pixels).flatten(1).norm(dim=1).min() > 0.1
    # Pixels are float32, so each of the three steps rounds by up to 6e-8.
    torch.testing.assert_close(plain, ours, atol=1e-6, rtol=0)


def test_a_missing_gpu_is_a_user_error(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ended = CliRunner().invoke(cli, ["bench", "attack", *TINY, "--device", "cuda:0"])
    assert ended.exit_code and "cannot use a GPU" in str(ended.exception)


def test_bench_train_with_each_augmentation(tmp_path):
    record = run(tmp_path, "train", *TINY, "--augment")
    names = {f"augment:{name}" for name in _training_steps.AUGMENTATIONS}
    assert set(record["contenders"]) == {"plain", "ours:eager", *names}
    assert not record["absent"]
    assert sum(ratio["title"].startswith("with ") for ratio in record["ratios"]) == len(names)


def test_the_cost_of_timing_spans_is_measured(tmp_path, monkeypatch):
    """With --timer, all spans of a step are timed, and they are read after each round."""
    read: list[dict] = []
    end_epoch = Timer.end_epoch
    monkeypatch.setattr(Timer, "end_epoch", lambda timer: read.append(end_epoch(timer)) or read[-1])
    record = run(tmp_path, "train", *TINY, "--timer", "--eps", "3")
    assert set(record["contenders"]) == {"plain", "ours:eager", "ours:timed"}
    ratios = {ratio["title"]: ratio["against"] for ratio in record["ratios"]}
    assert ratios["with timed spans, robust"] == ["ours:eager"]
    assert len(read) == 1 + 2  # warm-up and two rounds
    computed = {"attack", "forward", "backward", "optimizer"}
    assert all(computed <= {name for name, s in each["spans_s"].items() if s > 0} for each in read)
