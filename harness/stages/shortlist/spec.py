"""Declaration of the shortlist stage."""

from harness.matrix.stage_kind import StageKind

SPEC = StageKind(version=2, needs_gpu=False, tolerates_failed_needs=True)
