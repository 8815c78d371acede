"""Export a model for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import folder_options
from harness.cli.path_types import PathType
from harness.system.folders import Folders

if TYPE_CHECKING:
    from harness.runner.result import Result
    from loaders.interpolation import Interpolation

FORMATS = ("torchvision", "timm", "onnx")


@click.command(short_help="Export a model to torchvision, timm or ONNX, with a model card.")
@click.argument("model", metavar="STAGE|MODEL")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(FORMATS),
    help="torchvision and timm: a state dict in safetensors. onnx: a graph with normalization.",
)
@click.option(
    "--out",
    required=True,
    type=PathType(file=False, written=True),
    metavar="DIR",
    help="Folder to write.",
)
@folder_options
def command(model: str, form: str, out: Path, folders: Folders) -> None:
    """Export a model that other programs load, with a model card.

    STAGE|MODEL is the name or key of a stage that trained or loaded a model, a model.pt, or a name
    of harness ls models. The logits of the exported file are compared with the model's.

    \b
    Examples:
    harness export pretrain/all/eps0/seed0 --format onnx --out exported
    harness export model.pt --format torchvision --out exported
    """
    from harness.cli.commands._model_and_images import own_resolution
    from harness.modeling import export, model_card
    from harness.modeling.classifier import Classifier
    from harness.system.atomic_write import write_atomically

    loaded: Classifier
    loaded, about, record = _load(model, folders)
    resolution = own_resolution(loaded, about) or 224
    exported = export.export(loaded, about, form, out, resolution)  # type: ignore[arg-type]
    view = _view(record, about, resolution)
    side = resolution if form == "onnx" else view.side  # a graph takes one size
    prepare = model_card.preparation(view.crop, side, view.interpolation)
    input_text = (
        "Pixels are in [0, 1]; the file normalizes them."
        if form == "onnx"
        else "Pixels are in [0, 1] before the normalization below; the weights expect it."
    )
    text = model_card.card(
        name=record.name if record else model,
        about=about,
        file=exported.file,
        usage=prepare + exported.usage,
        input_text=input_text,
        max_difference=exported.max_difference,
        metrics=record.metrics if record else {},
        inputs=record.inputs if record else {},
        license_notes=_license_notes(record, about),
        recipe=_recipe(record, folders),
        view=str(view) if view.was_used else "",
    )
    write_atomically(out / "README.md", text.encode())
    classes = [str(name) for name in about.get("classes") or ()]
    if classes:
        write_atomically(out / "classes.txt", ("\n".join(classes) + "\n").encode())
    click.echo(exported.file)
    click.echo(out / "README.md")
    if classes:
        click.echo(out / "classes.txt")


def _load(name: str, folders: Folders) -> "tuple[Any, dict[str, Any], Result | None]":
    """Load a model by file, stage or name, with its metadata and the stage's result.

    The result is None for a model that is not stored in the folder of a stage.

    Raises:
        UserError: nothing has this name, or the stage has no model.
    """
    from harness.cli.commands._model_and_images import load_model, model_of_stage
    from harness.modeling import classifier
    from harness.runner import result
    from writers import names
    from writers.errors import UserError
    from writers.regular_file import no_file

    path = Path(name).expanduser()
    if path.is_dir() and (path / "model.pt").is_file():
        path = path / "model.pt"
    looks_like_file = path.suffix == ".pt" or path.is_file()
    if looks_like_file and not path.is_file():
        raise UserError(no_file(path), "Give a stage, a model.pt, or a model's name.")
    is_library_name = name.partition("/")[0] in ("torchvision", "timm")
    if looks_like_file or is_library_name or name in names.names("harness.modeling.archs"):
        model, about = load_model(str(path) if looks_like_file else name, folders)
        record = None
        if looks_like_file and (path.parent / result.FILE_NAME).is_file():
            record = result.load(path.resolve().parent)
        return model, about, record
    file = model_of_stage(name, folders)
    model, about = classifier.load(file)
    return model, about, result.load(file.parent)


def _license_notes(record: "Result | None", about: dict[str, Any]) -> list[str]:
    """Return what is known about the terms of the weights' sources."""
    notes = []
    axes = record.axes if record else {}
    dataset = axes.get("dataset") or axes.get("target") or ""
    metrics = record.metrics if record else {}
    license = metrics.get("licence")
    if license:
        notes.append(f"The weights were published under {license}.")
    if about.get("imported_from"):
        notes.append("The weights are converted; the terms of their publisher apply.")
    if not about.get("imported_from") or (record and record.kind == "transfer"):
        data = f" {dataset}" if dataset else ""
        notes.append(f"The terms of the training data{data} apply to the use of the weights.")
    return notes


@dataclass(frozen=True)
class _View:
    """How images are cropped and resized for a model.

    Attributes:
        crop: side of the center crop, as a fraction of the shorter side.
        side: side of the model's images, in pixels.
        interpolation: filter of the resize.
        was_used: True if the accuracies of the card were measured with it.
    """

    crop: float
    side: int
    interpolation: "Interpolation"
    was_used: bool

    def __str__(self) -> str:
        return (
            f"Each image is its center crop of {100 * self.crop:g} % of the shorter side, resized "
            f"to {self.side} x {self.side} pixels (interpolation: {self.interpolation})."
        )


def _view(record: "Result | None", about: dict[str, Any], resolution: int) -> _View:
    """Return the view of the evaluation; the default one if the model was not trained here."""
    from harness.config.train import PretrainSettings
    from harness.train.loader_plans import choose_interpolation

    interpolation = choose_interpolation("auto", about)
    if record is not None and record.kind == "transfer":
        return _View(about["eval_crop"], about["resolution"], interpolation, True)
    if record is None or record.kind != "pretrain":
        return _View(about.get("eval_crop") or 224 / 256, resolution, interpolation, False)
    settings = PretrainSettings.model_validate(record.config["settings"])
    side = settings.eval_resolution or settings.resolution
    return _View(settings.eval_crop, side, interpolation, True)


def _recipe(record: "Result | None", folders: Folders) -> str:
    """Return the text of the recipe that requested the stage; "" if it is unknown."""
    if record is None or not record.recipe:
        return ""
    file = folders.runs / record.recipe
    return file.read_text() if file.is_file() else ""
