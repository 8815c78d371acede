"""Takes a model that exists, with its weights, into the harness: leaves `model.pt`, as if it had been pretrained here."""

from pathlib import Path

from harness.config.model import ModelSettings
from harness.modeling import classifier as models
from harness.modeling import pretrained as adopting
from harness.modeling.flops import inference_flops
from harness.runner.context import Outcome, StageContext
from harness.stages.pretrain.spec import MODEL_FILE


def run(context: StageContext) -> Outcome:
    """Metrics: the architecture, its sizes, how it wants to see images, its published ImageNet accuracy (null where it is not
    known), and which file of weights it was, by digest."""
    settings = ModelSettings.model_validate(context.config["model"])
    adopted = adopting.adopt(
        settings, context.raw / Path(context.config["weights_dir"] or "").expanduser()
    )
    model, about = adopted.model, {"eval_crop": 224 / 256, "imported_from": None, **adopted.about}
    models.save(context.folder / MODEL_FILE, model, about)
    has_head = about.get("has_head", True)
    return Outcome(
        {
            "arch": about["arch"],
            "num_parameters": adopting.num_parameters(model),
            "num_backbone_parameters": adopting.num_parameters(model.backbone),
            "feature_dim": model.feature_dim,
            "num_classes": model.head.out_features if has_head else None,
            "eps": about["eps"],
            "resolution": about["resolution"],
            "eval_crop": about["eval_crop"],
            "flops": inference_flops(model, about["resolution"]),
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "imagenet_top1": adopted.imagenet_top1,
            "imagenet_top5": adopted.imagenet_top5,
            "licence": adopted.licence,
            "weights": about["imported_from"],
            "sha256": about["sha256"],
        }
    )
