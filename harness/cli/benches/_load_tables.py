"""Tables and the chart of `harness bench load`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.cli.benches._rounds import Measured

MEASURES = ("images/s", "range", "first batch", "memory")


def print_rates(record: dict[str, Any]) -> None:
    """Print the record of `harness bench load` as two tables: rates, and ratios."""
    from rich.table import Table

    from harness.cli import console

    terminal = console.out()
    title = f"load, {record['work']['workload']}: images/s, median and range of the rounds"
    table = Table("", *MEASURES, box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for contender in sorted(record["contenders"].values(), key=lambda row: -row["median"]):
        memory = max(detail["memory_bytes"] for detail in contender["details"])
        table.add_row(
            contender["what"],
            f"{contender['median']:,.0f}",
            f"{min(contender['rates']):,.0f} to {max(contender['rates']):,.0f}"
            if len(contender["rates"]) > 1
            else "one round",
            _duration(contender["opened"]["first_batch_s"]),
            f"{memory / 2**20:,.0f} MiB",
        )
    terminal.print(table)
    for name, reason in record["absent"].items():
        terminal.print(f"absent: {name}: {reason}")
    if record["ratios"]:
        table = Table("ratio", "median", "range", box=None, padding=(0, 2, 0, 0))
        for ratio in record["ratios"]:
            rounds = "measured once"
            if len(ratio["rounds"]) > 1:
                rounds = f"{min(ratio['rounds']):.2f} to {max(ratio['rounds']):.2f}"
            table.add_row(ratio["title"], f"{ratio['median']:.2f}", rounds)
        terminal.print(table)


def _duration(seconds: float) -> str:
    """Format as `1.2 s`, or as milliseconds below a tenth of a second, which would read 0.0 s."""
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def plot_rates(measured: "dict[str, Measured]", file: Path) -> None:
    """Save a chart of images/s: a bar per contender for its median, and a dot per round."""
    from matplotlib.figure import Figure

    ordered = sorted(measured.items(), key=lambda item: item[1].median)
    figure = Figure(figsize=(9, 0.45 * len(ordered) + 1), layout="constrained")
    axes = figure.subplots()
    for row, (name, contender) in enumerate(ordered):
        color = "#2a6f97" if name.startswith("ours") else "#b0b7bf"
        axes.barh(row, contender.median, color=color)
        axes.plot(contender.rates, [row] * len(contender.rates), "o", color="black", markersize=2.5)
        axes.annotate(
            f"{contender.median:,.0f}",
            (max(contender.rates), row),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(ordered)), [contender.what for _, contender in ordered])
    axes.set_xlabel("images/s: medians, and each round as a dot")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
