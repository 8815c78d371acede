"""Runs stages: `python -m harness.worker STAGE_DIR` one, with `--serve` many after one another in one warm process.

A stage's folder says all there is to do (`stage.json`); its output goes to `log.txt`; `result.json` comes last, or
`error.txt`. Exit code 0: done; 1: failed; 75: stopped or held by another worker, to be tried again.
With `--serve` each line on stdin is an order (`launcher.request_line`), and each answer is a JSON line on stdout.
A failure that is worth another try (out of memory) leaves no `error.txt` then: that is for whoever gives up.

`torchrun --nproc-per-node N -m harness.worker STAGE_DIR` trains one stage in N processes; so does `--processes N`, for the
kinds that can (`StageKind.multi_process`). The first process has the folder; of several that fail, the first to fail says why.
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
from typing import TYPE_CHECKING, Any, NoReturn

from harness.matrix import stage_kind
from harness.matrix.stage_kind import StageKind
from harness.runner import lease, provenance, result, retry, stage_state, torchrun, worker_args
from harness.runner.context import OutOfMemory, StageContext, Stopped, load_spec
from harness.runner.fork_server import serve as fork_workers
from harness.runner.result import Result
from harness.runner.signals import ORPHAN_GRACE_S, STOPPED, StopSignal, end_with_parent
from harness.system import distributed, environment, os_errors
from harness.system.atomic_write import write_atomically, write_json
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from harness.system.out_of_memory import is_out_of_memory
from writers.errors import UserError

if TYPE_CHECKING:
    from harness.profiling.gpu_monitor import GpuMonitor

EXIT_CODES = {"done": 0, "failed": 1, "stopped": STOPPED, "busy": STOPPED}


def main() -> NoReturn:
    options = worker_args.parse(sys.argv[1:])
    if options.fork_server is not None:  # goes on below as a worker, in each of its copies
        options = worker_args.parse(fork_workers(options.fork_server))
    if options.cores:  # before any library counts the cores
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
    stop = StopSignal()
    if options.serve:
        _serve(options, stop)
        sys.stderr.flush()
        os._exit(
            STOPPED
        )  # at once: to take torch apart takes half a second, and all that counts is on disk
    group = distributed.from_environment()
    if group.world_size > 1:
        threading.Thread(target=end_with_parent, args=(stop,), daemon=True).start()
    with distributed.init_process_group(group, options.device):
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
            os._exit(
                EXIT_CODES["failed"]
            )  # at once: to leave the group in order would wait for the others
    raise SystemExit(EXIT_CODES[answer["status"]])


def run_stage(
    folder: Path,
    options: argparse.Namespace,
    stop: StopSignal,
    group: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Run the stage in `folder`; returns {"stage", "status", "cause", "message", "wall_s"}, also where the stage fails."""
    started = time.monotonic()
    status, cause, message = "done", "", ""
    try:
        if options.processes > 1 and _kind_of(folder, options).multi_process:
            status, cause, message = torchrun.run(folder, options, stop)
        else:
            holding: AbstractContextManager[lease.Lease | None] = (
                lease.hold(folder) if group.is_main else nullcontext()
            )
            with holding as held:
                status = group.broadcast(_may_begin(folder, held, options))
                if status == "ready":
                    with _output_to(
                        folder / ("log.txt" if group.is_main else f"log.rank{group.rank}.txt")
                    ):
                        status, cause, message = _attempt(folder, options, stop, held, group)
    except OSError as error:  # the folder itself cannot be written
        status, cause, message = "failed", *_of_disk(error)
    return {
        "stage": str(folder),
        "status": status,
        "cause": cause,
        "message": message,
        "wall_s": time.monotonic() - started,
    }


def _kind_of(folder: Path, options: argparse.Namespace) -> StageKind:
    """Declaration of the kind of the stage in `folder`."""
    return stage_kind.find(folder.parent.name, options.stages_package)


def _may_begin(folder: Path, held: lease.Lease | None, options: argparse.Namespace) -> str:
    """ "ready", or what the stage is already. Asked of the first process."""
    if held is None:
        return "busy"
    if stage_state.is_done(
        _kind_of(folder, options), folder, options.data_dir
    ):  # another may have done it meanwhile
        return "done"
    if (
        stage_state.failed_since(folder, options.began_at) is not None
    ):  # or have failed at it: whoever started us looks again
        return "busy"
    (folder / stage_state.ERROR_FILE).unlink(missing_ok=True)
    return "ready"


def _attempt(
    folder: Path,
    options: argparse.Namespace,
    stop: StopSignal,
    held: lease.Lease | None,
    group: ProcessGroup,
) -> tuple[str, str, str]:
    """Status, cause and message. held: of the first process."""

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
    except OutOfMemory as error:
        print(error, file=sys.stderr)
        return "failed", "out_of_memory", f"{error.message} {error.hint}"
    except UserError as error:
        return "failed", "mistake", _record_error(folder, str(error))
    except Exception as error:
        if group.world_size > 1 and distributed.is_peer_failure(error):
            traceback.print_exc()
            return (
                "failed",
                "lost",
                (
                    f"Process {group.rank} of {group.world_size} has lost another one, which ended or does "
                    f"not answer; each one's output is in {folder / 'log.*'}"
                ),
            )
        if is_out_of_memory(error):
            traceback.print_exc()
            return (
                "failed",
                "out_of_memory",
                stage_state.summary(traceback.format_exc().strip().splitlines()),
            )
        cause, text = (
            _of_disk(error) if isinstance(error, OSError) else ("bug", traceback.format_exc())
        )
        return "failed", cause, _record_error(folder, text)
    finally:
        stop.running = False


