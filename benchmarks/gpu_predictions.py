"""Predict rates of training on GPUs, and compare measurements with them in tables.

The predictions come from a roofline. Its ceiling follows from the costs of a training step and the
rates of the GPU. The costs are bytes and floating-point operations per image, in bf16 at 224 px.
The rates are 90 % of the memory bandwidth, and the rate of convolutions. Published runs reach 40 to
60 % of such ceilings. docs/benchmarks.md has the same figures.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.estimate.prediction import H100, USABLE_BANDWIDTH

# Part of the GPU's name in file names -> memory bandwidth in bytes per second.
BANDWIDTH = {"h100": H100.bytes_per_s, "h200": 4.3e12}
PEAK_FLOPS = 989e12  # nominal FLOP/s of dense bf16 on an H100 SXM or H200
CONVOLUTION_FLOPS = H100.convolution_flops  # FLOP/s of bf16 convolutions on an H100 or H200
REACHED = (0.4, 0.6)  # lower and upper end of a prediction, as fractions of the ceiling
RESOLUTION = 224
GB = 1e9


@dataclass(frozen=True)
class StepCost:
    """Cost of a training step per image in bf16 at 224 px.

    Attributes:
        gflop: Floating-point operations, in 10^9.
        eager_mb: Memory traffic if every operation reads and writes memory, in 10^6 bytes.
        fused_mb: Memory traffic with operations fused as by torch.compile.
    """

    gflop: float
    eager_mb: float
    fused_mb: float


# (architecture, True for adversarial training with 3 PGD steps) -> cost.
COSTS = {
    ("resnet18", False): StepCost(10.9, 100, 71),
    ("resnet18", True): StepCost(32.7, 361, 259),
    ("resnet50", False): StepCost(24.5, 471, 331),
    ("resnet50", True): StepCost(73.6, 1535, 1041),
}
# Compile modes in which operations are fused.
FUSED = ("compiled", "cuda_graphs", "compiled_captured_attack")


def predicted_rate(
    gpu: str, arch: str, is_attacked: bool, is_fused: bool, resolution: int = RESOLUTION
) -> tuple[float, float] | None:
    """Predict the images per second of a training step.

    Args:
        gpu: Name of the card in file names, such as h100-80gb-hbm3.
        arch: Architecture.
        is_attacked: True for adversarial training with 3 PGD steps.
        is_fused: True for a compiled model.
        resolution: Side of the images in pixels; cost grows with its square.

    Returns:
        Lower and upper end of the range; None for a card or an architecture without figures.
    """
    bandwidth = next((value for name, value in BANDWIDTH.items() if name in gpu), None)
    cost = COSTS.get((arch, is_attacked))
    if bandwidth is None or cost is None:
        return None
    num_bytes = 1e6 * (cost.fused_mb if is_fused else cost.eager_mb)
    ceiling = min(USABLE_BANDWIDTH * bandwidth / num_bytes, CONVOLUTION_FLOPS / (1e9 * cost.gflop))
    ceiling *= (RESOLUTION / resolution) ** 2
    return REACHED[0] * ceiling, REACHED[1] * ceiling


def comparison(records: Mapping[str, Mapping[str, Any]], gpu: str) -> str:
    """Format the measurements of all records as Markdown.

    Args:
        records: File name -> record of a benchmark.
        gpu: Name of the card in file names.

    Returns:
        A table of rates with predictions, memory, power, share of the peak and seconds of the first
        steps, and a table of ratios with their goals. Empty without measurements.
    """
    rates = [row for name, record in records.items() for row in _rate_rows(name, record, gpu)]
    ratios = [row for name, record in records.items() for row in _ratio_rows(name, record, gpu)]
    tables = []
    if rates:
        head = (
            "step",
            "contender",
            "median/s",
            "spread",
            "predicted/s",
            "GB",
            "W",
            "of peak",
            "first s",
        )
        tables.append("\n".join(["", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rates]))
    if ratios:
        tables.append(
            "\n".join(["", "| step | ratio | median | goal | |", "|---" * 5 + "|", *ratios])
        )
    return "\n".join(tables)


def _rate_rows(file: str, record: Mapping[str, Any], gpu: str) -> Iterator[str]:
    work = record.get("work", {})
    for name, row in record.get("contenders", {}).items():
        predicted = None
        if record.get("benchmark") == "train" and not name.startswith("augment:"):
            mode = _mode_of(name, record)
            predicted = predicted_rate(
                gpu, work["arch"], work["eps"] > 0, mode in FUSED, work["resolution"]
            )
        elif record.get("benchmark") == "attack":
            predicted = predicted_rate(gpu, work["arch"], "pgd3" in name, False, work["resolution"])
        cells = (
            _step(file, gpu),
            name,
            f"{row['median']:,.0f}" if row["median"] >= 100 else f"{row['median']:.3g}",
            f"{100 * row['spread']:.0f} %",
            "" if predicted is None else "{:,.0f} to {:,.0f}".format(*predicted),
            *_of_the_card(row, record, gpu),
        )
        yield f"| {' | '.join(cells)} |"


def _mode_of(name: str, record: Mapping[str, Any]) -> str:
    """Return the compile mode of a training loop under test; `ours:fed` has it in `what`."""
    if name.startswith("ours:fed"):
        described: str = record["contenders"][name]["what"]
        return described.split(", ")[1]
    return name.partition(":")[2]


def _of_the_card(
    row: Mapping[str, Any], record: Mapping[str, Any], gpu: str
) -> tuple[str, str, str, str]:
    """Return memory in GB, power in W, share of the peak FLOP/s, and seconds of the first steps."""
    rounds = row.get("details", [])
    peaks = [r["allocated_peak_bytes"] for r in rounds if r.get("allocated_peak_bytes")]
    powers = [r["power_w"] for r in rounds if r.get("power_w")]
    first = row.get("opened", {}).get("warm_up_s")
    peak = PEAK_FLOPS if any(name in gpu for name in BANDWIDTH) else None
    flops = record.get("flops_per_image")
    return (
        f"{max(peaks) / GB:.1f}" if peaks else "",
        f"{sum(powers) / len(powers):.0f}" if powers else "",
        f"{100 * row['median'] * flops / peak:.0f} %" if peak and flops else "",
        "" if first is None else f"{first:.1f}",
    )


def _ratio_rows(file: str, record: Mapping[str, Any], gpu: str) -> Iterator[str]:
    for ratio in record.get("ratios", []):
        goal = "" if ratio["must"] is None else f"{ratio['must']:.2f}x"
        yield (
            f"| {_step(file, gpu)} | {ratio['title']} | {ratio['median']:.2f}x | {goal} "
            f"| {ratio['verdict']} |"
        )


def _step(file: str, gpu: str) -> str:
    return file.partition(f"_{gpu}_")[0]
