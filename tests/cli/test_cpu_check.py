"""The check of torch's CPU kernels: right ways pass, wrong ones, crashes and hangs are named, and doctor reports them."""

import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from harness.cli import cpu_check
from harness.cli.commands import doctor
from harness.cli.cpu_check import CASES, Answer, answers_of, largest_error

NARROW = CASES[0]
SMALL = replace(NARROW, channels=(4,), num_tries=2)


def test_as_the_harness_computes_every_case_is_right_here():
    answers = {(one.case.name, one.way): one.fault for one in cpu_check.check()}
    for case in CASES:
        assert answers[case.name, "harness"] == ""
        assert (case.name, "torch") in answers, (
            "torch's own way may be wrong here, but is looked at"
        )


class Wrong(TorchFunctionMode):
    """A convolution whose forward pass is right, and whose weights' gradient is not."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            images, weight = args
            args = images, weight * self.factor + (weight * (1 - self.factor)).detach()
        return func(*args, **(kwargs or {}))


def test_a_wrong_gradient_is_measured():
    """Without oneDNN, so that torch's own kernels are right on every CPU."""
    with torch.backends.mkldnn.flags(enabled=False):
        assert largest_error(SMALL, nullcontext) < 1e-5
        assert largest_error(SMALL, lambda: Wrong(1.5)) == pytest.approx(0.5, abs=1e-3)
        assert math.isnan(largest_error(SMALL, lambda: Wrong(math.nan)))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(1e-7); print(2e-7)", [("harness", ""), ("torch", "")]),
        (
            "print(1e-7); print(0.96)",
            [("harness", ""), ("torch", "an error of 0.96 of the largest value")],
        ),
        ("print(1e-7); print('NaN')", [("harness", ""), ("torch", "not a number")]),
        (
            "import os; print(1e-7, flush=True); os.kill(os.getpid(), 11)",
            [("harness", ""), ("torch", "crashed by SIGSEGV")],
        ),
        ("import os; os.kill(os.getpid(), 6)", [("harness", "crashed by SIGABRT")]),
        (
            "import no_such_thing",
            [("harness", "ModuleNotFoundError: No module named 'no_such_thing'")],
        ),
    ],
)
def test_what_the_process_leaves_is_read(code, expected):
    code = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); {code}"
    found = list(answers_of(NARROW, [sys.executable, "-c", code]))
    assert [(one.way, one.fault) for one in found] == expected


def test_a_process_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(cpu_check, "TIMEOUT_S", 3)
    code = "import time; print(1e-7, flush=True); time.sleep(60)"
    found = list(answers_of(NARROW, [sys.executable, "-c", code]))
    assert [(one.way, one.fault) for one in found] == [
        ("harness", ""),
        ("torch", "no result within 3 s"),
    ]


def test_doctor_names_the_defect_and_the_cure():
    fine = [Answer(case, way, "") for case in CASES for way in ("harness", "torch")]
    assert doctor._about_cpu_kernels(fine).good
    avoided = doctor._about_cpu_kernels([*fine, Answer(NARROW, "torch", "crashed by SIGSEGV")])
    assert avoided.good
    assert "1x1 convolutions of fewer than 16 channels (crashed by SIGSEGV)" in avoided.found
    assert "another way" in avoided.found
    bad = doctor._about_cpu_kernels([*fine, Answer(NARROW, "harness", "not a number")])
    assert not bad.good and "not a number" in bad.found
    assert "16 channels" in bad.cure and "float32" in bad.cure and "GPU" in bad.cure
