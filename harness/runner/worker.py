"""Run stages: `python -m harness.worker STAGE_DIR` runs one, `--serve` runs many in turn.

`stage.json` in the stage's folder describes the work; output goes to `log.txt`; `result.json` or
`error.txt` is written last. Exit code 0: done; 1: failed; 75: stopped, or held by another worker,
to be tried again. With `--serve`, each line on stdin is a request and each answer is a line on
stdout (`harness.runner.protocol`). Then a failure that may be retried (out of memory) leaves no
`error.txt`: the launcher writes it once it gives up.

`torchrun --nproc-per-node N -m harness.worker STAGE_DIR` runs one stage in N processes, and so
does `--processes N`, for kinds that support it (`StageKind.multi_process`). Rank 0 owns the
folder. If several ranks fail, the first one to fail reports the cause.
"""

import argparse
import gc
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from harness.matrix import stage_kind
from harness.matrix.stage_kind import StageKind
from harness.runner import (
    fork_server,
    provenance,
    result,
    retry,
    stage_state,
    torchrun,
    worker_args,
)
from harness.runner.context import (
    OutOfMemoryError,
    RestartRequiredError,
    StageContext,
    Stopped,
    load_spec,
)
from harness.runner.protocol import Answer, Request, StageStatus, Status
from harness.runner.result import Result
from harness.runner.retry import FailureCause
from harness.runner.signals import ORPHAN_GRACE_S, STOPPED, StopSignal, end_with_parent
from harness.system import distributed, environment, os_errors
from harness.system.atomic_write import write_atomically, write_json
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from harness.system.gpu import select_gpu
from harness.system.out_of_memory import is_out_of_memory
from writers import lease
from writers.errors import UserError

if TYPE_CHECKING:
    from harness.profiling.gpu_monitor import GpuMonitor

EXIT_CODES: dict[Status, int] = {"done": 0, "failed": 1, "stopped": STOPPED, "busy": STOPPED}


def main() -> NoReturn:
    """Run the worker's command line; always exits."""
    options = worker_args.parse(sys.argv[1:])
    if options.fork_server is not None:  # returns in each forked worker
        options = worker_args.parse(fork_server.serve(options.fork_server))
    if options.cores:  # before any library counts the cores
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
    stop = StopSignal()
    if options.serve:
        _serve(options, stop)
        sys.stderr.flush()
        # Skip the interpreter's shutdown: with torch it takes 0.5 s, and everything is on disk.
        os._exit(STOPPED)
    group = distributed.from_environment()
    if group.world_size > 1:
        threading.Thread(target=end_with_parent, args=(stop,), daemon=True).start()
    store = None if options.answers is None else options.answers / "store"
    with distributed.init_process_group(group, options.device, store=store):
        answer = run_stage(options.stage, options, stop, group)
        if options.answers is not None:
            write_json(options.answers / f"{group.rank}.json", answer)
        elif answer["status"] == "failed":
            retry.give_up(options.stage, answer["message"])
        if group.is_main or answer["status"] == "failed":
            print(
                *filter(None, (answer["status"], str(options.stage), answer["message"])),
                sep=": ",
                file=sys.stderr,
            )
        if answer["status"] == "failed" and group.world_size > 1:
            sys.stderr.flush()
            # Leaving the process group in order would wait for the other ranks.
            os._exit(EXIT_CODES["failed"])
    raise SystemExit(EXIT_CODES[answer["status"]])


