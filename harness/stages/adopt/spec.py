"""Declaration of the adopt stage."""

from harness.matrix.stage_kind import StageKind
from harness.stages.pretrain.spec import MODEL_FILE

SPEC = StageKind(version=3, needs_gpu=False, in_status=True, outputs=(MODEL_FILE,))
