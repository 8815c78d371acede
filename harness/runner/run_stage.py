"""Run one stage: hold its lease, write its log, and write `result.json` or `error.txt` last.

`harness.runner.worker` calls `run_stage`. If several ranks run a stage together, each rank calls
it. Only rank 0 writes the result, and the first rank that fails reports the cause.
"""

import argparse
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.matrix import stage_kind
from harness.matrix.stage_kind import StageKind
from harness.runner import (
    provenance,
    result,
    retry,
    stage_state,
    torchrun,
)
from harness.runner.context import (
    OutOfMemoryError,
    RestartRequiredError,
    StageContext,
    Stopped,
    load_spec,
)
from harness.runner.metrics_types import load_checked
from harness.runner.protocol import Answer, StageStatus, Status
from harness.runner.result import Result
from harness.runner.retry import FailureCause
from harness.runner.signals import StopSignal
from harness.system import distributed, environment, os_errors
from harness.system.atomic_write import write_atomically
from harness.system.distributed import SINGLE_PROCESS, ProcessGroup
from harness.system.gpu import select_gpu
from harness.system.out_of_memory import is_out_of_memory
from writers import lease
from writers.errors import UserError

if TYPE_CHECKING:
    from harness.profiling.gpu_monitor import GpuMonitor


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
    """Check whether the stage must still run. All ranks use the value that rank 0 returns."""
    if held is None:
        return "busy"
    if stage_state.is_done(_kind_of(folder, options), folder, options.data_dir):
        return "done"  # another run has finished it a moment ago
    if stage_state.failed_since(folder, options.began_at) is not None:
        return "busy"  # it just failed in another run, whose error the executor will read
    (folder / stage_state.ERROR_FILE).unlink(missing_ok=True)
    return "ready"


def _attempt(
    folder: Path,
    options: argparse.Namespace,
    stop: StopSignal,
    held: lease.Lease | None,
    group: ProcessGroup,
) -> StageStatus:
    """Compute the stage and write its result. If it fails finally, write error.txt.

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
    environment.describe_process()  # cache it now: the repository may change during the stage
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
        needs=_load_needs(kind, folders, options.stages_package),
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
    """Measure the GPU inside the block; yield None if the stage uses no GPU or no torch."""
    if not device.startswith("cuda") or "torch" not in sys.modules:
        return nullcontext()
    from harness.profiling.gpu_monitor import GpuMonitor

    return GpuMonitor(device)


def _load_needs(kind: StageKind, folders: dict[str, Path], package: str) -> dict[str, Result]:
    """Load the results of the needed stages by role.

    Missing results are left out if the kind tolerates that, and otherwise raise a UserError.
    """
    results = {role: load_checked(folder, package) for role, folder in folders.items()}
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
    # Keep the error of another rank: it failed first and has caused the failure of this one.
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
    """Return the RestartRequiredError among an error, its causes and contexts, or None.

    After such an error, closing a loader or a monitor may need the GPU and raise another error.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, RestartRequiredError):
        seen = seen.__cause__ or seen.__context__
    return seen
