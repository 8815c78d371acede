"""Forks warm workers: one process imports what stages need, and every worker begins as a copy of it.

Importing torch takes seconds of a core, and on a cluster's file system minutes; a copy takes milliseconds, and shares memory.
The server (`python -m harness.worker --fork-server FD`) computes nothing and touches no GPU: CUDA cannot be used in a copy of a
process that has begun to use it. Where that has happened all the same, or the server is gone, workers are started afresh.

It is told by JSON messages over a socket, and ends when its other end is closed.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

MOST_BYTES = 1 << 16  # of a message
NATIVE_CRASH = (
    "native code crashed; some CPU kernels of torch do that for networks narrower than 16 channels: "
    "run `harness doctor`, which checks them"
)
CAUSES = {
    signal.SIGKILL: "the system does that when memory runs out",
    signal.SIGSEGV: NATIVE_CRASH,
    signal.SIGABRT: NATIVE_CRASH,
}


def is_possible() -> bool:
    """Linux tells when somebody else's child ends, and keeps the borders of messages between processes."""
    return (
        hasattr(os, "pidfd_open")
        and hasattr(socket, "SOCK_SEQPACKET")
        and hasattr(socket, "send_fds")
    )


class ForkServer:
    """The launcher's end. Every method raises ConnectionError where the server is gone."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # A session of its own: the terminal's Ctrl-C goes to the launcher alone, which asks the workers to save.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "harness.worker",
                    "--fork-server",
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def prepare(self, modules: Iterable[str], environment: Mapping[str, str]) -> None:
        """Let it import these while nothing else is asked of it. The environment is that of whatever they load."""
        self._link.send(_message(modules=list(modules), environment=dict(environment)))

    def fork(self, module: str, command: Sequence[str], environment: Mapping[str, str]) -> "Forked":
        """A worker that has imported `module`, and is otherwise what `command` (python -m harness.worker ...) would start; in a
        process group of its own."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            ends = []
            for own in (1, 0):  # of its stdin we write, of its stdout we read
                pipe = os.pipe()
                ours.callback(os.close, pipe[own])
                theirs.callback(os.close, pipe[1 - own])
                ends.append(pipe)
            (its_in, our_out), (our_in, its_out) = ends
            order = _message(module=module, command=list(command), environment=dict(environment))
            socket.send_fds(self._link, [order], [its_in, its_out])
            told = self._answer("imported")
            handle = os.pidfd_open(told["pid"])
            ours.pop_all()
        return Forked(self, told["pid"], handle, frozenset(told["imported"]), our_out, our_in)

    def reap(self, pid: int) -> int:
        """The exit code, as subprocess has it, of a worker that has ended or is about to. Until then its number is its own."""
        self._link.send(_message(reap=pid))
        while (told := self._answer("code"))["pid"] != pid:
            pass
        return int(told["code"])

    def _answer(self, holding: str) -> dict[str, Any]:
        """The next answer of that kind; one that an interruption has left behind is passed over."""
        while text := self._link.recv(MOST_BYTES):
            answer: dict[str, Any] = json.loads(text)
            if holding in answer:
                return answer
        raise ConnectionError("the fork server has ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._link.close()
        self._process.kill()  # at once, also out of an import: it has nothing to save
        self._process.wait()


class Forked:
    """A worker: what a launcher uses of `subprocess.Popen`."""

    def __init__(
        self,
        server: ForkServer,
        pid: int,
        handle: int,
        imported: frozenset[str],
        to_it: int,
        from_it: int,
    ) -> None:
        self._server, self.pid, self._handle, self.imported = server, pid, handle, imported
        self.stdin, self.stdout = os.fdopen(to_it, "wb"), os.fdopen(from_it, "rb")
        self.is_reaped = False
        self.returncode: int | None = None

    def has_ended(self) -> bool:
        return self.is_reaped or _is_readable(self._handle, 0)

    def send_signal(self, number: int) -> None:
        if not self.is_reaped:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code; None where the server has died, which alone would know. Raises TimeoutExpired."""
        if self.is_reaped:
            return self.returncode
        if not _is_readable(self._handle, timeout):
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        self.is_reaped = True
        os.close(self._handle)
        with contextlib.suppress(OSError):
            self.returncode = self._server.reap(self.pid)
        return self.returncode


class Fresh(subprocess.Popen[bytes]):
    """A worker that was started afresh."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """environment: beside that of this process."""
        # A session of its own: the terminal's Ctrl-C goes to us alone, and the whole group can be killed at once.
        super().__init__(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def has_ended(self) -> bool:
        """Looked at but not collected: while it is a zombie, no other process can have its group's number."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def how_it_ended(code: int | None) -> str:
    """Describe a worker's end: the exit code or the signal, with the likely cause of a signal. code: as subprocess has it."""
    if code is None:
        return "has ended"
    if code >= 0:
        return f"ended with exit code {code}"
    killed_by = signal.Signals(-code)
    cause = CAUSES.get(killed_by)
    return f"was killed by {killed_by.name}" + (f" ({cause})" if cause else "")


def serve(handle: int) -> list[str]:
    """Answer the launcher. Returns in every worker that it forks, with the arguments for it, and never in the server."""
    from harness.system import environment

    # BLAS keeps threads, and stops them before a fork.
    warnings.filterwarnings(
        "ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning
    )
    gc.disable()  # imports make no garbage
    link = socket.socket(fileno=handle)
    to_do: deque[Callable[[], Any]] = deque()
    imported: list[str] = []
    while True:
        if to_do and not _is_readable(link.fileno(), 0):
            to_do.popleft()()
            continue
        text, handles, _, _ = socket.recv_fds(link, MOST_BYTES, 2)
        if not text:
            os._exit(0)
        order = json.loads(text)
        if "reap" in order:
            _, status = os.waitpid(order["reap"], 0)
            link.send(_message(pid=order["reap"], code=os.waitstatus_to_exitcode(status)))
            continue
        os.environ.update(order["environment"])
        if "modules" in order:
            to_do.extend(partial(_import, name, imported) for name in order["modules"])
            to_do.append(environment.describe_process)  # what is asked once a process
            continue
        _import(order["module"], imported)
        gc.freeze()  # a copy's collections leave alone what it shares
        pid = os.fork()
        if pid == 0:
            gc.enable()
            link.close()
            _become_worker(*handles)
            command: list[str] = order["command"]
            if os.environ.get("CUDA_VISIBLE_DEVICES") and not _can_use_cuda():
                os.execv(command[0], command)
            return command[command.index("harness.worker") + 1 :]
        with contextlib.suppress(OSError):  # it may have done so itself, or have ended
            os.setpgid(pid, pid)
        for inherited in handles:
            os.close(inherited)
        link.send(_message(pid=pid, imported=imported))


def _become_worker(stdin: int, stdout: int) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    for handle, number in ((stdin, 0), (stdout, 1)):
        os.dup2(handle, number)
        os.close(handle)


def _import(name: str, imported: list[str]) -> None:
    """One that cannot be imported is left to the stage that needs it, which says so where a person looks."""
    if name not in imported:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
        imported.append(name)


def _can_use_cuda() -> bool:
    """Not in a copy of a process in which something has begun to use it, be it torch or not."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda._is_in_bad_fork():
        return False
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except (OSError, AttributeError):  # no driver: the stage says so
        return True


def _is_readable(handle: int, timeout_s: float | None) -> bool:
    waiting = select.poll()
    waiting.register(handle, select.POLLIN)
    return bool(waiting.poll(None if timeout_s is None else 1000 * timeout_s))


def _message(**told: Any) -> bytes:
    return json.dumps(told).encode()
