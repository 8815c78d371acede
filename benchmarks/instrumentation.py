"""What the timer costs: training steps on one batch over and over, with it on and off by turns.

    python benchmarks/instrumentation.py [--device cuda] [--rounds N] [--json FILE]

Rounds take turns so that a slow spell of the machine hits both; on a CPU the process's own time is compared, which other
processes do not add to. Where that still scatters more than it says, the spans alone, around nothing, are the surer measure.
The bound is 1 %.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.config.train import ScheduleSettings
from harness.modeling import classifier as models
from harness.modeling.precision import choose
from harness.profiling.timer import Timer
from harness.system import environment
from harness.train.autotune import noise_batch
from harness.train.trainee import ModelTrainee

STEPS_PER_ROUND = 10


def measure(
    device: str,
    *,
    rounds: int = 20,
    arch: str = "resnet10",
    batch_size: int = 32,
    resolution: int = 48,
) -> dict[str, Any]:
    """Seconds of STEPS_PER_ROUND clean steps in each round; `overhead` is the median ratio less one, `spans_alone` the share
    of a step that its spans take around nothing."""
    torch.manual_seed(0)
    model = models.build(arch, 10).to(device)
    timer = Timer(device)
    trainee = ModelTrainee(
        model,
        ScheduleSettings(),
        0.01,
        device=device,
        precision=choose("auto", device),
        label_smoothing=0.0,
        timer=timer,
        train_mode=model.train,
    )
    batch = noise_batch(batch_size, resolution, 10, device)
    clock = time.perf_counter if device.startswith("cuda") else time.process_time

    def round_s(enabled: bool) -> float:
        timer.enabled = enabled
        started = clock()
        for _ in range(STEPS_PER_ROUND):
            with timer.span("data_wait"):
                pass
            trainee.train_batch(*batch)
            timer.end_step()
        timer.end_epoch()  # reading is part of the cost
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return clock() - started

    for enabled in (True, False):
        round_s(enabled)
    pairs = []
    for number in range(rounds):
        first, second = (
            round_s(enabled) for enabled in ((True, False) if number % 2 else (False, True))
        )
        pairs.append((first, second) if number % 2 else (second, first))
    ratios = sorted(on / off for on, off in pairs)
    quartiles = [ratios[len(ratios) // 4] - 1, ratios[-1 - len(ratios) // 4] - 1]
    step_s = statistics.median(off for _, off in pairs) / STEPS_PER_ROUND
    spans_s = _spans_alone_s(Timer(device), clock)
    return {
        "overhead": statistics.median(ratios) - 1,
        "overhead_quartiles": quartiles,
        "step_s": step_s,
        "spans_alone_s": spans_s,
        "spans_alone": spans_s / step_s,
        "on_s": [on for on, _ in pairs],
        "off_s": [off for _, off in pairs],
        "steps_per_round": STEPS_PER_ROUND,
        "arch": arch,
        "batch_size": batch_size,
        "resolution": resolution,
        "environment": environment.describe(device, torch.get_num_threads()),
    }


def _spans_alone_s(timer: Timer, clock: Callable[[], float], num_steps: int = 2000) -> float:
    """Seconds that the spans of a step take around nothing, with their share of reading them."""
    started = clock()
    for _ in range(num_steps):
        for name in ("data_wait", "forward", "backward", "optimizer"):
            with timer.span(name):
                pass
        timer.end_step()
    timer.end_epoch()
    return (clock() - started) / num_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.device, rounds=options.rounds)
    low, high = found["overhead_quartiles"]
    print(
        f"spans alone: {1e6 * found['spans_alone_s']:.0f} us, {100 * found['spans_alone']:.3f} % of a step of "
        f"{1000 * found['step_s']:.1f} ms"
    )
    print(
        f"on against off: {100 * found['overhead']:.2f} % (quartiles {100 * low:.2f} to {100 * high:.2f} %), "
        f"{found['arch']}, {found['batch_size']} images at {found['resolution']} pixels, {found['environment']['cpu']}"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
