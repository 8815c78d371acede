"""Stop a worker on a signal, or when the process that started it has ended."""

import os
import signal
import time
from types import FrameType

STOPPED = 75  # exit code EX_TEMPFAIL: try again later
ORPHAN_GRACE_S = 20.0  # time to write a checkpoint after the parent process died
POLL_S = 0.2


class StopSignal:
    """Handler of SIGTERM, SIGINT and SIGUSR2.

    If a stage is running, a signal sets `requested`, and the stage stops when it checks this
    attribute next. Otherwise the signal ends the process with exit code STOPPED. Slurm sends
    SIGUSR2 before a job's time limit or preemption, as the slurm launcher requests.
    """

    def __init__(self) -> None:
        """Install the handlers."""
        self.requested = False
        self.running = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._received)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self.running:
            raise SystemExit(STOPPED)


def end_with_parent(stop: StopSignal) -> None:
    """Stop this process when its parent dies. Blocks until then, so run it in a thread.

    torchrun starts its processes in separate sessions. If torchrun is killed, these processes must
    end like other orphaned workers.
    """
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(POLL_S)
    stop.requested = True
    time.sleep(ORPHAN_GRACE_S)
    os._exit(STOPPED)