def _of_disk(error: OSError) -> tuple[str, str]:
    if is_out_of_memory(error):
        return "out_of_memory", str(error)
    known = os_errors.explain(error)
    return ("mistake", str(known)) if known else ("bug", "".join(traceback.format_exception(error)))


def _compute(
    folder: Path,
    options: argparse.Namespace,
    stop_requested: Callable[[], bool],
    group: ProcessGroup,
) -> Result | None:
    """None in a process that is not the first: the first one writes."""
    told = load_spec(folder, options.stages_package)
    spec = stage_kind.find(told["kind"], options.stages_package)
    if group.world_size > 1 and not spec.multi_process:
        raise UserError(
            f"A stage of kind {told['kind']} runs in one process; these are {group.world_size}.",
            "Start it without torchrun.",
        )
    environment.describe_process()  # now: the repository may change while the stage runs
    started_at, started = datetime.now(UTC), time.monotonic()
    device = group.device(options.device)
    module = importlib.import_module(f"{options.stages_package}.{told['kind']}.run")
    _prepare_torch(options)
    import_s = time.monotonic() - started
    folders = {
        role: folder.parents[1] / need["kind"] / need["key"] for role, need in told["needs"].items()
    }
    context = StageContext(
        config=told["config"],
        folder=folder,
        needs=_needed(spec, folders),
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
    ran = time.monotonic()
    with _watched_gpu(device) as gpu:
        outcome = module.run(context)
    wall_s = time.monotonic() - ran
    if not group.is_main:
        return None
    return Result(
        kind=told["kind"],
        key=told["key"],
        name=told["name"],
        axes=told["axes"],
        config=told["config"],
        needs={role: need["key"] for role, need in told["needs"].items()},
        inputs=provenance.inputs(context.needs),
        outputs=provenance.outputs(folder, outcome.metrics),
        recipe=told.get("recipe", ""),
        metrics=outcome.metrics,
        timing=outcome.timing,
        retries=retry.counts(folder),
        environment=environment.describe(device, options.threads),
        started_at=started_at.isoformat(timespec="seconds"),
        import_s=import_s,
        wall_s=wall_s,
        gpu_memory_bytes=gpu.max_memory_reserved() if gpu is not None else None,
        gpu_busy=gpu.busy() if gpu is not None and not options.shares_gpu else None,
    )


def _watched_gpu(device: str) -> "AbstractContextManager[GpuMonitor | None]":
    """None inside where the stage uses no GPU, or no torch."""
    if not device.startswith("cuda") or "torch" not in sys.modules:
        return nullcontext()
    from harness.profiling.gpu_monitor import GpuMonitor

    return GpuMonitor(device)


def _needed(spec: StageKind, folders: dict[str, Path]) -> dict[str, Result]:
    """Role -> result. Some kinds take what there is; for the others one that is not there is a UserError."""
    found = {role: result.load(folder) for role, folder in folders.items()}
    for role, folder in folders.items():
        if found[role] is None and not spec.tolerates_failed_needs:
            raise UserError(
                f"The stage that should give `{role}` is not done: {folder}", "Run it first."
            )
    return {role: need for role, need in found.items() if need is not None}


def _record_error(folder: Path, text: str) -> str:
    """Leave error.txt; returns the line that says most. A full disk must not hide what went wrong."""
    said = stage_state.summary(text.strip().splitlines() or ["an error without a message"])
    print(text, file=sys.stderr)
    if (
        folder / stage_state.ERROR_FILE
    ).exists():  # of another process of the group, which failed first: the cause of this one
        return said
    try:
        write_atomically(folder / stage_state.ERROR_FILE, (text.rstrip() + "\n").encode())
    except OSError as error:
        return f"{said} (error.txt could not be written: {error})"
    return said


def _prepare_torch(options: argparse.Namespace) -> None:
    """Threads and device, where the stage has imported torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.get_num_threads() != options.threads:
        torch.set_num_threads(options.threads)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"This torch ({torch.__version__}) cannot use the GPU.",
            "Install a torch built for the driver's CUDA, or run with --device cpu.",
        )


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Everything printed inside, also by C code, is appended to `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)


def _serve(options: argparse.Namespace, stop: StopSignal) -> None:
    """Answer orders until stdin ends. Imports and compiled code stay from one stage to the next."""
    answers = os.fdopen(
        os.dup(1), "w", buffering=1
    )  # our own copy: what stages print must not mix with answers
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines, stop), daemon=True).start()
    while not stop.requested and (line := lines.get()) is not None and not stop.requested:
        order = json.loads(line)
        options.shares_gpu = order["shares_gpu"]
        answer = run_stage(Path(order["stage"]), options, stop)
        try:
            answers.write(json.dumps(answer) + "\n")
        except BrokenPipeError:  # whoever asked has died; the result is on disk
            os._exit(STOPPED)
        _free_memory()


def _read_lines(lines: "queue.SimpleQueue[str | None]", stop: StopSignal) -> None:
    """Hand on stdin's lines. At its end whoever started this process is done with it, or dead: no stage outlives that, and
    none begins.

    Reads the descriptor itself: a thread that waits inside `sys.stdin` breaks the interpreter's exit.
    """
    text = b""
    while chunk := os.read(0, 65536):
        *whole, text = (text + chunk).split(b"\n")
        for line in whole:
            lines.put(line.decode())
    stop.requested = True
    lines.put(None)  # an idle worker ends at once
    time.sleep(ORPHAN_GRACE_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with whatever the stage has started
    os._exit(STOPPED)


def _free_memory() -> None:
    """Give back what the last stage held. What is left are modules and caches, which are not to be looked through every time:
    with torch imported that takes 0.1 s."""
    gc.collect()
    gc.freeze()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
