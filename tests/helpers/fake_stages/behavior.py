"""Behavior of a fake stage, set in its config: `fail`, `sleep_s`, `until` and others."""

import errno
import os
import resource
import signal
import sys
import time
from pathlib import Path

from harness.runner.context import (
    Outcome,
    OutOfMemoryError,
    RestartRequiredError,
    StageContext,
    Stopped,
)
from writers.errors import UserError


def run(context: StageContext) -> Outcome:
    config = context.config
    ran = Path(config["journal"])
    with ran.open("a") as journal:  # O_APPEND keeps lines of several processes whole
        journal.write(f"{config['name']}\n")
    print(f"this is {config['name']}")
    os.system(f"echo child of {config['name']}")
    if config.get("mistake"):
        raise UserError("There is no such image.", "Look again.")
    if config.get("fail") and not Path(config["fail"]).exists():
        raise ZeroDivisionError("a bug")
    if config.get("kill") and not Path(config["kill"]).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if config.get("crash"):
        if context.group.rank == context.group.world_size - 1:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signal.Signals[config["crash"]])
        context.group.all_gather(0)  # the others wait for it
    attempts = ran.read_text().split().count(config["name"])
    if attempts <= config.get("kill_times", 0):
        os.kill(os.getpid(), signal.SIGKILL)
    if attempts <= config.get("out_of_memory_times", 0):
        raise MemoryError("out of memory")
    if config.get("restart_times"):
        with (context.folder / "pids").open("a") as pids:
            pids.write(f"{os.getpid()}\n")
    if attempts <= config.get("restart_times", 0):
        try:
            raise RestartRequiredError("The process cannot use its GPU.", "Another one can.")
        finally:
            if config.get("masked"):
                raise RuntimeError("CUDA error: operation failed due to a previous error")
    if attempts <= config.get("no_room_times", 0):
        raise OutOfMemoryError("Others hold the memory.", "Another try may go well.")
    if attempts <= config.get("no_map_times", 0):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "train.beton")
    if config.get("no_room_in_rank") is not None:
        full = context.folder / "was_full"
        if context.group.rank == config["no_room_in_rank"] and not full.exists():
            full.touch()
            raise OutOfMemoryError("Others hold the memory.", "Another try may go well.")
        try:
            context.group.all_gather(0)  # the others wait for it
        except RuntimeError as error:
            raise RuntimeError("words of a torch to come") from error
    if config.get("spawn"):
        child = os.spawnvp(
            os.P_NOWAIT, sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"]
        )
        Path(config["spawn"]).write_text(str(child))
    checkpoint = context.folder / "steps.txt"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    total, awaited = round(config.get("sleep_s", 0) / 0.05), config.get("until")
    step = done
    while step < total or (awaited and not Path(awaited).exists()):
        if context.stop_requested() and not config.get("deaf"):
            checkpoint.write_text(str(step))
            raise Stopped
        context.progress(done=step, total=max(total, step + 1), note="asleep")
        time.sleep(0.05)
        step += 1
    num_processes = len(context.group.all_gather(context.group.rank))
    inputs = {role: need.metrics["value"] for role, need in context.needs.items()}
    return Outcome(
        {
            "value": 1 + sum(inputs.values()),
            "resumed_at": done,
            "num_processes": num_processes,
            "pid": os.getpid(),
            "parent": os.getppid(),
            "is_forked": "--fork-server" in sys.orig_argv,
            "cores": sorted(os.sched_getaffinity(0)),
            "environment": {
                name: os.environ.get(name) for name in config.get("tell_environment", [])
            },
        },
        {"slept_s": config.get("sleep_s", 0)},
    )
