"""Load a pretrained model and save it as `model.pt`, in the format of a pretrain stage."""

from pathlib import Path

from harness.config.inputs import PublishedWeights
from harness.config.model import ModelSettings
from harness.modeling import classifier, import_notes, pretrained
from harness.modeling.flops import inference_flops
from harness.runner import inputs
from harness.runner.context import Outcome, StageContext
from harness.stages.adopt.record import AdoptMetrics
from harness.stages.pretrain.spec import MODEL_FILE
from writers.errors import UserError


def run(context: StageContext) -> Outcome:
    """Load the weights that the config names, and describe them.

    Raises:
        UserError: the weights are missing, do not fit the model, or have changed since the run was
            planned.
    """
    settings = ModelSettings.model_validate(context.config["model"])
    weights_dir = context.raw / Path(context.config["weights_dir"] or "").expanduser()
    loaded = pretrained.load_pretrained(settings, weights_dir)
    model, about = loaded.model, {"eval_crop": 224 / 256, "imported_from": None, **loaded.about}
    if choice := import_notes.choice_of(about):
        print(choice)  # into the stage's log
    about["interpolation"] = settings.interpolation or about.get("interpolation", "area")
    classifier.save(context.folder / MODEL_FILE, model, about)
    expected = context.config.get("weights_file")
    if expected is not None and not str(about["sha256"]).startswith(expected):
        raise UserError(
            f"The weights of {settings.name} have changed since this run was planned.",
            "Run the same command again.",
        )
    if settings.checkpoint is None and about["sha256"] is not None and "/" in settings.name:
        weights = PublishedWeights(settings, context.config["weights_dir"] or "")
        runs = context.folder.parents[2]
        inputs.record_weights(weights, about["imported_from"], about["sha256"], runs)
    has_head = about.get("has_head", True)
    metrics: AdoptMetrics = {
        "arch": about["arch"],
        "num_parameters": pretrained.num_parameters(model),
        "num_backbone_parameters": pretrained.num_parameters(model.backbone),
        "feature_dim": model.feature_dim,
        "num_classes": model.head.out_features if has_head else None,
        "eps": about["eps"],
        "resolution": about["resolution"],
        "eval_crop": about["eval_crop"],
        "interpolation": about["interpolation"],
        "flops": inference_flops(model, about["resolution"]),
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "imagenet_top1": loaded.imagenet_top1,
        "imagenet_top5": loaded.imagenet_top5,
        "licence": loaded.license,
        "training": loaded.training,
        "weights": about["imported_from"],
        "sha256": about["sha256"],
    }
    return Outcome(metrics)
