"""Parse the command line of a worker."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from harness.system import distributed, environment


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a worker's arguments; exits with a message if they contradict each other."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.worker", description="Run one stage, or serve many."
    )
    parser.add_argument(
        "stage", nargs="?", type=_absolute, help="the stage's folder, with its stage.json"
    )
    parser.add_argument(
        "--serve", action="store_true", help="read requests from stdin, one JSON object per line"
    )
    parser.add_argument(
        "--data-dir", type=_absolute, default=os.environ.get("HARNESS_DATA", "data")
    )
    parser.add_argument("--raw-dir", type=_absolute, default=os.environ.get("HARNESS_RAW", "raw"))
    parser.add_argument(
        "--threads",
        type=int,
        default=max(1, environment.num_cores() // distributed.from_environment().local_world_size),
        help="CPU threads a stage may use, in each process",
    )
    parser.add_argument("--cores", metavar="0,1,2", help="the only cores to run on")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="train each pretraining in N processes of this machine, one per GPU",
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=os.environ.get("HARNESS_CHECKPOINT_MINUTES", "5"),
        help="wall-clock time between two checkpoints of a training stage",
    )
    parser.add_argument(
        "--trace",
        type=int,
        default=os.environ.get("HARNESS_TRACE", "0"),
        metavar="N",
        help="trace N steps of each pretraining into its folder, for ui.perfetto.dev",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument(
        "--began-at",
        type=float,
        metavar="SECONDS",
        help="start of the run, by the file system's clock; a stage that has failed since then, in "
        "another run, is not retried",
    )
    parser.add_argument(
        "--shares-gpu",
        action="store_true",
        help="other stages run on the same GPU, so its utilization is not recorded",
    )
    parser.add_argument(
        "--answers",
        type=_absolute,
        metavar="DIR",
        help="folder for a file per process with its status; the caller decides about retries",
    )
    parser.add_argument(
        "--stages-package",
        default="harness.stages",
        help="package with the code of the stages",
    )
    parser.add_argument(
        "--fork-server",
        type=int,
        metavar="FD",
        help="fork workers for the launcher at the other end of this socket",
    )
    options = parser.parse_args(arguments)
    if options.fork_server is not None:
        return options
    if (options.stage is None) != options.serve:
        parser.error("give either a stage folder or --serve")
    if distributed.from_environment().world_size > 1 and (options.serve or options.processes > 1):
        parser.error("under torchrun give one stage folder, without --serve and --processes")
    return options


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()
