"""The command line of a worker: all that it is told beside the stage's folder."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from harness.system import distributed, environment


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process, with what is wrong, where the options do not go together."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.worker", description="Run one stage, or serve many."
    )
    parser.add_argument(
        "stage", nargs="?", type=_absolute, help="the stage's folder, with its stage.json"
    )
    parser.add_argument("--serve", action="store_true", help="orders come on stdin, a line each")
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
        help="train each pretraining in N processes of this machine, one a GPU",
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
        help="a failure that is later, by the file system's clock, is another run's: it is not tried again",
    )
    parser.add_argument(
        "--shares-gpu",
        action="store_true",
        help="other stages run on its GPU: how busy that is says nothing of it",
    )
    parser.add_argument(
        "--answers",
        type=_absolute,
        metavar="DIR",
        help="leave there how each process ended: whoever started them tries again what is worth it",
    )
    parser.add_argument(
        "--stages-package",
        default="harness.stages",
        help="the package whose modules run the stages",
    )
    parser.add_argument(
        "--fork-server",
        type=int,
        metavar="FD",
        help="fork workers for the launcher at the other end",
    )
    options = parser.parse_args(arguments)
    if options.fork_server is not None:
        return options
    if (options.stage is None) != options.serve:
        parser.error("name one stage folder, or say --serve")
    if distributed.from_environment().world_size > 1 and (options.serve or options.processes > 1):
        parser.error(
            "under torchrun there is one stage folder to name, and no --serve and no --processes"
        )
    return options


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()
