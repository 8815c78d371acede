"""A stage: one unit of work, keyed by the hash of its resolved settings and of the stages it needs.

Equal stages have equal keys, also across recipes, so that work is shared by being named alike. The folder
`$HARNESS_RUNS/stages/<kind>/<key>` holds `stage.json` (what to do), `progress.json` (how far), the stage's own
files, and, last, `result.json` (done) or `error.txt` (failed).
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, NoReturn

from harness.distributed import ALONE, Ranks
from harness.result import Result, write_json
from writers.errors import UserError

# Raised when a change to a kind's code changes its numbers, so that old results are not mistaken for new ones.
CODE_VERSIONS = {
    "write": 5,
    "rank": 2,
    "pretrain": 5,
    "evaluate": 3,
    "transfer": 6,
    "adopt": 2,
    "features": 1,
    "score": 2,
    "shortlist": 1,
}
TAKE_WHAT_THERE_IS = ("shortlist",)  # kinds that run also where stages that they need have failed

FILE_NAME = "stage.json"
REWRITE = "harness run writes it anew, from the recipe."


@dataclass(frozen=True)
class Stage:
    """One node of the matrix. `config` is plain JSON; `needs` names stages by the role they fill."""

    kind: str
    config: dict[str, Any]
    needs: dict[str, "Stage"] = field(default_factory=dict)
    axes: dict[str, Any] = field(
        default_factory=dict
    )  # for people and reports; not part of the key
    name: str = ""  # likewise
    only_if: "Stage | None" = None  # likewise: a shortlist, on which the stage's model must stand

    @property
    def waits_for(self) -> tuple["Stage", ...]:
        """The stages that must be over before this one starts."""
        return (*self.needs.values(), *([self.only_if] if self.only_if else []))

    @cached_property
    def key(self) -> str:
        return key_of(
            self.kind, self.config, {role: stage.key for role, stage in self.needs.items()}
        )

    def folder(self, runs: Path) -> Path:
        return runs / "stages" / self.kind / self.key

    def describe(self) -> dict[str, Any]:
        """What `stage.json` holds, and all that a worker is told."""
        return {
            "kind": self.kind,
            "key": self.key,
            "name": self.name,
            "axes": self.axes,
            "config": self.config,
            "needs": {
                role: {"kind": stage.kind, "key": stage.key} for role, stage in self.needs.items()
            },
        }


class Shared(dict[str, Any]):
    """Settings that thousands of stages have in common, put into words once. Nobody can change them."""

    @cached_property
    def text(self) -> str:
        """As `canonical` writes them."""
        return canonical(dict(self))

    def _refuse(self, *args: Any, **more: Any) -> NoReturn:
        raise TypeError("stages share these settings: make others of them")

    __setitem__ = __delitem__ = __ior__ = pop = popitem = setdefault = update = clear = _refuse  # type: ignore[assignment]


def key_of(kind: str, config: dict[str, Any], needs: dict[str, str]) -> str:
    """20 hex digits of sha256 over kind, code version, settings and needed keys."""
    text = f'{{"code":{CODE_VERSIONS[kind]},"config":{canonical(config)},"kind":"{kind}","needs":{canonical(needs)}}}'
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def canonical(value: Any) -> str:
    """JSON without spaces, keys in order. Of ten thousand stages in a third of `json.dumps`'s time, by what they share."""
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(value)
    if kind is Shared:
        return str(value.text)
    if kind is dict:
        quoted = encode_basestring_ascii
        items = [(name, value[name]) for name in sorted(value)]
        return (
            "{"
            + ",".join(
                [
                    f"{quoted(name)}:{quoted(item) if type(item) is str else canonical(item)}"
                    for name, item in items
                ]
            )
            + "}"
        )
    if kind is int or (kind is float and math.isfinite(value)):
        return repr(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_orders(folder: Path) -> dict[str, Any]:
    """What `Stage.describe` said, from the stage's folder. Raises UserError where these are not the orders of this stage."""
    path = folder / FILE_NAME
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        key = key_of(
            told["kind"],
            told["config"],
            {role: need["key"] for role, need in told["needs"].items()},
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is not there: nobody has said what this stage is to do.", REWRITE
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__} {error}", REWRITE) from error
    if key != folder.name:
        raise UserError(
            f"{path} does not belong to this folder: it was changed by hand, or is of another version of the code.",
            REWRITE,
        )
    return told


@dataclass(frozen=True)
class StageContext:
    """What a running stage is given. `harness/stages/<kind>.py` has `run(context) -> Outcome`."""

    config: dict[str, Any]
    folder: Path  # the stage's own; scratch files and checkpoints go here
    needs: dict[str, Result]  # results of the needed stages, by role
    need_folders: dict[str, Path]  # and their folders
    data: Path  # $HARNESS_DATA: betons
    raw: Path  # $HARNESS_RAW: what people downloaded
    num_threads: int  # CPU threads this stage may use
    device: str  # "cpu", "cuda:0"
    stop_requested: Callable[[], bool] = lambda: False
    checkpoint_every_s: float = 300.0  # of training
    trace_steps: int = 0  # how many steps of training to trace into the folder
    ranks: Ranks = (
        ALONE  # this process among those that run the stage together; the first one writes
    )
    phase: dict[str, float] = field(
        default_factory=dict
    )  # where the present count began: total, done, and at what time

    def progress(self, **values: Any) -> None:
        """Say how far the stage is (`done`, `total`, `img_per_s`, `note`); read by `harness status`. Cheap, not free.

        Adds `eta_s`, of this count, from what was done since it began; a count that falls, or to another total, is another one.
        """
        if not self.ranks.is_first:
            return
        done, total, now = values.get("done"), values.get("total"), time.monotonic()
        if done is not None and total is not None:
            if self.phase.get("total") != total or done < self.phase["done"]:
                self.phase.update(total=total, done=done, at=now)
            elif done > self.phase["done"]:
                values["eta_s"] = (
                    (now - self.phase["at"]) * (total - done) / (done - self.phase["done"])
                )
        write_json(self.folder / "progress.json", values)


@dataclass(frozen=True)
class Outcome:
    """What a stage hands back; the worker wraps it into a Result."""

    metrics: dict[str, Any]
    timing: dict[str, Any] = field(default_factory=dict)


class Stopped(Exception):
    """Raised by a stage that was asked to stop and has left a checkpoint: neither done nor failed."""


class OutOfMemory(UserError):
    """Raised by a stage that ran out of memory where another try may go well: in smaller parts, or with others gone."""
