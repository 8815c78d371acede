"""Declaration of the adopt stage, which loads published weights and saves them as a model.pt."""

from harness.matrix.stage_kind import StageKind
from harness.stages.pretrain.spec import MODEL_FILE

SPEC = StageKind(
    version=3,
    needs_gpu=False,
    makes_model=True,
    in_status="models",
    input_settings=("weights_file", "class_file"),
    outputs=(MODEL_FILE,),
)
