"""Run stages: `python -m harness.worker STAGE_DIR` runs one, `--serve` runs many in turn.

`stage.json` in the stage's folder describes the work; output is appended to `log.txt`;
`result.json` or `error.txt` is written last. Exit code 0: done; 1: failed; 75: try again, because
the stage was stopped or another worker runs it. With `--serve`, each line on stdin is a request and
each answer is a line on stdout (`harness.runner.protocol`). If a failure may be retried, as when
memory runs out, no `error.txt` is written with `--serve`; the executor writes it when it gives up.

`torchrun --nproc-per-node N -m harness.worker STAGE_DIR` and `--processes N` run one stage in N
processes, for kinds that support it (`StageKind.multi_process`). Only rank 0 writes the result. If
several ranks fail, the rank that fails first reports the cause.
"""

import argparse
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from harness.runner import fork_server, retry, worker_args
from harness.runner.protocol import Request, Status
from harness.runner.run_stage import run_stage
from harness.runner.signals import ORPHAN_GRACE_S, STOPPED, StopSignal, end_with_parent
from harness.system import distributed
from harness.system.atomic_write import write_json

EXIT_CODES: dict[Status, int] = {"done": 0, "failed": 1, "stopped": STOPPED, "busy": STOPPED}


def main() -> NoReturn:
    """Run the command line of a worker, and exit."""
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
            # Exit at once: leaving the process group in order would wait for the other ranks.
            os._exit(EXIT_CODES["failed"])
    raise SystemExit(EXIT_CODES[answer["status"]])


def _serve(options: argparse.Namespace, stop: StopSignal) -> None:
    """Process requests until stdin ends. Imports and Numba's code are kept between stages."""
    # Answers go to a copy of stdout, because output of stages is redirected to stderr.
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

    Stdin ends if the launcher does not need this worker any more, or has died. A running stage must
    then save and stop, and no other stage may begin. Reads the file descriptor directly, because a
    thread that is blocked inside `sys.stdin` breaks the interpreter's shutdown.
    """
    text = b""
    while chunk := os.read(0, 65536):
        *complete, text = (text + chunk).split(b"\n")
        for line in complete:
            lines.put(line.decode())
    stop.requested = True
    lines.put(None)  # ends an idle worker at once
    time.sleep(ORPHAN_GRACE_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # including processes that the stage has started
    os._exit(STOPPED)


def _free_memory() -> None:
    """Free the memory of the last stage, with torch's compiled code and CUDA graphs.

    torch keeps the graphs of whole models, and their memory, as global state. The remaining objects
    are modules and caches. They are frozen, because scanning them takes 0.1 s per collection once
    torch is imported.
    """
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()
    gc.collect()
    gc.freeze()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
