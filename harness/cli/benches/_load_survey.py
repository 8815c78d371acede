"""The second part of `harness bench load`: what decides where the next speed is to be found, with no goal attached.

All workloads and 1 thread against 2, some against stock FFCV; a view against the whole; the first batch, cold and warm; memory;
bytes on disk; and where the time of an image goes, with the least that each part could take.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIDES = {"ours": "ours:restart", "stock": "ffcv:jpeg"}
STOCK_TOO = ("rrc224", "center224", "rrc224_1thread")  # each costs some 20 s of compiling
OPENED = {"ours": "ours, C kernel", "stock": "stock FFCV"}  # their first batches come with WRITTEN
WRITTEN = "center224"  # a workload that finds its betons written, by the one before it
FIRST_BATCHES = {  # in this order: warm is what finds the compiled code that cold has left
    "ours, numba kernel, cold": "ours:restart_numba",
    "ours, numba kernel, warm": "ours:restart_numba",
}
MOST_ROUNDS = 3
MOST_IMAGES = 3072


def measure(work: dict[str, Any], num_rounds: int) -> dict[str, Any]:
    """All of it, as it goes into the record. Raises UserError where a part fails."""
    from harness.cli.benches import load

    num_rounds, work = (
        min(num_rounds, MOST_ROUNDS),
        work | {"images_per_round": min(MOST_IMAGES, work["images_per_round"])},
    )
    keys = {
        f"{workload}, {side}": (name, work | changes)
        for workload, changes in load.WORKLOADS.items()
        for side, name in SIDES.items()
        if side == "ours" or workload in STOCK_TOO
    }
    measured = load.take_turns(keys, num_rounds)[0]
    workloads: dict[str, Any] = {}
    for workload in load.WORKLOADS:
        sides = {
            side: measured[key] for side in SIDES if (key := f"{workload}, {side}") in measured
        }
        workloads[workload] = {side: one.rates for side, one in sides.items()} | {
            "memory_bytes": {
                side: max(detail["memory_bytes"] for detail in one.details)
                for side, one in sides.items()
            },
            "ratio": _ratio(sides["ours"].rates, sides["stock"].rates)
            if "stock" in sides
            else None,
        }
    scaling = {
        side: _ratio(workloads["rrc224"][side], workloads["rrc224_1thread"][side]) for side in SIDES
    }
    first_batch = {
        title: _seconds(measured[f"{WRITTEN}, {side}"].opened) for side, title in OPENED.items()
    }
    return {
        "workloads": workloads,
        "threads_2_over_1": scaling,
        "first_batch": first_batch | _first_batches(work),
        "views": _subprocess("benchmarks.views", work, num_rounds),
        "time": _subprocess("benchmarks.time_split", work, num_rounds),
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    from statistics import median

    return median(one / other for one, other in zip(ours, theirs, strict=True))


def _first_batches(work: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Seconds of importing, and from the call that opens the loader to the first batch, in a process each."""
    from harness.cli.benches.load import started

    found = {}
    with tempfile.TemporaryDirectory() as compiled:
        for title, name in FIRST_BATCHES.items():
            with started(name, work, {"NUMBA_CACHE_DIR": compiled}) as contender:
                found[title] = _seconds(contender.answer())
    return found


def _seconds(opened: dict[str, Any]) -> dict[str, float]:
    return {key: opened[key] for key in ("import_s", "first_batch_s")}


