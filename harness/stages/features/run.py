"""What one frozen model sees in one target's images: features and probabilities of each split, for scores and linear probes."""

import time
from typing import Any

from harness.modeling import classifier as models
from harness.modeling.precision import choose
from harness.runner.context import Outcome, StageContext
from harness.stages._progress import PassProgress
from harness.stages.pretrain.spec import MODEL_FILE
from harness.train.loader_plans import eval_plan, split_path
from harness.transfer.features import extract, file_of
from loaders import open_loader


def run(context: StageContext) -> Outcome:
    """Metrics: of each split the file, its bytes and images; the sizes; the view, which is the model's own where the config
    says null, and where the network takes images of one size only; whether there are probabilities; of the target its classes.
    Leaves `<split>.npz`."""
    config = context.config
    model, about = models.load(context.need_folders["model"] / MODEL_FILE)
    model = model.to(context.device)
    resolution = model.fixed_size or config["resolution"] or about["resolution"]
    eval_crop = config["eval_crop"] or about["eval_crop"]
    precision = choose(config["precision"], context.device)
    has_head = about.get("has_head", True)
    splits: dict[str, Any] = {}
    started, num_images = time.monotonic(), 0
    present = [
        split for split in config["splits"] if split in context.needs["data"].metrics["splits"]
    ]
    for split in present:
        plan = eval_plan(
            split_path(context, "data", split), config["batch_size"], resolution, eval_crop, context
        )
        with open_loader(plan) as loader:
            seen = extract(
                model,
                loader,
                device=context.device,
                precision=precision,
                has_head=has_head,
                after_batch=PassProgress(context, loader, split),
            )
        file = file_of(context.folder, split)
        seen.save(file)
        splits[split] = {
            "file": file.name,
            "bytes": file.stat().st_size,
            "num_images": len(seen.labels),
        }
        num_images += len(seen.labels)
    extract_s = time.monotonic() - started
    return Outcome(
        {
            "splits": splits,
            "classes": context.needs["data"].metrics["classes"],
            "num_features": model.feature_dim,
            "num_source_classes": model.head.out_features if has_head else None,
            "has_probs": has_head,
            "resolution": resolution,
            "eval_crop": eval_crop,
            "precision": precision,
        },
        {"extract_s": extract_s, "img_per_s": num_images / extract_s},
    )