def run_stage(
    folder: Path,
    options: argparse.Namespace,
    stop: StopSignal,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Answer:
    """Run the stage in `folder`. A failure of the stage is returned, not raised.

    Args:
        folder: folder of the stage, with its stage.json.
        options: arguments of the worker (`harness.runner.worker_args`).
        stop: set when the stage should save and stop.
        group: processes that run the stage together.
    """
    started = time.monotonic()
    status: Status = "done"
    cause: FailureCause = ""
    message = ""
    try:
        if options.processes > 1 and _kind_of(folder, options).multi_process:
            status, cause, message = torchrun.run(folder, options, stop)
        else:
            holding: AbstractContextManager[lease.Lease | None] = (
                lease.hold(folder) if group.is_main else nullcontext()
            )
            with holding as held:
                start = group.broadcast(_may_start(folder, held, options))
                if start == "ready":
                    log = "log.txt" if group.is_main else f"log.rank{group.rank}.txt"
                    with _output_to(folder / log):
                        status, cause, message = _attempt(folder, options, stop, held, group)
                else:
                    status = start
    except OSError as error:  # the folder itself cannot be written
        status = "failed"
        cause, message = _explain_os_error(error)
    return {
        "stage": str(folder),
        "status": status,
        "cause": cause,
        "message": message,
        "wall_s": time.monotonic() - started,
    }


def _kind_of(folder: Path, options: argparse.Namespace) -> StageKind:
    """Return the declaration of the kind of the stage in `folder`."""
    return stage_kind.find(folder.parent.name, options.stages_package)


def _may_start(
    folder: Path, held: lease.Lease | None, options: argparse.Namespace
) -> Literal["ready", "busy", "done"]:
    """Check whether the stage is still to be run. Only rank 0's answer counts."""
    if held is None:
        return "busy"
    if stage_state.is_done(_kind_of(folder, options), folder, options.data_dir):
        return "done"  # by another run, a moment ago
    if stage_state.failed_since(folder, options.began_at) is not None:
        return "busy"  # failed in another run, a moment ago; the executor reads its error
    (folder / stage_state.ERROR_FILE).unlink(missing_ok=True)
    return "ready"


def _attempt(
    folder: Path,
    options: argparse.Namespace,
    stop: StopSignal,
    held: lease.Lease | None,
    group: ProcessGroup,
) -> StageStatus:
    """Compute the stage and write its result or error.

    Args:
        folder: folder of the stage.
        options: arguments of the worker.
        stop: set when the stage should save and stop.
        held: lease of the folder; None on ranks other than 0.
        group: processes that run the stage together.
    """

    def is_lost() -> bool:
        return held is not None and held.is_lost()

    stop.running = True
    try:
        record = _compute(folder, options, lambda: stop.requested or is_lost(), group)
        if is_lost():
            return "busy", "", ""
        if record is not None:
            result.save(record, folder)
        return "done", "", ""
    except Stopped:
        return "busy" if is_lost() else "stopped", "", ""
    except OutOfMemoryError as error:
        print(error, file=sys.stderr)
        return "failed", "out_of_memory", f"{error.message} {error.hint}"
    except UserError as error:
        if (restart := _required_restart(error)) is not None:
            return "failed", "restart", f"{restart.message} {restart.hint}"
        return "failed", "mistake", _record_error(folder, str(error))
    except Exception as error:
        if (restart := _required_restart(error)) is not None:
            traceback.print_exc()
            return "failed", "restart", f"{restart.message} {restart.hint}"
        if group.world_size > 1 and distributed.is_peer_failure(error):
            traceback.print_exc()
            return (
                "failed",
                "lost",
                f"Process {group.rank} of {group.world_size} lost another one, which ended or "
                f"does not respond; each process's output is in {folder / 'log.*'}",
            )
        if is_out_of_memory(error):
            traceback.print_exc()
            lines = traceback.format_exc().strip().splitlines()
            return "failed", "out_of_memory", stage_state.summary(lines)
        cause: FailureCause = "bug"
        text = traceback.format_exc()
        if isinstance(error, OSError):
            cause, text = _explain_os_error(error)
        return "failed", cause, _record_error(folder, text)
    finally:
        stop.running = False


def _explain_os_error(error: OSError) -> tuple[FailureCause, str]:
    if is_out_of_memory(error):
        return "out_of_memory", str(error)
    explained = os_errors.explain(error)
    if explained is not None:
        return "mistake", str(explained)
    return "bug", "".join(traceback.format_exception(error))


def _compute(
    folder: Path,
    options: argparse.Namespace,
    stop_requested: Callable[[], bool],
    group: ProcessGroup,
) -> Result | None:
    """Run the stage's code. Returns None on ranks other than 0, which write nothing."""
    spec = load_spec(folder, options.stages_package)
    kind = stage_kind.find(spec["kind"], options.stages_package)
    if group.world_size > 1 and not kind.multi_process:
        raise UserError(
            f"A stage of kind {spec['kind']} runs in one process, not in {group.world_size}.",
            "Start it without torchrun.",
        )
    environment.describe_process()  # cached now: the repository may change while the stage runs
    started_at, started = datetime.now(UTC), time.monotonic()
    device = group.device(options.device)
    module = importlib.import_module(f"{options.stages_package}.{spec['kind']}.run")
    _prepare_torch(options.threads, device)
    import_s = time.monotonic() - started
    folders = {
        role: folder.parents[1] / need["kind"] / need["key"] for role, need in spec["needs"].items()
    }
    context = StageContext(
        config=spec["config"],
        folder=folder,
        needs=_load_needs(kind, folders),
        need_folders=folders,
        data=options.data_dir,
        raw=options.raw_dir,
        num_threads=options.threads,
        device=device,
        stop_requested=stop_requested,
        checkpoint_every_s=60 * options.checkpoint_minutes,
        trace_steps=options.trace,
        group=group,
    )
    work_started = time.monotonic()
    with _gpu_monitor(device) as gpu:
        outcome = module.run(context)
    wall_s = time.monotonic() - work_started
    if not group.is_main:
        return None
    return Result(
        kind=spec["kind"],
        key=spec["key"],
        name=spec["name"],
        axes=spec["axes"],
        config=spec["config"],
        needs={role: need["key"] for role, need in spec["needs"].items()},
        inputs=provenance.inputs(context.needs),
        outputs=provenance.outputs(folder, outcome.metrics),
        recipe=spec.get("recipe", ""),
        metrics=dict(outcome.metrics),
        timing=dict(outcome.timing),
        retries=retry.counts(folder),
        environment=environment.describe(device, options.threads),
        started_at=started_at.isoformat(timespec="seconds"),
        import_s=import_s,
        wall_s=wall_s,
        gpu_memory_bytes=gpu.max_memory_reserved() if gpu is not None else None,
        gpu_busy=gpu.mean_utilization() if gpu is not None and not options.shares_gpu else None,
    )


def _gpu_monitor(device: str) -> "AbstractContextManager[GpuMonitor | None]":
    """Measure the GPU inside the block; yields None if the stage uses no GPU or no torch."""
    if not device.startswith("cuda") or "torch" not in sys.modules:
        return nullcontext()
    from harness.profiling.gpu_monitor import GpuMonitor

    return GpuMonitor(device)


def _load_needs(kind: StageKind, folders: dict[str, Path]) -> dict[str, Result]:
    """Load the results of the needed stages by role.

    Missing results are left out if the kind tolerates that, and otherwise raise a UserError.
    """
    results = {role: result.load(folder) for role, folder in folders.items()}
    for role, folder in folders.items():
        if results[role] is None and not kind.tolerates_failed_needs:
            raise UserError(
                f"The needed stage `{role}` has no result yet: {folder}", "Run it first."
            )
    return {role: need for role, need in results.items() if need is not None}


def _record_error(folder: Path, text: str) -> str:
    """Write error.txt and return its most informative line, even if the disk is full."""
    line = stage_state.summary(text.strip().splitlines() or ["an error without a message"])
    print(text, file=sys.stderr)
    # Another rank may have written it: it failed first, and its error caused this one.
    if (folder / stage_state.ERROR_FILE).exists():
        return line
    try:
        write_atomically(folder / stage_state.ERROR_FILE, (text.rstrip() + "\n").encode())
    except OSError as error:
        return f"{line} (error.txt could not be written: {error})"
    return line


def _prepare_torch(num_threads: int, device: str) -> None:
    """Set the number of threads, and check and select the GPU, if the stage has imported torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"This torch ({torch.__version__}) cannot use the GPU.",
            "Install a torch built for the driver's CUDA, or run with --device cpu.",
        )
    select_gpu(device)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Append everything printed inside the block to `log`, including output of C code."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(saved, start=1):
            os.dup2(copy, number)
            os.close(copy)


def _required_restart(error: BaseException) -> RestartRequiredError | None:
    """Return the RestartRequiredError that an error is, or was raised after.

    Closing a loader or a monitor may need the GPU, and then raises an error of its own.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, RestartRequiredError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _serve(options: argparse.Namespace, stop: StopSignal) -> None:
    """Process requests until stdin ends. Imports and compiled code are kept between stages."""
    # A copy of stdout for answers; output of stages goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines, stop), daemon=True).start()
    while not stop.requested and (line := lines.get()) is not None and not stop.requested:
        request: Request = json.loads(line)
        options.shares_gpu = request["shares_gpu"]
        answer = run_stage(Path(request["stage"]), options, stop)
        try:
            answers.write(json.dumps(answer) + "\n")
        except BrokenPipeError:  # the launcher has died; the result is on disk
            os._exit(STOPPED)
        if answer["cause"] == "restart":  # this process cannot be used any more
            break
        _free_memory()


def _read_lines(lines: "queue.SimpleQueue[str | None]", stop: StopSignal) -> None:
    """Put the lines of stdin into the queue, and end the process some time after stdin ends.

    When stdin ends, the launcher is finished with this worker or has died: a running stage must
    save and stop, and no other may begin. Reads the descriptor itself, because a thread blocked
    inside `sys.stdin` breaks the interpreter's shutdown.
    """
    text = b""
    while chunk := os.read(0, 65536):
        *complete, text = (text + chunk).split(b"\n")
        for line in complete:
            lines.put(line.decode())
    stop.requested = True
    lines.put(None)  # an idle worker ends at once
    time.sleep(ORPHAN_GRACE_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # including processes that the stage has started
    os._exit(STOPPED)


def _free_memory() -> None:
    """Free the memory of the last stage.

    What remains are modules and caches. They are frozen, because scanning them takes 0.1 s per
    collection once torch is imported.
    """
    gc.collect()
    gc.freeze()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
