"""One row of a board (a static leaderboard): a score, its cost and its provenance.

Rows have no paths and host names, because they are published.
"""

import dataclasses
import hashlib
import re
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from harness.config.base import Fraction, Metric
from harness.matrix.stage import canonical
from writers.text_names import printable

MAX_TEXT = 200  # largest number of characters of a name
DIGEST_LENGTH = 16  # hex digits of a digest
_SEPARATOR = r"(?:^|(?<=[\s\"'`=:;,(\[{<]))"
_ABSOLUTE = re.compile(rf"{_SEPARATOR}(?:file:/*)?(?:~[\w.-]*|[A-Za-z]:|\\)?[/\\](?=[^\s/\\])\S*")
_UPWARDS = re.compile(r"(?:^|(?<=[/\\]))\.\.(?=[/\\]|$)")


def names_path(text: str) -> bool:
    """Return True if the text contains an absolute path, or one that leaves its folder."""
    return bool(_ABSOLUTE.search(text) or _UPWARDS.search(text))


def without_paths(text: str) -> str:
    """Replace each absolute path by its last part, and `..` by `_`."""
    text = _ABSOLUTE.sub(lambda found: re.split(r"[/\\]", found.group().rstrip("/\\"))[-1], text)
    return _UPWARDS.sub("_", text)


def publishable(value: object) -> str:
    """Convert a result's text for a row: one line of at most MAX_TEXT characters, without paths."""
    return without_paths(printable(str(value)))[:MAX_TEXT].strip() if value is not None else ""


def _check_text(text: str) -> str:
    if text and not text.isprintable():
        raise ValueError("text must consist of printable characters, on one line")
    if names_path(text):
        raise ValueError("text must not contain a path of a machine")
    return text


def _check_time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("there is no such date or time") from error
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_check_text)]
Digest = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{DIGEST_LENGTH}}}$")]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{0,128}$")]  # digest or key; "" if unknown
Whole = Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[float, Field(ge=0, le=1e12)]
Time = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?\+00:00$"),
    AfterValidator(_check_time),
]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class BoardRow:
    """One score of one model. A loaded model is not trained by the recipe, but is in its `models`.

    Scores are fractions in [0, 1]. None means not measured or not applicable, "" unknown or not
    applicable.

    Attributes:
        model_digest: identifies the model apart from its seed, by its settings and the digests of
            its data, or by the digest of its weights.
        task_digest: identifies what was measured, by images of the target, metric and settings.
        protocol_digest: identifies the method's settings, on any target.
        seed: seed of pretraining; for loaded models, seed of the transfer.
        kind: `transfer`, or `source` for accuracy on the source classes that all models share.
        method: label of the method; for `source`, `clean` or the attack.
        per_class: training images of each target class; None means all.
        steps: training steps; None means that the method's epochs decide.
        score: the target's own metric on the test images.
        pretrained_here: False for loaded models. True if each seed is another model: the recipe
            trained it, or it started from random weights.
        pretrain_s: wall seconds of pretraining times the number of processes.
        transfer_s: wall seconds of the transfer including its grid; for `source`, of the
            evaluation.
        source_accuracy_from: `measured`, or `published` by the model's authors; "" if unknown.
        recipe: digest of the recipe's settings; "" if the recipe is not exported.
        by: name of the person or group that measured the score.
    """

    model_digest: Digest
    task_digest: Digest
    protocol_digest: Digest
    seed: Annotated[int, Field(ge=-(2**53), le=2**53)]
    kind: Literal["transfer", "source"]
    model: Text
    source: Text
    subset: Text
    variant: Text
    arch: Text
    eps: Amount
    target: Text
    method: Text
    per_class: Whole | None
    steps: Whole | None
    metric: Metric
    score: Fraction
    top1: Fraction | None  # None for detection
    mean_per_class: Fraction | None
    num_test_images: Annotated[int, Field(ge=1, le=2**53)]
    num_target_classes: Whole | None
    num_configs: Whole | None
    selected_on: Text
    pretrained_here: bool
    training: Text
    num_source_classes: Whole | None
    num_source_images: Whole | None
    num_parameters: Whole | None
    source_accuracy: Fraction | None
    pretrain_s: Amount | None
    pretrain_energy_wh: Amount | None
    pretrain_memory_bytes: Whole | None
    pretrain_gpu: Text
    transfer_s: Amount | None
    transfer_energy_wh: Amount | None
    transfer_memory_bytes: Whole | None
    gpu: Text
    cpu: Text
    key: Hex
    weights_sha256: Hex
    test_sha256: Hex
    subset_digest: Hex
    harness: Text
    torch: Text
    ffcv: Text
    python: Text
    revision: Text
    started_at: Time
    recipe: Annotated[str, Field(pattern=rf"^(?:[0-9a-f]{{{DIGEST_LENGTH}}})?$")] = ""
    by: Text = ""
    source_accuracy_from: Literal["measured", "published", ""] = ""

    @property
    def run(self) -> tuple[str, str, int]:
        """Model, task and seed: equal for a repetition of the same run."""
        return self.model_digest, self.task_digest, self.seed

    @property
    def unit(self) -> int:
        """Seed of pretraining, which distinguishes models of one digest; 0 for a loaded model."""
        return self.seed if self.pretrained_here else 0


@cache
def field_names() -> tuple[str, ...]:
    """Return the names of all fields, in order."""
    return tuple(field.name for field in dataclasses.fields(BoardRow))


def measurement(row: BoardRow) -> tuple[object, ...]:
    """Return a key of one execution of a stage, equal for all copies of its row.

    The key leaves out labels, and values that other stages may add later, such as the source
    accuracy.
    """
    numbers = row.score, row.top1, row.mean_per_class, row.transfer_s
    return (*row.run, row.key, row.started_at, *numbers)


def num_unknown(row: BoardRow) -> int:
    """Count fields without a value."""
    return sum(getattr(row, name) in (None, "") for name in field_names())


def sort_key(row: BoardRow) -> tuple[str, ...]:
    """Sort key that gives everybody the same order: by kind, task and model, then all values."""
    names = (row.kind, row.method, row.target, row.subset, row.variant, row.arch, row.model)
    values = [canonical(getattr(row, name)) for name in field_names()]
    return (*names, f"{row.eps:020.9f}", f"{row.seed:020d}", *values)


def digest(value: Any) -> str:
    """Return the digest of plain JSON: the first hex digits of its SHA-256."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:DIGEST_LENGTH]
