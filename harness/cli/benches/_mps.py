"""NVIDIA's multi-process service (MPS), which runs kernels of several processes at once."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from writers.errors import UserError

CONTROL = "nvidia-cuda-mps-control"
START_S = 20.0  # longest time to start or stop the service, in seconds


@contextmanager
def mps_daemon(folder: Path) -> Iterator[dict[str, str]]:
    """Run the service with its files in `folder`; yield the environment of its clients.

    Raises:
        UserError: The driver's program for the service is missing or does not start.
    """
    if shutil.which(CONTROL) is None:
        raise UserError(f"There is no {CONTROL}.", "It is part of NVIDIA's driver.")
    folder.mkdir(parents=True, exist_ok=True)
    places = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    environment = os.environ | places
    try:
        subprocess.run(
            [CONTROL, "-d"],
            env=environment,
            check=True,
            timeout=START_S,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{CONTROL} does not start: {error}", "It needs a GPU.") from error
    try:
        yield places
    finally:
        with suppress(subprocess.TimeoutExpired):  # the service waits for its last client
            subprocess.run(
                [CONTROL],
                input="quit\n",
                text=True,
                env=environment,
                timeout=START_S,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )


@contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block, for processes that start there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
