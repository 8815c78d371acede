"""Fork warm workers from one process that has already imported what stages need.

Importing torch takes seconds of CPU time, and minutes on a cluster's file system. A fork takes
milliseconds and shares memory. The server (`python -m harness.worker --fork-server FD`) computes
nothing and never touches a GPU, because a fork of a process that has used CUDA cannot use CUDA. If
the server has used CUDA anyway, or has died, workers are started as new processes.

The server receives JSON messages over a socket and exits when the other end is closed.

The standard library's `multiprocessing.forkserver` is not used for three reasons. It imports
modules before its first fork, so slots wait for torch: in the demo, that adds 3 s of slot time
(docs/benchmarks.md). It needs the modules and the environment at its start, when the recipe is not
read yet. It reaps children at once, so the launcher could kill the process group of a reused pid.
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

MAX_MESSAGE_BYTES = 1 << 16
KILLED_S = 5.0  # wait for a killed process, which ends at once unless it waits for a device
REAP_S = 30.0  # wait for a reply; longer than imports, during which the server does not reply
NATIVE_CRASH = (
    "native code crashed; some CPU kernels of torch do that for networks narrower than 16 "
    "channels: run `harness doctor`, which checks them"
)
CAUSES = {
    signal.SIGKILL: "the system does that when memory runs out",
    signal.SIGSEGV: NATIVE_CRASH,
    signal.SIGABRT: NATIVE_CRASH,
}


def is_supported() -> bool:
    """Return True on systems with pidfds and sockets that preserve message boundaries (Linux)."""
    return (
        hasattr(os, "pidfd_open")
        and hasattr(socket, "SOCK_SEQPACKET")
        and hasattr(socket, "send_fds")
    )


class ForkServer:
    """Client of the server process. Methods raise ConnectionError if the server has died."""

    def __init__(self) -> None:
        """Start the server process."""
        self._link, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with server_end:
            # A new session: Ctrl-C reaches only the launcher, which lets the workers save.
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "harness.worker",
                    "--fork-server",
                    str(server_end.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[server_end.fileno()],
                start_new_session=True,
            )

    def prepare(self, modules: Iterable[str], environment: Mapping[str, str]) -> None:
        """Ask the server to import modules when it has no other request. Returns at once.

        Args:
            modules: names of modules.
            environment: variables that the modules' libraries read when they load.
        """
        self._link.send(_message(modules=list(modules), environment=dict(environment)))

    def fork(
        self, module: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> "ForkedWorker":
        """Fork a worker in a new process group.

        Args:
            module: module to import before the fork.
            command: `python -m harness.worker ...`; the worker acts as if this had started it.
            environment: variables that override those of the server.
        """
        with contextlib.ExitStack() as our_ends, contextlib.ExitStack() as worker_ends:
            pipes = []
            for our_side in (1, 0):  # the launcher writes to stdin and reads from stdout
                pipe = os.pipe()
                our_ends.callback(os.close, pipe[our_side])
                worker_ends.callback(os.close, pipe[1 - our_side])
                pipes.append(pipe)
            (worker_in, our_out), (our_in, worker_out) = pipes
            request = _message(module=module, command=list(command), environment=dict(environment))
            socket.send_fds(self._link, [request], [worker_in, worker_out])
            reply = self._reply_with("imported")
            pidfd = os.pidfd_open(reply["pid"])
            our_ends.pop_all()
        return ForkedWorker(
            self, reply["pid"], pidfd, frozenset(reply["imported"]), our_out, our_in
        )

    def reap(self, pid: int) -> int:
        """Wait for a worker to end and return its exit code, negative for a signal.

        An ended worker stays a zombie until this is called, so its pid is not reused.

        Raises:
            OSError: the server has ended, or does not respond within REAP_S.
        """
        self._link.settimeout(REAP_S)
        try:
            return self._reap(pid)
        finally:
            self._link.settimeout(None)

    def _reap(self, pid: int) -> int:
        self._link.send(_message(reap=pid))
        while (reply := self._reply_with("code"))["pid"] != pid:
            pass
        return int(reply["code"])

    def _reply_with(self, field: str) -> dict[str, Any]:
        """Receive replies until one has the field, and return it.

        Drops the other replies, which belong to requests that were interrupted.
        """
        while text := self._link.recv(MAX_MESSAGE_BYTES):
            reply: dict[str, Any] = json.loads(text)
            if field in reply:
                return reply
        raise ConnectionError("the fork server has ended")

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill the server."""
        self.close()

    def close(self) -> None:
        """Kill the server. Its workers continue."""
        self._link.close()
        self._process.kill()  # even during an import: nothing must be saved
        wait_for_killed(self._process)