def _subprocess(module: str, work: dict[str, Any], num_rounds: int) -> dict[str, Any]:
    from harness.cli.benches._common import ROOT, checkout_first
    from writers.errors import UserError

    ended = subprocess.run(
        [sys.executable, "-m", module, json.dumps(work), str(num_rounds)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=checkout_first(),
    )
    if ended.returncode:
        raise UserError(
            f"{module} has failed: " + " / ".join(ended.stderr.strip().splitlines()[-3:])
        )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def show(survey: dict[str, Any], bytes_on_disk: dict[str, int]) -> None:
    """Tables for a person."""
    from statistics import median

    from rich.table import Table

    from harness.cli import console

    terminal = console.out()
    table = Table(
        "workload", "ours", "stock FFCV", "ratio", "memory", "stock's", title="images/s, medians"
    )
    for name, one in survey["workloads"].items():
        memory = {
            side: f"{num_bytes / 2**20:,.0f} MiB" for side, num_bytes in one["memory_bytes"].items()
        }
        stock = (
            (f"{median(one['stock']):,.0f}", f"{one['ratio']:.2f}x") if "stock" in one else ("", "")
        )
        table.add_row(
            name, f"{median(one['ours']):,.0f}", *stock, memory["ours"], memory.get("stock", "")
        )
    terminal.print(table)
    scaling = survey["threads_2_over_1"]
    terminal.print(
        f"2 threads over 1: ours {scaling['ours']:.2f}x, stock FFCV {scaling['stock']:.2f}x"
    )

    table = Table("first batch", "imports", "from the call on", title="one process each")
    for name, one in survey["first_batch"].items():
        table.add_row(name, f"{one['import_s']:.1f} s", f"{one['first_batch_s']:.2f} s")
    terminal.print(table)

    views = survey["views"]
    table = Table(
        "from",
        "order",
        "whole",
        "a tenth",
        "ratio",
        "bytes read / wanted",
        title=f"images/s; a random tenth of {views['num_samples']:,} images, {views['bytes'] / 1e6:,.0f} MB",
    )
    for case in views["cases"]:
        whole, tenth = case["whole"], case["tenth"]
        table.add_row(
            case["from"],
            case["order"].replace("_", " "),
            f"{whole['img_per_s']:,.0f}",
            f"{tenth['img_per_s']:,.0f}",
            f"{case['ratio']:.2f}x",
            f"{whole['bytes_read_per_byte_wanted']:.2f}, {tenth['bytes_read_per_byte_wanted']:.2f}",
        )
    terminal.print(table)
    from_disk = [
        case[view]
        for case in views["cases"]
        if case["from"] == "disk"
        for view in ("whole", "tenth")
    ]
    left = max(one["in_memory_before"] for one in from_disk)
    terminal.print(
        f"Before rounds from the disk, {left:.1%} of the file was in memory; the disk's own cache is beyond reach."
    )

    spent = survey["time"]
    if "absent" in spent:
        terminal.print(f"where the time goes: absent: {spent['absent']}")
    else:
        table = Table(
            "part",
            "ms/image",
            "share",
            "at the least",
            "times that",
            title=f"where the time goes, one thread, {spent['codes_per_image']:,.0f} codes an image",
        )
        for part in spent["parts"]:
            times = part["ms"] / part["limit_ms"] if part["limit_ms"] else None
            table.add_row(
                part["part"],
                f"{part['ms']:.3f}",
                f"{part['ms'] / spent['ms_per_image']:.0%}",
                f"{part['limit_ms']:.3f}",
                f"{times:.1f}x" if times else "",
            )
        terminal.print(table)
        for part in spent["parts"]:
            terminal.print(f"At the least, {part['part']}: {part['limit']}.")

    table = Table("on disk", "MB")
    for name, size in bytes_on_disk.items():
        table.add_row(name, f"{size / 1e6:,.1f}")
    terminal.print(table)


def plot(survey: dict[str, Any], file: Path) -> None:
    """Workloads side by side, and where the time goes."""
    from statistics import median

    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 1))
    names = list(survey["workloads"])
    for shift, side, colour in ((-0.2, "stock", "#b0b7bf"), (0.2, "ours", "#2a6f97")):
        rates = {
            place + shift: survey["workloads"][name][side]
            for place, name in enumerate(names)
            if side in survey["workloads"][name]
        }
        above.bar(
            list(rates),
            [median(one) for one in rates.values()],
            0.4,
            color=colour,
            label="stock FFCV" if side == "stock" else side,
        )
        for place, one in rates.items():
            above.plot([place] * len(one), one, "o", color="black", markersize=2.5)
    above.set_xticks(range(len(names)), names)
    above.set_ylabel("images/s")
    above.legend(frameon=False)
    left = 0.0
    for part in survey["time"].get("parts", [])[:4]:  # memory is within the others
        bar = below.barh(0, max(0.0, part["ms"]), left=left, label=part["part"])
        below.barh(0, part["limit_ms"], left=left, height=0.3, color="black", alpha=0.5)
        left += bar[0].get_width()
    below.set_yticks([])
    below.set_xlabel("ms of CPU an image; dark: the least that each part could take")
    below.legend(frameon=False, ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.6))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
