"""A stage: one unit of work, keyed by the hash of its settings and of the stages that it needs.

Equal stages have equal keys, even in different recipes, so that recipes share results. The folder
`$HARNESS_RUNS/stages/<kind>/<key>` contains `stage.json` (what to do), `progress.json`, the stage's
own files, and finally `result.json` (done) or `error.txt` (failed).
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, NoReturn, NotRequired, TypedDict

from harness.matrix import stage_kind
from harness.matrix.stage_kind import STAGES_PACKAGE, StageKind

FILE_NAME = "stage.json"
SCORES = "scores:"  # prefix of the roles of select stages in `Stage.needs`
_CONSTANTS = {None: "null", True: "true", False: "false"}
REWRITE = "Run `harness run` to write it again from the recipe."


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
    """One node of the matrix.

    Attributes:
        kind: name of the kind, and of the package in `package` that declares it.
        config: resolved settings, as plain JSON.
        needs: role -> needed stage.
        axes: values of the recipe's axes, such as eps and seed, for reports; not part of the key.
        name: readable name for messages and reports; not part of the key.
        gated_by: shortlist stage; this stage runs only if the shortlist contains its model. Not
            part of the key.
        package: package that is searched for the kind before `harness.stages`.
    """

    kind: str
    config: dict[str, Any]
    needs: dict[str, "Stage"] = field(default_factory=dict)
    axes: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    gated_by: "Stage | None" = None
    package: str = STAGES_PACKAGE

    @property
    def spec(self) -> StageKind:
        """Declaration of the stage's kind."""
        return stage_kind.find(self.kind, self.package)

    @property
    def waits_for(self) -> tuple["Stage", ...]:
        """Stages that must end before this one starts."""
        return (*self.needs.values(), *([self.gated_by] if self.gated_by else []))

    @cached_property
    def key(self) -> str:
        """20 hex digits that identify kind, version, settings and needs."""
        config, version = self.config, self.spec.version
        if type(config) is not SharedConfig:
            needs = {role: stage.key for role, stage in self.needs.items()}
            return key_of(self.kind, version, config, needs)
        parts = [
            f'{encode_basestring_ascii(role)}:"{self.needs[role].key}"'
            for role in sorted(self.needs)
        ]
        hashed = config.hashed(self.kind, version)
        hashed.update(f"{{{','.join(parts)}}}}}".encode())
        return hashed.hexdigest()[:20]

    @cached_property
    def chosen_fraction(self) -> float:
        """Expected fraction of the stages that this shortlist lets run; 1 for other stages."""
        choose = self.spec.chosen_fraction
        return 1.0 if choose is None else choose(self.config)

    def gated(self, gate: "Stage") -> "Stage":
        """Return the same stage with `gated_by`, in a quarter of `dataclasses.replace`'s time."""
        return Stage(
            self.kind, self.config, self.needs, self.axes, self.name, gate, package=self.package
        )

    def folder(self, runs: Path) -> Path:
        """Return the stage's folder."""
        return Path(f"{runs}/stages/{self.kind}/{self.key}")  # one third of the time of `/`

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


def specs_of(stages: Iterable[Stage]) -> dict[str, StageKind]:
    """Map each kind of stage to its declaration. In loops over 100,000 stages this saves time."""
    specs: dict[str, StageKind] = {}
    for stage in stages:
        if stage.kind not in specs:
            specs[stage.kind] = stage.spec
    return specs


class SharedConfig(dict[str, Any]):
    """Read-only settings that thousands of stages share, so that they are serialized only once."""

    @cached_property
    def text(self) -> str:
        """The settings, as serialized by `canonical`."""
        return canonical(dict(self))

    @cached_property
    def _hashed(self) -> dict[tuple[str, int], "hashlib._Hash"]:
        return {}

    def hashed(self, kind: str, version: int) -> "hashlib._Hash":
        """Return a new hash object that contains a key's text up to the needs.

        The caller updates it with the needs.
        """
        place = kind, version
        if place not in self._hashed:
            self._hashed[place] = hashlib.sha256(_start_of_key(kind, version, self).encode())
        return self._hashed[place].copy()

    def _refuse(self, *args: Any, **more: Any) -> NoReturn:
        raise TypeError("stages share these settings; make a copy to change them")

    __setitem__ = __delitem__ = __ior__ = pop = popitem = setdefault = update = clear = _refuse


def key_of(kind: str, version: int, config: dict[str, Any], needs: dict[str, str]) -> str:
    """Compute the key of a stage: 20 hex digits of a SHA-256.

    Args:
        kind: kind of the stage.
        version: `StageKind.version`.
        config: resolved settings, as plain JSON.
        needs: role -> key of the needed stage.
    """
    text = f"{_start_of_key(kind, version, config)}{canonical(needs)}}}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _start_of_key(kind: str, version: int, config: dict[str, Any]) -> str:
    return f'{{"code":{version},"config":{canonical(config)},"kind":"{kind}","needs":'


def canonical(value: Any) -> str:
    """Serialize plain JSON without spaces, with sorted keys.

    For ten thousand stages it takes a third of the time of `json.dumps`, because it serializes
    shared settings once.
    """
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(value)
    if kind is SharedConfig:
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
    if kind is list:
        return f"[{','.join(map(canonical, value))}]"
    if kind is int or (kind is float and math.isfinite(value)):
        return repr(value)
    if value is None or kind is bool:
        return _CONSTANTS[value]
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
