"""Loader throughput in images/s: ours, stock FFCV, torchvision, DALI and others.

All contenders load the same JPEGs on the same cores.
"""

import ast
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.benches._rounds import time_limit_option
from harness.cli.number_types import DeviceType, IntType
from harness.cli.options import data_option, json_option
from harness.cli.path_types import PathType

if TYPE_CHECKING:
    from harness.cli.benches._record import Goal, Ratio
    from harness.cli.benches._rounds import Measured, RoundPlan

# Contenders FILE:VARIANT; VARIANTS in benchmarks/contenders/FILE.py describes the variants.
OURS = ("ours:dct", "ours:restart", "ours:jpeg", "ours:raw400")
OTHERS = ("ffcv:jpeg", "ffcv:raw400", "torchvision:io", "torchvision:pil", "dali:cpu")
ALL = (
    *OURS,
    *OTHERS,
    "ours:jpeg400",
    "ours:restart400",
    "ffcv:jpeg400",
    "dali:cpu_careful",
    "slipstream:jpeg",
    "webdataset:pil",
    "streaming:pil",
    "litdata:pil",
    "spdl:ffmpeg",
)
WORKLOADS: dict[str, dict[str, Any]] = {
    "rrc224": {},
    "rrc224_large": {"crop_scale": (0.25, 1.0)},
    "center224": {"augment": "center_crop"},
    "rrc160": {"resolution": 160},
    "rrc128": {"resolution": 128},
    "rrc224_1thread": {"num_threads": 1},
    "whole": {"crop_scale": (1.0, 1.0)},
}

# Click's names of options that have no effect with --scaling, and with --parts.
UNUSED_BY_SCALING = frozenset({"against", "threads", "plot_file", "time_limit_s", "parts"})
UNUSED_BY_PARTS = UNUSED_BY_SCALING - {"parts"} | {"ours", "num_rounds", "scaling"}


