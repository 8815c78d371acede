"""What one frozen model sees in one target's images: features and probabilities of each split, for scores and linear probes."""

import time
from typing import Any

from harness import model as models
from harness.features import extract, file_of
from harness.stage import Outcome, StageContext, Stopped
from harness.stages.pretrain import MODEL_FILE
from harness.train.plans import eval_plan, split_path
from harness.train.precision import choose
from loaders import open_loader

PROGRESS_EVERY_S = 0.5


def run(context: StageContext) -> Outcome:
    """Metrics: of each split the file, its bytes and images; the sizes; the view, which is the model's own where the config
    says null; whether there are probabilities; of the target its classes. Leaves `<split>.npz`."""
    config = context.config
    model, about = models.load(context.need_folders["model"] / MODEL_FILE)
    model = model.to(context.device)
    resolution, eval_crop = config["resolution"] or about["resolution"], config["eval_crop"] or about["eval_crop"]
    precision = choose(config["precision"], context.device)
    has_head = about.get("has_head", True)
    splits: dict[str, Any] = {}
    started, num_images = time.monotonic(), 0
    present = [split for split in config["splits"] if split in context.needs["data"].metrics["splits"]]
    for split in present:
        plan = eval_plan(split_path(context, "data", split), config["batch_size"], resolution, eval_crop, context)
        with open_loader(plan) as loader:
            seen = extract(model, loader, device=context.device, precision=precision, has_head=has_head,
                           after_batch=_Progress(context, split, loader.num_samples))
        file = file_of(context.folder, split)
        seen.save(file)
        splits[split] = {"file": file.name, "bytes": file.stat().st_size, "num_images": len(seen.labels)}
        num_images += len(seen.labels)
    extract_s = time.monotonic() - started
    return Outcome({"splits": splits, "classes": context.needs["data"].metrics["classes"], "num_features": model.feature_dim,
                    "num_source_classes": model.head.out_features if has_head else None, "has_probs": has_head,
                    "resolution": resolution, "eval_crop": eval_crop, "precision": precision},
                   {"extract_s": extract_s, "img_per_s": num_images / extract_s})


class _Progress:
    """Told after each batch; also where the stage is asked to stop: a split is short, and begins again."""

    def __init__(self, context: StageContext, split: str, total: int) -> None:
        self._context, self._split, self._total = context, split, total
        self._started = self._said = time.monotonic()

    def __call__(self, num_images: int) -> None:
        if self._context.stop_requested():
            raise Stopped
        now = time.monotonic()
        if now - self._said > PROGRESS_EVERY_S:
            self._said = now
            self._context.progress(done=num_images, total=self._total, img_per_s=num_images / (now - self._started),
                                   note=self._split)
