"""Declaration of the rank stage, which ranks source classes, hardest first."""

from collections.abc import Iterator, Mapping

from harness.matrix.stage import Stage
from harness.matrix.stage_kind import StageKind
from harness.matrix.workload import Counts, Workload
from harness.stages import _workload


def workloads(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Workload]:
    """Yield one forward pass per image, because one model evaluates each image."""
    config = stage.config
    num_images = (
        _workload.num_held_out(config["held_out"], counts["data"])
        if "held_out" in config
        else counts["data"].splits[config["split"]]
    )
    model = next(need for role, need in stage.needs.items() if role.startswith("model"))
    yield _workload.forward_pass(
        _workload.model_of(model),
        config["resolution"],
        config["batch_size"],
        config["precision"],
        num_images,
    )


SPEC = StageKind(version=3, on_demand=True, workloads=workloads)
