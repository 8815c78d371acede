"""Write a dataset, with all of its classes or a subset of them, as `.beton` files."""

import time
from pathlib import Path

from harness.config.data import DataSettings
from harness.config.raw_paths import label_table, raw_path
from harness.runner.context import Outcome, StageContext, Stopped
from harness.stages._subset import resolve_subset, without_images, written_subset
from harness.stages.write.raw_input import RawInput
from harness.stages.write.record import WriteMetrics, WriteTiming, WrittenSplit
from writers.beton import store
from writers.beton.encoding import Encoding
from writers.beton.provenance import Origin, open_with_origin, record, recorded
from writers.beton.reuse import reuse_samples
from writers.beton.selection import select_images
from writers.beton.store import Manifest
from writers.beton.write import write_split
from writers.check import accepted_differences
from writers.dataset import SplitSettings, spec_of
from writers.errors import UserError
from writers.labels.kinds import ONE_LABEL, kind_of_metric
from writers.source import Source
from writers.subset.spec import Subset, everything
from writers.text_names import file_name

PROGRESS_EVERY_S = 0.5
ORDER_SEED = 0  # seed of the order of images in a beton; the default of `write_split`


def run(context: StageContext) -> Outcome:
    """Write the splits of the config into the data folder.

    If a complete beton of this stage exists, it is kept, unless its raw files may have changed.
    Encoded images are copied from another beton in the data folder if encoding them again would
    certainly give the same bytes.

    Raises:
        Stopped: a stop was requested.
        UserError: the raw files are missing, damaged or changed since the run was planned, or the
            recipe's settings do not fit them.
    """
    config = context.config
    data = DataSettings.model_validate(config["data"])
    raw_files = config.get("raw_files")
    raw = RawInput(data, raw_files, context) if raw_files is not None else None
    source, origin = _open_source(context, data)
    read = raw.digest_reads(source) if raw is not None else None
    subset = (
        everything(source.classes)
        if config["subset"] is None
        else resolve_subset(config["subset"], source.classes, source.class_counts(), context)
    )
    encoding = Encoding.model_validate(config["encoding"])
    folder = context.data / file_name(f"{data.label}-{subset.name}-{context.folder.name}")
    written: dict[str, WrittenSplit] = {}
    copied_from: dict[str, str] = {}
    num_encoded, encoding_s = 0, 0.0
    for split in config["splits"]:
        file = folder / f"{split}.beton"
        manifest = _finished(file, source, split, subset, origin, raw)
        if manifest is None:
            started, progress = time.monotonic(), _progress(context, split)
            if reused := reuse_samples(
                source,
                split,
                subset,
                encoding,
                file,
                origin=origin,
                folder=context.data,
                progress=progress,
            ):
                manifest = reused.manifest
                copied_from[split] = str(reused.beton.relative_to(context.data))
            else:
                manifest = write_split(
                    source,
                    split,
                    subset,
                    encoding,
                    file,
                    num_threads=context.num_threads,
                    progress=progress,
                    on_error=data.on_error,
                    warn=print,
                )
                num_encoded += manifest.num_samples
                encoding_s += time.monotonic() - started
            record(file, manifest, origin)
        for entry in manifest.skipped if data.on_error == "skip" else ():
            print(f"{split}: left out {entry['name']}: {entry['reason']}", flush=True)
        written[split] = {
            "path": str(file.relative_to(context.data)),
            "num_samples": manifest.num_samples,
            "bytes": manifest.bytes,
            "sha256": manifest.sha256,
        }
        if absent := without_images(manifest.classes, manifest.class_counts):
            written[split]["classes_without_images"] = absent
    if raw is not None and read is not None:
        used = [
            example
            for split in config["splits"]
            for example in select_images(source, split, subset, ORDER_SEED).examples
        ]
        raw.record(
            source,
            read,
            used,
            lambda num_files: context.progress(note=f"digests of {num_files} raw files"),
        )
    metrics: WriteMetrics = {
        "splits": written,
        "classes": list(subset.classes),
        "img_per_s": num_encoded / encoding_s if num_encoded else None,
        "subset": written_subset(subset),
    }
    timing: WriteTiming = {"copied_from": copied_from} if copied_from else {}
    return Outcome(metrics, timing)


def _open_source(context: StageContext, data: DataSettings) -> tuple[Source, Origin | None]:
    """Open the raw files, and check labels and counts. Returns the source and its origin."""
    # If the stage writes no test split, as for a pretraining dataset, its images stay in train.
    test = data.test if "test" in context.config["splits"] else 0.0
    splits = SplitSettings(
        data.val, test, data.split_seed, data.protocol, data.folders, data.on_error == "skip"
    )
    source, origin = open_with_origin(
        data.dataset, [raw_path(data, context.raw)], splits, label_table(data, context.raw)
    )
    _check_several(source, data)
    for omission in source.omissions:
        print(f"Not read: {omission}", flush=True)
    source.differences = accepted_differences(
        source, spec_of(data.dataset), accept=data.accept_counts
    )
    return source, origin


def _check_several(source: Source, data: DataSettings) -> None:
    """Raise UserError if the recipe declares one label and images have several, or vice versa."""
    if data.is_beton:  # its metric fits its manifest
        return
    needs_one = kind_of_metric(data.own_metric) == ONE_LABEL
    if source.multi_label and needs_one:
        raise UserError(
            f"Images of {data.label} have several labels.",
            "Set `metric: map11`, the mean average precision.",
        )
    if not source.multi_label and not needs_one:
        raise UserError(
            f"Images of {data.label} have one label each, and its metric is {data.own_metric}.",
            "Remove `metric`, or set `several: true` of its `labels`.",
        )


def _finished(
    file: Path,
    source: Source,
    split: str,
    subset: Subset,
    origin: Origin | None,
    raw: RawInput | None,
) -> Manifest | None:
    """Read the manifest of a beton that needs not be written; None if there is no such beton.

    That is a complete beton of this stage. If the record of its raw files differs from `origin`,
    the digests of all used files must be recorded for the contents that were planned.
    """
    try:
        manifest = store.open_beton(file).manifest
    except UserError:
        return None
    if raw is not None and recorded(file, manifest) != origin:
        examples = select_images(source, split, subset, ORDER_SEED).examples
        return manifest if raw.is_recorded(source, examples) else None
    return manifest


def _progress(context: StageContext, split: str) -> store.Progress:
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if context.stop_requested():
            raise Stopped  # leaves no incomplete beton under the final name
        now = time.monotonic()
        if now - last > PROGRESS_EVERY_S:
            last = now
            context.progress(done=done, total=total, note=split)

    return report