@click.command(short_help="Compare our loader with stock FFCV, torchvision, DALI and others.")
@click.option(
    "--corpus",
    type=PathType(exists=True, file=False),
    metavar="DIR",
    help="A folder of JPEG files. Default: photo tiles, made by benchmarks/photo_tiles.py.",
)
@click.option(
    "--subsampling",
    type=click.Choice(["4:4:4", "4:2:2", "4:2:0"]),
    help="Encode the images again with this chroma subsampling and quality 90. "
    "Default: the files as they are.",
)
@click.option(
    "--against",
    "against",
    metavar="NAMES",
    default=",".join(OTHERS),
    show_default=True,
    help="Loaders to compare with, separated by commas: NAME for all variants of a file in "
    "benchmarks/contenders, NAME:VARIANT for one, or all.",
)
@click.option(
    "--ours",
    "ours",
    metavar="NAMES",
    default=",".join(OURS),
    show_default=True,
    help="Our variants to measure.",
)
@click.option(
    "--workload",
    type=click.Choice(list(WORKLOADS)),
    default="rrc224",
    show_default=True,
    help="Augmentation, output size and number of threads. whole: crops have the area of the "
    "image, so images with a side ratio of 3:4 to 4:3 are not cropped; also measures the loader "
    "for detection, which returns whole images with boxes.",
)
@click.option(
    "--rounds",
    "num_rounds",
    type=IntType(min=1),
    default=5,
    show_default=True,
    help="Number of rounds.",
)
@click.option(
    "--images",
    "images_per_round",
    type=IntType(min=1),
    default=6144,
    show_default=True,
    help="Smallest number of images in a round; a round takes whole epochs.",
)
@click.option(
    "--batch-size",
    type=IntType(min=1),
    default=256,
    show_default=True,
    help="Images per batch.",
)
@click.option(
    "--threads",
    type=IntType(min=1),
    help="Number of threads, and of cores that each contender may use. Default: 2.",
)
@click.option(
    "--instructions",
    metavar="NAME",
    help="Instruction set of our C kernel, such as AVX2. Default: the fastest of this processor.",
)
@click.option(
    "--device",
    type=DeviceType(),
    default="cpu",
    show_default=True,
    metavar="cpu|cuda:0",
    help="Device that receives the batches.",
)
@click.option(
    "--scratch",
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Folder that keeps betons and shards of the corpus between runs. "
    "Default: bench_load in the data folder.",
)
@click.option(
    "--parts",
    is_flag=True,
    help="Measure the parts of our decoding instead: CPU time of each with every instruction "
    "set, and Python's time for a batch.",
)
@click.option(
    "--scaling",
    is_flag=True,
    help="Measure our variants with 1, 2, 4, ... threads, up to all cores, instead.",
)
@json_option
@time_limit_option
@click.option(
    "--plot",
    "plot_file",
    type=PathType(folder=False, written=True),
    metavar="FILE.png",
    help="Write a bar chart of the rates.",
)
@data_option
def command(
    corpus: Path | None,
    subsampling: str | None,
    against: str,
    ours: str,
    workload: str,
    num_rounds: int,
    images_per_round: int,
    batch_size: int,
    threads: int | None,
    instructions: str | None,
    device: str,
    scratch: Path | None,
    parts: bool,
    scaling: bool,
    json_file: Path | None,
    time_limit_s: float | None,
    plot_file: Path | None,
    data_dir: Path,
) -> None:
    """Load uint8 batches as fast as possible, every contender in turn, round after round.

    Each contender runs in its own process on the same cores, and is stopped while others run.

    \b
    Examples:
    harness bench load --against ffcv,torchvision --json load.json
    harness bench load --subsampling 4:4:4 --against ffcv,dali:cpu
    harness bench load --parts
    """
    from harness.cli.benches._checkout import ROOT
    from harness.cli.benches._contenders import measure_contenders
    from harness.cli.benches._corpus import link_corpus, make_photo_tiles, recode_corpus
    from harness.cli.benches._load_parts import measure_parts, measure_scaling
    from harness.cli.benches._load_tables import plot_rates, print_rates
    from harness.cli.benches._load_whole import measure_whole
    from harness.cli.benches._record import compute_ratios, make_record, save
    from harness.cli.benches._rounds import deadline_in
    from harness.cli.options import refuse_given
    from writers.errors import UserError

    if parts or scaling:
        unused = UNUSED_BY_PARTS if parts else UNUSED_BY_SCALING
        refuse_given(unused, f"with --{'parts' if parts else 'scaling'}", "Remove it.")
    if "num_threads" in WORKLOADS[workload]:
        refuse_given({"threads"}, f"with --workload {workload}", "Remove it.")
    deadline = deadline_in(time_limit_s)
    if not (ROOT / "benchmarks" / "contender.py").is_file():
        raise UserError(
            "This benchmark needs benchmarks/, which is part of the source and not of the package.",
            "Run it in a checkout.",
        )
    # Check names before the corpus is made, which takes minutes.
    names_of_ours, names_of_others = _parse_names(ours, OURS), _parse_names(against, ALL)
    if instructions is not None:
        instructions = _known_instructions(instructions)
    scratch = (scratch or data_dir / "bench_load").expanduser().resolve()
    photos = link_corpus(corpus.resolve() if corpus else make_photo_tiles(scratch), scratch)
    if subsampling is not None:
        photos = recode_corpus(photos, subsampling)
    converted = scratch / "converted" / photos.name
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "device": device,
        "images_per_round": images_per_round,
        "num_threads": threads or 2,
    } | WORKLOADS[workload]
    if instructions is not None:
        settings["instructions"] = instructions
    sizes = [path.stat().st_size for path in photos.glob("*/*")]
    about = settings | {
        "workload": workload,
        "num_images": len(sizes),
        "mean_jpeg_bytes": sum(sizes) / len(sizes),
    }

    work = settings | {"corpus": str(photos), "scratch": str(converted)}
    if parts or scaling:
        found = measure_parts(work) if parts else measure_scaling(names_of_ours, work, num_rounds)
        if json_file is not None:
            save(json_file, found)
        return

    def save_record(
        measured: "dict[str, Measured]", absent: dict[str, str], plan: "RoundPlan"
    ) -> dict[str, Any]:
        sized = {} if deadline is None else {"images_per_round": plan.num_steps * len(sizes)}
        record = make_record(
            "load",
            about | sized,
            measured,
            compute_ratios(measured, _comparisons()) + _first_batch_ratios(measured),
            device=device,
            absent=absent,
            rounds_planned=plan.num_rounds,
            bytes_on_disk=_bytes_on_disk(converted),
        )
        if json_file is not None:
            save(json_file, record)
        return record

    measured, absent, plan = measure_contenders(
        _opening_order(names_of_ours, names_of_others),
        work,
        num_rounds,
        deadline=deadline,
        on_round=save_record,
    )
    record = save_record(measured, absent, plan)
    if workload == "whole":
        record["whole_images"] = measure_whole(work)
        if json_file is not None:
            save(json_file, record)
    if plot_file is not None:
        plot_rates(measured, plot_file)
    print_rates(record)


