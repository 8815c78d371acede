"""Compare gradients of the convolutions that torch's CPU kernels are known to get wrong with float64.

    python -m harness.cli.cpu_check narrow

A wrong kernel may crash, so each case runs in a process of its own. The process prints one line of JSON for each way to
compute, as soon as it is done: first as the harness trains, then as torch does.
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

Way = Literal["harness", "torch"]
NUM_IMAGES = 13  # odd: a last batch; even ones hide the crash
NUM_THREADS = 2  # with one thread no error was seen
TIMEOUT_S = 120


@dataclass(frozen=True)
class Case:
    """Convolutions of stride 2, and the largest error, relative to the largest value, that rounding explains."""

    name: str
    words: str
    channels: tuple[int, ...]
    kernel: int
    side: int  # of the input, in pixels
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
class Answer:
    """What became of one way to compute a case; `fault` is empty if it is right."""

    case: Case
    way: Way
    fault: str


def check() -> Iterator[Answer]:
    """Run every case in a process of its own, both ways. After a crash the ways that are left have no answer."""
    for case in CASES:
        yield from answers_of(case, [sys.executable, "-m", "harness.cli.cpu_check", case.name])


def answers_of(case: Case, command: Sequence[str]) -> Iterator[Answer]:
    """Run the command, which computes the case, and read its lines and its end."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        lines, code = ended.stdout.splitlines(), ended.returncode
        complaint = (ended.stderr.strip().splitlines() or [""])[-1]
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        lines, code = (output.decode() if isinstance(output, bytes) else output).splitlines(), None
        complaint = ""
    ways: list[Way] = ["harness", "torch"]
    for line in lines:
        error = json.loads(line)
        is_right = error <= case.tolerance  # false for NaN
        size = (
            "not a number" if math.isnan(error) else f"an error of {error:.2g} of the largest value"
        )
        yield Answer(case, ways.pop(0), "" if is_right else size)
    if code is None:
        yield Answer(case, ways[0], f"no result within {TIMEOUT_S} s")
    elif code < 0:
        yield Answer(case, (ways or ["torch"])[0], f"crashed by {signal.Signals(-code).name}")
    elif code > 0:
        yield Answer(case, (ways or ["torch"])[0], complaint or f"exit code {code}")


def largest_error(case: Case, context: Callable[[], AbstractContextManager[object]]) -> float:
    """Return the largest error of outputs and gradients over all tries, relative to the largest true value.

    context: entered around each forward pass. NaN if a value is not a number.
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
            # Free memory full of NaN, which the next gradients may be given: values never written show.
            for size in (weight.numel(), images.numel()):
                torch.full((size,), torch.nan)
            with context():
                output = functional.conv2d(images, weight, stride=2, padding=case.kernel // 2)
            upstream = torch.randn(output.shape).to(memory_format=torch.channels_last)
            found = torch.autograd.grad(output, (images, weight), upstream.to(output.dtype))
            output = output.detach()
            exact = [tensor.detach().double().requires_grad_() for tensor in (images, weight)]
            true_output = functional.conv2d(exact[0], exact[1], stride=2, padding=case.kernel // 2)
            true = torch.autograd.grad(true_output, exact, upstream.double())
            for mine, other in zip((output, *found), (true_output.detach(), *true), strict=True):
                error = float(
                    (mine.detach().double() - other.detach()).abs().max() / other.abs().max()
                )
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
