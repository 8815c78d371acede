"""Select a subset's images in the `.beton` files of all source images, without copying them."""

from harness.runner.context import Outcome, StageContext
from harness.stages._subset import resolve_subset, without_images, written_subset
from harness.stages.view.record import ViewMetrics
from harness.stages.write.record import WrittenSplit
from harness.system.array_files import write_arrays
from harness.train.loader_plans import split_path
from writers.beton.selection import class_counts
from writers.beton.store import open_beton


def run(context: StageContext) -> Outcome:
    """Write, for each split, the positions of the selected images, and each class's new label."""
    whole = context.needs["data"].metrics
    classes = list(whole["classes"])
    betons = {split: open_beton(split_path(context, "data", split)) for split in whole["splits"]}
    train = betons["train"].manifest
    counts = dict(zip(train.classes, train.class_counts, strict=True))
    subset = resolve_subset({"name": "view", **context.config["subset"]}, classes, counts, context)
    written: dict[str, WrittenSplit] = {}
    files: dict[str, str] = {}
    for split, beton in betons.items():
        positions, labels = subset.select(split, classes, beton.labels, beton.ids)
        files[split] = f"{split}.npz"
        write_arrays(
            context.folder / files[split],
            {"positions": positions, "labels": subset.label_table(classes)},
        )
        written[split] = {
            "path": whole["splits"][split]["path"],
            "num_samples": len(positions),
            "bytes": beton.manifest.bytes,
            "sha256": beton.manifest.sha256,
        }
        counts_here = class_counts(labels, len(subset.classes)).tolist()
        if absent := without_images(subset.classes, counts_here):
            written[split]["classes_without_images"] = absent
    metrics: ViewMetrics = {
        "splits": written,
        "classes": list(subset.classes),
        "img_per_s": None,
        "subset": written_subset(subset),
        "view": files,
    }
    return Outcome(metrics)
