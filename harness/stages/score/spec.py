"""Declaration of the score stage, which computes transferability scores."""

from harness.matrix.stage_kind import StageKind

SPEC = StageKind(version=3, in_status="models")
