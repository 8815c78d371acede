"""Messages between a launcher and a worker that runs many stages: JSON objects, one per line."""

import json
from pathlib import Path
from typing import Literal, TypedDict

from harness.runner.retry import FailureCause

# stopped: the stage was asked to stop and has a checkpoint. busy: another process runs the stage.
Status = Literal["done", "failed", "stopped", "busy"]
StageStatus = tuple[Status, FailureCause, str]  # status, cause and message


class Request(TypedDict):
    """Request to run a stage, on a worker's stdin.

    stage is the stage's folder. shares_gpu is True if other stages may run on the same GPU.
    """

    stage: str
    shares_gpu: bool


class Answer(TypedDict):
    """Outcome of a stage, on a worker's stdout.

    message is the most informative line of an error; error.txt has the whole message. cause and
    message are empty unless the stage failed.
    """

    stage: str
    status: Status
    cause: FailureCause
    message: str
    wall_s: float


def request_line(folder: Path, *, shares_gpu: bool) -> bytes:
    """Encode a request for a worker's stdin."""
    request: Request = {"stage": str(folder), "shares_gpu": shares_gpu}
    return f"{json.dumps(request)}\n".encode()
