"""Declaration of the evaluate stage, which scores a model on val, clean and under attack."""

from collections.abc import Iterator, Mapping
from typing import Any

from harness.config.recipe import EvaluateSettings
from harness.matrix.stage import Stage
from harness.matrix.stage_kind import StageKind
from harness.matrix.workload import Counts, Workload
from harness.stages import _workload


def work(config: Mapping[str, Any]) -> float:
    """Return the number of passes: one clean pass, and one pass per step of the attack."""
    return 1.0 + float(config.get("settings", {}).get("attack", {}).get("steps", 0))


def workloads(stage: Stage, counts: Mapping[str, Counts]) -> Iterator[Workload]:
    """Yield a forward pass of the validation split, and attacks on it if there are any."""
    config = stage.config
    settings = EvaluateSettings.model_validate(config["settings"])
    model = _workload.model_of(stage.needs["model"])
    num_images = counts["data"].splits["val"] * _workload.num_views(config["flip_tta"])
    yield _workload.forward_pass(
        model, config["resolution"], settings.batch_size, config["precision"], num_images
    )
    if config["eps"] or settings.eps_of_clean:
        # `common` lists the compared subsets. If there is only one, its classes are the common
        # ones, and the masked attack is the same as the unmasked one.
        is_masked = settings.attacked_logits == "scored" and len(config.get("common", ())) != 1
        yield Workload(
            {
                "step": "attack",
                "model": model,
                "resolution": config["resolution"],
                "batch_size": settings.batch_size,
                "precision": config["precision"],
                "attack": config["settings"]["attack"],
                **({"compile": settings.compile} if settings.compile != "off" else {}),
            },
            settings.batch_size,
            num_images * (1 + is_masked),
        )


SPEC = StageKind(version=4, multi_process=True, in_status="models", work=work, workloads=workloads)