class ForkedWorker:
    """A forked worker, with the part of `subprocess.Popen`'s interface that launchers use.

    Attributes:
        pid: also the id of its process group.
        imported: modules that were imported before the fork.
        returncode: exit code once `wait` has returned; None if the server died first.
    """

    def __init__(
        self,
        server: ForkServer,
        pid: int,
        pidfd: int,
        imported: frozenset[str],
        stdin: int,
        stdout: int,
    ) -> None:
        """Take ownership of the descriptors: this process writes `stdin` and reads `stdout`."""
        self._server, self.pid, self._pidfd, self.imported = server, pid, pidfd, imported
        self.stdin, self.stdout = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")
        self.is_reaped = False
        self.returncode: int | None = None

    def has_ended(self) -> bool:
        """Return True once the process has exited; does not reap it."""
        return self.is_reaped or _is_readable(self._pidfd, 0)

    def send_signal(self, number: int) -> None:
        """Send a signal; does nothing if the worker has ended."""
        if not self.is_reaped:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the worker to end and reap it.

        Args:
            timeout: seconds; None waits without limit.

        Returns:
            The exit code, negative for a signal. None if the server has died, because only the
            server can read the exit code.

        Raises:
            subprocess.TimeoutExpired: the worker still runs.
        """
        if self.is_reaped:
            return self.returncode
        if not _is_readable(self._pidfd, timeout):
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        self.is_reaped = True
        os.close(self._pidfd)
        with contextlib.suppress(OSError):
            self.returncode = self._server.reap(self.pid)
        return self.returncode


def wait_for_killed(
    process: "ForkedWorker | subprocess.Popen[bytes]", limit_s: float = KILLED_S
) -> int | None:
    """Wait for a process after SIGKILL, and reap it.

    Returns:
        Exit code of the process. None if it is unknown, or if the process still exists because it
        waits in the kernel for a disk, a file server or a GPU.
    """
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None


class SpawnedWorker(subprocess.Popen[bytes]):
    """A worker started as a new process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command, with variables added to those of this process."""
        # A new session: Ctrl-C reaches only the launcher, and killpg ends the whole group.
        super().__init__(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def has_ended(self) -> bool:
        """Return True once the process has exited; does not reap it.

        As a zombie the process keeps its pid, so no other process group can get this number.
        """
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def describe_exit(code: int | None) -> str:
    """Describe a worker's exit code, with the likely cause of a signal.

    Args:
        code: exit code as in `subprocess.Popen.returncode`; None if unknown.
    """
    if code is None:
        return "has ended"
    if code >= 0:
        return f"ended with exit code {code}"
    number = signal.Signals(-code)
    cause = CAUSES.get(number)
    return f"was killed by {number.name}" + (f" ({cause})" if cause else "")


def serve(link_fd: int) -> list[str]:
    """Process requests from the launcher. Runs in the server process.

    Args:
        link_fd: descriptor of the socket to the launcher.

    Returns:
        In each forked worker, the worker's arguments. In the server this function never returns.
    """
    from harness.system import environment

    # BLAS has threads, but stops them before a fork.
    warnings.filterwarnings(
        "ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning
    )
    gc.disable()  # imports create no garbage
    link = socket.socket(fileno=link_fd)
    pending: deque[Callable[[], Any]] = deque()
    imported: list[str] = []
    while True:
        if pending and not _is_readable(link.fileno(), 0):
            pending.popleft()()
            continue
        text, worker_fds, _, _ = socket.recv_fds(link, MAX_MESSAGE_BYTES, 2)
        if not text:
            os._exit(0)
        request = json.loads(text)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            link.send(_message(pid=request["reap"], code=os.waitstatus_to_exitcode(status)))
            continue
        os.environ.update(request["environment"])
        if "modules" in request:
            pending.extend(partial(_import, name, imported) for name in request["modules"])
            pending.append(environment.describe_process)  # cached, and inherited by the workers
            continue
        _import(request["module"], imported)
        gc.freeze()  # so that collections in the fork do not write to shared objects
        pid = os.fork()
        if pid == 0:
            gc.enable()
            link.close()
            _become_worker(*worker_fds)
            command: list[str] = request["command"]
            if os.environ.get("CUDA_VISIBLE_DEVICES") and not _can_use_cuda():
                os.execv(command[0], command)
            return command[command.index("harness.worker") + 1 :]
        with contextlib.suppress(OSError):  # the worker has called setpgid first, or has ended
            os.setpgid(pid, pid)
        for fd in worker_fds:
            os.close(fd)
        link.send(_message(pid=pid, imported=imported))


def _become_worker(stdin: int, stdout: int) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    for fd, number in ((stdin, 0), (stdout, 1)):
        os.dup2(fd, number)
        os.close(fd)


def _import(name: str, imported: list[str]) -> None:
    """Import a module. Ignores errors, because the stage that needs it raises and logs them."""
    if name not in imported:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
        imported.append(name)


def _can_use_cuda() -> bool:
    """Return False in a fork of a process that has used CUDA, in torch or another library."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda._is_in_bad_fork():
        return False
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except (OSError, AttributeError):  # no driver: the stage raises a clear error
        return True


def _is_readable(fd: int, timeout_s: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else 1000 * timeout_s))


def _message(**fields: Any) -> bytes:
    return json.dumps(fields).encode()
