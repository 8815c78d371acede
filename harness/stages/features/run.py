"""Extract a frozen model's features and probabilities for the images of a target.

Scores, linear probes and logistic regressions use them.
"""

import time

from harness.modeling import classifier
from harness.modeling.precision import choose
from harness.runner.context import Outcome, StageContext
from harness.stages._progress import PassProgress
from harness.stages.features.record import FeaturesMetrics, FeatureSplit, FeaturesTiming
from harness.stages.pretrain.spec import MODEL_FILE
from harness.train.loader_plans import choose_interpolation, eval_plan, split_path
from harness.transfer.features import extract, file_of
from loaders import open_loader


def run(context: StageContext) -> Outcome:
    """Write `<split>.npz` for each split that both the config and the target have.

    If resolution or crop is None in the config, the model's own is used. If the network takes
    images of one size only, that size is used.
    """
    config = context.config
    model, about = classifier.load(context.need_folders["model"] / MODEL_FILE)
    model = model.to(context.device)
    resolution = model.fixed_size or config["resolution"] or about["resolution"]
    eval_crop = config["eval_crop"] or about["eval_crop"]
    interpolation = choose_interpolation(config.get("interpolation", "auto"), about)
    precision = choose(config["precision"], context.device)
    has_head = about.get("has_head", True) and config.get("probs", True)
    splits: dict[str, FeatureSplit] = {}
    started, num_images = time.monotonic(), 0
    target = context.needs["data"].metrics
    for split in (split for split in config["splits"] if split in target["splits"]):
        plan = eval_plan(
            split_path(context, "data", split),
            config["batch_size"],
            resolution,
            eval_crop,
            context,
            interpolation,
        )
        with open_loader(plan) as loader:
            features = extract(
                model,
                loader,
                device=context.device,
                precision=precision,
                has_head=has_head,
                after_batch=PassProgress(context, loader, split),
            )
        file = file_of(context.folder, split)
        features.save(file)
        splits[split] = {
            "file": file.name,
            "bytes": file.stat().st_size,
            "num_images": len(features.labels),
        }
        num_images += len(features.labels)
    extract_s = time.monotonic() - started
    metrics: FeaturesMetrics = {
        "splits": splits,
        "classes": target["classes"],
        "num_features": model.feature_dim,
        "num_source_classes": model.head.out_features if has_head else None,
        "has_probs": has_head,
        "resolution": resolution,
        "eval_crop": eval_crop,
        "interpolation": interpolation,
        "precision": precision,
    }
    timing: FeaturesTiming = {"extract_s": extract_s, "img_per_s": num_images / extract_s}
    return Outcome(metrics, timing)
