"""Declaration of the score stage."""

from harness.matrix.stage_kind import StageKind

SPEC = StageKind(version=2, in_status=True)
