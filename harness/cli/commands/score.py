"""Compute transferability scores of a model for a dataset, without fine-tuning."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import completion
from harness.cli.number_types import FloatType
from harness.cli.options import (
    batch_size_option,
    device_option,
    folder_options,
    resolution_option,
)
from harness.cli.path_types import PathType
from harness.system.folders import Folders
from writers.text_names import counted, percent

if TYPE_CHECKING:
    from harness.transfer.features import Features


@click.command(
    short_help="Estimate how well a model transfers to a dataset: kNN, LEEP, LogME and others."
)
@click.option(
    "--model",
    "model_name",
    required=True,
    metavar="MODEL",
    help="A stage that trained or loaded a model, by name or key; a model.pt; a model.safetensors "
    "of harness export; a model packaged with its weights, such as efficientnet_lite0; or "
    "torchvision/NAME or timm/NAME, with weights in the cache of that library or in weights/ of "
    "the raw folder.",
)
@click.option(
    "--dataset",
    required=True,
    metavar="NAME",
    shell_complete=completion.datasets,
    help="Dataset; see harness ls datasets.",
)
@click.option(
    "--source",
    type=PathType(),
    metavar="DIR|TAR|ZIP",
    help="Images of the dataset. Default: <dataset> or <dataset>.tar in the raw folder.",
)
@click.option(
    "--scores",
    "score_names",
    metavar="NAMES",
    help="Scores, separated by commas. Default: all; see harness ls scores.",
)
@click.option(
    "--probe",
    is_flag=True,
    help="Also fit a logistic regression: penalty chosen on val, fitted on train and val, "
    "evaluated on test. If the dataset has no test, a fifth of train is drawn, as in recipes.",
)
@click.option(
    "--protocol",
    metavar="NAME",
    help="Protocol that defines the splits. Default: the dataset's own.",
)
@resolution_option
@click.option(
    "--eval-crop",
    type=FloatType(0, 1, min_open=True),
    default=224 / 256,
    show_default="224/256",
    help="Side of the center crop, as a fraction of the shorter side.",
)
@batch_size_option(128)
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@folder_options
def command(
    model_name: str,
    dataset: str,
    source: Path | None,
    score_names: str | None,
    probe: bool,
    protocol: str | None,
    resolution: int | None,
    eval_crop: float,
    batch_size: int,
    device: str,
    as_json: bool,
    folders: Folders,
) -> None:
    """Compute how well a model suits a dataset, from one pass over its training images.

    \b
    Examples:
    harness score --model efficientnet_lite0 --dataset grocery
    harness score --model robust.pt --dataset pets --source pets/ --scores knn
    """
    from harness.cli import console
    from harness.cli.commands._model_and_images import image_resolution, load_model, write_betons
    from harness.config.data import DataSettings
    from harness.system import environment
    from harness.system.gpu import select_gpu
    from harness.transfer import score
    from writers import names

    wanted = (
        [name.strip() for name in score_names.rstrip(", ").split(",")]
        if score_names
        else names.names("harness.transfer.scores")
    )
    for name in wanted:
        score.find(name)  # unknown scores raise before anything is written
    select_gpu(device)
    classifier, about = load_model(model_name, folders)
    resolution = image_resolution(model_name, classifier, about, resolution)
    test_share = DataSettings.model_fields["test"].default if probe else 0.0
    betons = write_betons(dataset, source, protocol, folders, test_share=test_share)
    classifier = classifier.to(device)

    def features_of(split: str) -> "Features | None":
        from harness.train.loader_plans import choose_interpolation
        from harness.transfer.features import extract
        from loaders import open_loader
        from loaders.plan import LoaderPlan

        if split not in betons:
            return None
        plan = LoaderPlan(
            betons[split],
            batch_size,
            resolution,
            center_fraction=eval_crop,
            interpolation=choose_interpolation("auto", about),
            device=device,
            num_threads=environment.num_cores(),
        )
        with open_loader(plan) as loader:
            return extract(
                classifier,
                loader,
                device=device,
                precision="float32",
                has_head=about.get("has_head", True),
            )

    train = features_of("train")
    assert train is not None
    computed = score.compute(
        wanted, features=train.features, probs=train.probs, labels=train.labels, device=device
    )
    record: dict[str, Any] = {
        "model": model_name,
        "dataset": dataset,
        "num_images": len(train.labels),
        "num_features": train.features.shape[1],
        "num_duplicates": computed.num_duplicates,
        "scores": computed.scores,
        "failed": computed.failed,
        "details": computed.details,
        "seconds": computed.seconds,
    }
    if probe:
        from harness.transfer.linear_probe import linear_probe

        record["probe"] = linear_probe(
            train, features_of("val"), features_of("test"), device=device
        )
    if as_json:
        click.echo(json.dumps(record, indent=1))
        return
    terminal = console.out()
    terminal.print(
        f"{model_name} on {dataset}: {record['num_images']:,} training images, "
        f"{record['num_features']} features"
    )
    for name, value in computed.scores.items():
        terminal.print(
            f"  {name:13} "
            + (f"{percent(value, 1)} %" if name.startswith("knn") else f"{value:.4f}")
        )
    for name, reason in computed.failed.items():
        terminal.print(f"  {name:13} not computed: {reason}", markup=False)
    if computed.num_duplicates:
        terminal.print(
            f"  {counted(computed.num_duplicates, 'image', ('has', 'have'))} the features of an "
            "earlier one: kNN is overestimated"
        )
    if probe:
        result = record["probe"]
        terminal.print(
            f"  logistic regression: {percent(result['top1'], 1)} % top-1, "
            f"{percent(result['mean_per_class'], 1)} % mean per class on {result['num_test']:,} "
            f"test images; lambda {result['penalty']:.3g}, "
            f"one of {result['num_configs']}, chosen on {result['selected_on']}"
        )
        for remark in result["remarks"]:
            terminal.print(f"  {remark}")
