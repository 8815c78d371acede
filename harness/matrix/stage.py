"""A stage: one unit of work, keyed by the hash of its resolved settings and of the stages it needs.

Equal stages have equal keys, also across recipes, so that work is shared by being named alike. The folder
`$HARNESS_RUNS/stages/<kind>/<key>` holds `stage.json` (what to do), `progress.json` (how far), the stage's own
files, and, last, `result.json` (done) or `error.txt` (failed).
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, NoReturn, NotRequired, TypedDict

from harness.matrix import stage_kind
from harness.matrix.stage_kind import STAGES_PACKAGE, StageKind

FILE_NAME = "stage.json"
REWRITE = "harness run writes it anew, from the recipe."


class NeededStage(TypedDict):
    """Reference to a stage in another stage's `StageSpec`."""

    kind: str
    key: str


class StageSpec(TypedDict):
    """Content of stage.json: everything a worker needs to run the stage.

    `needs` maps roles to stages. `recipe` is the path, relative to $HARNESS_RUNS, of the resolved
    recipe that requested the stage.
    """

    kind: str
    key: str
    name: str
    axes: dict[str, Any]
    config: dict[str, Any]
    needs: dict[str, NeededStage]
    recipe: NotRequired[str]


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
    gated_by: "Stage | None" = None  # likewise: a shortlist, on which the stage's model must stand
    package: str = STAGES_PACKAGE  # where the kind is declared

    @property
    def spec(self) -> StageKind:
        """Declaration of the stage's kind."""
        return stage_kind.find(self.kind, self.package)

    @property
    def waits_for(self) -> tuple["Stage", ...]:
        """The stages that must be over before this one starts."""
        return (*self.needs.values(), *([self.gated_by] if self.gated_by else []))

    @cached_property
    def key(self) -> str:
        needs = {role: stage.key for role, stage in self.needs.items()}
        return key_of(self.kind, self.spec.version, self.config, needs)

    def folder(self, runs: Path) -> Path:
        return runs / "stages" / self.kind / self.key

    def to_json(self) -> StageSpec:
        """Return the content of stage.json."""
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

    __setitem__ = __delitem__ = __ior__ = pop = popitem = setdefault = update = clear = _refuse


def key_of(kind: str, version: int, config: dict[str, Any], needs: dict[str, str]) -> str:
    """20 hex digits of sha256 over kind, code version, settings and needed keys."""
    text = f'{{"code":{version},"config":{canonical(config)},"kind":"{kind}","needs":{canonical(needs)}}}'
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