def _opening_order(ours: Sequence[str], against: Sequence[str]) -> list[str]:
    """Alternate ours and the others, because a time limit may leave the last ones unopened."""
    pairs = zip_longest(ours, against)
    return [name for pair in pairs for name in pair if name is not None]


def _known_instructions(name: str) -> str:
    """Return the name of an instruction set.

    Raises:
        UserError: The C kernel has no such instruction set on this processor.
    """
    from loaders.kernel_c import instruction_sets
    from writers import names

    if name not in instruction_sets():
        raise names.unknown("instruction set", name, instruction_sets())
    return name


def _comparisons() -> "list[Goal]":
    from harness.cli.benches._record import Goal

    rivals = ("dali:cpu", "torchvision:io")
    pairs: list[tuple[str, tuple[str, ...], str]] = [
        ("ours:dct", ("ffcv:jpeg",), "ours, the coefficients / stock FFCV, the source's JPEGs"),
        (
            "ours:restart",
            ("ffcv:jpeg",),
            "ours, with a restart index / stock FFCV, the source's JPEGs",
        ),
        ("ours:raw400", ("ffcv:raw400",), "ours / stock FFCV, raw at 400 px"),
        ("ours:dct", ("ffcv:raw400",), "ours, the coefficients / stock FFCV, raw at 400 px"),
        ("ours:dct", rivals, "ours, the coefficients / best of DALI CPU and torchvision.io"),
        (
            "ours:restart",
            rivals,
            "ours, with a restart index / best of DALI CPU and torchvision.io",
        ),
        ("ours:restart", ("torchvision:pil",), "ours, with a restart index / torchvision, Pillow"),
        ("ours:restart", ("dali:gpu",), "ours, with a restart index / DALI on the GPU"),
        ("ours:resident", ("dali:gpu",), "ours, decoded once and kept / DALI on the GPU"),
        ("ours:resident", ("ours:restart",), "ours, decoded once and kept / decoded each time"),
    ]
    return [Goal(ours, against, title=title) for ours, against, title in pairs]


def _first_batch_ratios(measured: "dict[str, Measured]") -> "list[Ratio]":
    """Compare the time from opening a loader to its first batch; each process measures it once."""
    from harness.cli.benches._record import Ratio

    names = ("ours:dct", "ours:restart"), "ffcv:jpeg"
    theirs = measured.get(names[1])
    return [
        Ratio(
            f"first batch: stock FFCV / {measured[ours].what}",
            ours,
            (names[1],),
            (theirs.opened["first_batch_s"] / measured[ours].opened["first_batch_s"],),
            None,
            None,
        )
        for ours in names[0]
        if theirs is not None and ours in measured
    ]


def _parse_names(text: str, all_names: Sequence[str]) -> list[str]:
    """Expand names of contenders: `ffcv:jpeg`, all variants of `ffcv`, or `all`.

    Raises:
        UserError: A name is not a file of benchmarks/contenders, or not a variant of it.
    """
    from harness.cli.benches._checkout import ROOT
    from writers import names

    folder = ROOT / "benchmarks" / "contenders"
    files = sorted(path.stem for path in folder.glob("[a-z]*.py"))
    contenders: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        file, _, variant = name.partition(":")
        if name != "all" and file not in files:
            raise names.unknown("contender", file, files)
        if variant and variant not in (known_variants := _variants(folder / f"{file}.py")):
            raise names.unknown(f"variant of {file}", variant, known_variants)
        variants = [known for known in ALL if known.partition(":")[0] == file]
        contenders += all_names if name == "all" else [name] if variant else variants
    return list(dict.fromkeys(contenders))


def _variants(file: Path) -> list[str]:
    """Read the keys of VARIANTS without importing the file, which may need missing packages."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VARIANTS":
            return list(ast.literal_eval(node.value))
    return []


def _bytes_on_disk(converted: Path) -> dict[str, int]:
    """Return the total file size of each format that the corpus was converted to, in bytes."""
    if not converted.is_dir():
        return {}
    return {
        folder.name: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in sorted(converted.iterdir())
    }
