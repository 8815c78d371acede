"""Compare convolutions and their gradients with float64, where torch's CPU kernels may be wrong.

    python -m harness.cli.cpu_check narrow

A wrong kernel may crash, so each case runs in its own process. The process runs the harness's
implementation, then torch's, and prints one line of JSON after each.
"""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

Implementation = Literal["harness", "torch"]
# An odd number, because even numbers hide the crash.
NUM_IMAGES = 13
# The errors were never seen with one thread.
NUM_THREADS = 2
TIMEOUT_S = 120


@dataclass(frozen=True)
class Case:
    """Convolutions of stride 2.

    Attributes:
        name: Name on the command line.
        description: Description for messages.
        channels: Numbers of channels to try.
        kernel: Side of the kernel.
        side: Side of the input in pixels.
        precision: Precision of the forward pass.
        tolerance: Largest error, relative to the largest value, that rounding explains.
        num_tries: Number of random inputs for each number of channels.
    """

    name: str
    description: str
    channels: tuple[int, ...]
    kernel: int
    side: int
    precision: Literal["float32", "bf16"]
    tolerance: float
    num_tries: int = 40


CASES = (
    Case(
        "narrow",
        "strided 1x1 convolutions of fewer than 16 channels",
        (3, 8),
        1,
        12,
        "float32",
        1e-4,
        num_tries=15,
    ),
    Case("pixel", "strided 3x3 convolutions of one pixel in bf16", (32,), 3, 1, "bf16", 0.05),
)


@dataclass(frozen=True)
class CaseResult:
    """Result of one implementation; `fault` is empty if its outputs and gradients are right."""

    case: Case
    implementation: Implementation
    fault: str


def check() -> Iterator[CaseResult]:
    """Run every case in its own process, with both implementations.

    If the first implementation crashes, the second has no result.
    """
    for case in CASES:
        yield from run_case(case, [sys.executable, "-m", "harness.cli.cpu_check", case.name])


def run_case(case: Case, command: Sequence[str]) -> Iterator[CaseResult]:
    """Run the command that computes the case; interpret its output and exit code."""
    code: int | None
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        lines, code = process.stdout.splitlines(), process.returncode
        last_error = (process.stderr.strip().splitlines() or [""])[-1]
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        lines, code = (output.decode() if isinstance(output, bytes) else output).splitlines(), None
        last_error = ""
    pending: list[Implementation] = ["harness", "torch"]
    for line in lines:
        error = json.loads(line)
        is_right = error <= case.tolerance  # False for NaN
        fault = (
            "not a number" if math.isnan(error) else f"an error of {error:.2g} of the largest value"
        )
        yield CaseResult(case, pending.pop(0), "" if is_right else fault)
    if code is None:
        yield CaseResult(case, pending[0], f"no result within {TIMEOUT_S} s")
    elif code < 0:
        fault = f"crashed by {signal.Signals(-code).name}"
        yield CaseResult(case, (pending or ["torch"])[0], fault)
    elif code > 0:
        yield CaseResult(case, (pending or ["torch"])[0], last_error or f"exit code {code}")


def largest_error(case: Case, context: Callable[[], AbstractContextManager[object]]) -> float:
    """Return the largest error of outputs and gradients, relative to the largest true value.

    Args:
        case: Convolutions to compute.
        context: Entered around each forward pass.

    Returns:
        The maximum over all tries; NaN if a value is not a number.
    """
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    worst = 0.0
    for channels in case.channels:
        weight = torch.randn(channels, channels, case.kernel, case.kernel)
        weight = weight.to(memory_format=torch.channels_last).requires_grad_()
        for _ in range(case.num_tries):
            images = torch.randn(NUM_IMAGES, channels, case.side, case.side)
            images = images.to(memory_format=torch.channels_last).requires_grad_()
            # Fill freed memory with NaN, to reveal gradient values that are never written.
            for size in (weight.numel(), images.numel()):
                torch.full((size,), torch.nan)
            with context():
                output = functional.conv2d(images, weight, stride=2, padding=case.kernel // 2)
            upstream = torch.randn(output.shape).to(memory_format=torch.channels_last)
            gradients = torch.autograd.grad(output, (images, weight), upstream.to(output.dtype))
            exact = [tensor.detach().double().requires_grad_() for tensor in (images, weight)]
            exact_output = functional.conv2d(exact[0], exact[1], stride=2, padding=case.kernel // 2)
            exact_gradients = torch.autograd.grad(exact_output, exact, upstream.double())
            for computed, expected in zip(
                (output.detach(), *gradients),
                (exact_output.detach(), *exact_gradients),
                strict=True,
            ):
                difference = (computed.detach().double() - expected.detach()).abs().max()
                error = float(difference / expected.abs().max())
                if math.isnan(error):
                    return error
                worst = max(worst, error)
    return worst


def _main(name: str) -> None:
    import torch

    from harness.modeling.precision import autocast

    case = next(case for case in CASES if case.name == name)
    torch.set_num_threads(NUM_THREADS)
    plain = (
        nullcontext
        if case.precision == "float32"
        else partial(torch.autocast, "cpu", torch.bfloat16)
    )
    for context in (partial(autocast, case.precision, "cpu"), plain):
        print(json.dumps(largest_error(case, context)), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
