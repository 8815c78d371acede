"""The check of torch's CPU kernels finds wrong results, crashes and hangs for `harness doctor`."""

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch.overrides import TorchFunctionMode

from harness.cli import cpu_check
from harness.cli.commands import doctor
from harness.cli.cpu_check import CASES, CaseResult, largest_error, run_case
from harness.cli.main import cli

NARROW = CASES[0]
SMALL = replace(NARROW, channels=(4,), num_tries=2)


def test_doctor_runs_and_the_harness_computes_every_case_correctly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    results: list[CaseResult] = []
    check = cpu_check.check
    monkeypatch.setattr(cpu_check, "check", lambda: results.extend(check()) or results)
    for name in ("HARNESS_DATA", "HARNESS_RAW", "HARNESS_RUNS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    ended = CliRunner().invoke(cli, ["doctor", "--json"])
    # The exit code is 1 if this machine has a problem, such as a nearly full disk.
    assert ended.exit_code in (0, 1), ended.output
    findings = {finding["what"]: finding for finding in json.loads(ended.stdout)}
    assert {"gpu", "decoder", "$HARNESS_RUNS", "shared memory"} < findings.keys()
    for name in ("python", "packages", "torch pair", "ffcv", "cpu kernels", "self-test"):
        assert findings[name]["good"], findings[name]
    faults = {(result.case.name, result.implementation): result.fault for result in results}
    for case in CASES:
        assert faults[case.name, "harness"] == ""
        assert (case.name, "torch") in faults, (
            "torch's own kernel was not checked; it may be wrong on this machine"
        )


class Wrong(TorchFunctionMode):
    """Replace conv2d by one with a correct forward pass and a wrong gradient of the weight."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            images, weight = args
            args = images, weight * self.factor + (weight * (1 - self.factor)).detach()
        return func(*args, **(kwargs or {}))


def test_a_wrong_gradient_is_measured():
    """oneDNN is off, so that torch's own kernels are correct on every CPU."""
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
def test_output_and_exit_code_of_the_process_are_interpreted(code, expected):
    code = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); {code}"
    results = list(run_case(NARROW, [sys.executable, "-c", code]))
    assert [(result.implementation, result.fault) for result in results] == expected


def test_a_process_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr(cpu_check, "TIMEOUT_S", 3)
    code = "import time; print(1e-7, flush=True); time.sleep(60)"
    results = list(run_case(NARROW, [sys.executable, "-c", code]))
    assert [(result.implementation, result.fault) for result in results] == [
        ("harness", ""),
        ("torch", "no result within 3 s"),
    ]


def test_doctor_names_the_defect_and_the_fix():
    fine = [CaseResult(case, name, "") for case in CASES for name in ("harness", "torch")]
    assert doctor._cpu_kernels_finding(fine).good
    avoided = doctor._cpu_kernels_finding(
        [*fine, CaseResult(NARROW, "torch", "crashed by SIGSEGV")]
    )
    assert avoided.good
    assert "1x1 convolutions of fewer than 16 channels (crashed by SIGSEGV)" in avoided.found
    assert "another way" in avoided.found
    bad = doctor._cpu_kernels_finding([*fine, CaseResult(NARROW, "harness", "not a number")])
    assert not bad.good and "not a number" in bad.found
    assert "16 channels" in bad.fix and "float32" in bad.fix and "GPU" in bad.fix
