"""When a worker is to stop: a signal asks for it, or whoever started it is gone."""

import os
import signal
import time
from types import FrameType

STOPPED = 75  # the exit code: EX_TEMPFAIL, to be tried again
ORPHAN_GRACE_S = 20.0  # for a stage to write its checkpoint when whoever started it is gone
LOOK_AGAIN_S = 0.2


class StopSignal:
    """SIGTERM, SIGINT and SIGUSR2 ask the running stage to stop at a safe point; with none running they end the process."""

    def __init__(self) -> None:
        self.requested = False
        self.running = False
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGUSR2,
        ):  # USR2: what Slurm is asked to warn with
            signal.signal(number, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self.running:
            raise SystemExit(STOPPED)


def end_with_parent(stop: StopSignal) -> None:
    """torchrun starts its processes in sessions of their own: where it is killed, they are to end like orphans of ours."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(LOOK_AGAIN_S)
    stop.requested = True
    time.sleep(ORPHAN_GRACE_S)
    os._exit(STOPPED)
