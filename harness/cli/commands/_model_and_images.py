"""Load a model by name and write the `.beton` files of a dataset, for commands without a recipe."""

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.system.folders import Folders
from writers.split_names import SPLITS

if TYPE_CHECKING:
    from harness.modeling.classifier import Classifier
    from writers.beton.provenance import Origin

KEY = re.compile("(?=.*[0-9])[0-9a-f]{6,20}")  # of a stage, or its beginning
WEIGHT_EXTENSIONS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def load_model(name: str, folders: Folders) -> "tuple[Classifier, dict[str, Any]]":
    """Load a model.pt, an exported state dict, a stage's model, or a published model.

    Returns:
        The model, and its description (arch, resolution, ...).

    Raises:
        UserError: there is no such file or model, or its weights cannot be used.
    """
    from pydantic import ValidationError

    from harness.config.model import ModelSettings
    from harness.modeling.pretrained import load_pretrained
    from writers import names
    from writers.errors import UserError
    from writers.regular_file import no_file, other_kind

    path = Path(name).expanduser()
    if path.is_file():
        return load_file(path)
    is_in_folder = "/" in name and path.parent.is_dir()
    if path.suffix in WEIGHT_EXTENSIONS or name.startswith((".", "~", "/")) or is_in_folder:
        files = [file.name for file in path.parent.glob("*.pt") if file.is_file()]
        near = names.nearest(path.name, files)
        raise UserError(
            no_file(name) if other_kind(path) else f"There is no model file {name}.",
            f"Did you mean {' or '.join(near)}?"
            if near
            else "Give a model.pt, or a model's name; see harness ls models.",
        )
    if is_stage_name(name):
        return load_file(model_of_stage(name, folders))
    try:
        settings = ModelSettings(name=name)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(
            f"'{name}' is not a model name: {reason}.", "See harness ls models."
        ) from error
    adopted = load_pretrained(settings, folders.raw / "weights")
    return adopted.model, adopted.about


def is_stage_name(name: str) -> bool:
    """True for a name or a key of a stage, such as pretrain/all/eps0/seed0 or 05da0f3f8b5d."""
    is_library_name = name.partition("/")[0] in ("torchvision", "timm")
    return ("/" in name and not is_library_name) or KEY.fullmatch(name) is not None


def model_of_stage(name: str, folders: Folders) -> Path:
    """Return the model.pt of a stage, by its name or the beginning of its key.

    Raises:
        UserError: no stage or several have this name, or the stage has no model.
    """
    from harness.cli.commands.logs import find_stage
    from writers.errors import UserError

    file = find_stage(name, folders) / "model.pt"
    if not file.is_file():
        raise UserError(
            f"The stage {name} has no model.pt.",
            "Give a finished stage that saves a model: pretrain, adopt, or a transfer whose method "
            "has keep_model: true. harness status lists stages.",
        )
    return file


def load_file(path: Path) -> "tuple[Classifier, dict[str, Any]]":
    """Load a model.pt, or a state dict that `harness export` wrote.

    Raises:
        UserError: it is another file, or a weight is not finite.
    """
    from harness.modeling import classifier, export
    from writers.errors import UserError

    if path.suffix == ".onnx":
        raise UserError(
            f"{path} is an ONNX file, whose weights are not read.",
            "Give the model.pt, or an export of it by --format torchvision or timm.",
        )
    model, about = (export.read if path.suffix == ".safetensors" else classifier.load)(path)
    for tensor_name, tensor in model.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise UserError(
                f"{path} has weights that are not finite numbers, such as {tensor_name}.",
                "Use a checkpoint from before its training diverged.",
            )
    return model, about


def own_resolution(model: "Classifier", about: dict[str, Any]) -> int | None:
    """Resolution in pixels that a model was trained for; None if its file does not state it."""
    stated = about.get("resolution")
    is_valid = isinstance(stated, int) and not isinstance(stated, bool) and stated >= 1
    return model.fixed_size or (stated if is_valid else None)


def image_resolution(
    name: str, model: "Classifier", about: dict[str, Any], chosen: int | None
) -> int:
    """Resolution in pixels of a model's images: the value of --resolution, or the model's own.

    Args:
        name: Name or file of the model, for messages.
        model: The network.
        about: Description of the model, from `load_model`.
        chosen: Value of --resolution; None if it is not given.

    Raises:
        UserError: neither is known, or the network accepts only images of another size.
    """
    from writers.errors import UserError

    if chosen is not None and model.fixed_size not in (None, chosen):
        raise UserError(
            f"{name} takes images of {model.fixed_size} pixels per side only, not of {chosen}.",
            "Leave out --resolution.",
        )
    resolution = chosen or own_resolution(model, about)
    if resolution is None:
        raise UserError(
            f"{name} does not state the resolution that the model was trained for.",
            "Pass it with --resolution PIXELS.",
        )
    return resolution


def write_betons(
    dataset: str,
    source: Path | None,
    protocol: str | None,
    folders: Folders,
    splits: Collection[str] = SPLITS,
    option: str = "--source",
    test_share: float = 0.0,
) -> dict[str, Path]:
    """Write the `.beton` files of `splits` that do not exist or differ from the dataset's images.

    Args:
        dataset: name in `writers/datasets`, or `folder`.
        source: the images. None means the dataset's folder in the raw folder.
        protocol: splits, other than the dataset's own.
        folders: folders of betons and raw downloads.
        splits: splits to write.
        option: option of the command that sets `source`, for the message that it is missing.
        test_share: fraction of train that becomes test if the dataset has none. These betons are
            in a folder of their own.

    Returns:
        Split -> path.

    Raises:
        UserError: The images are not there, or cannot be read.
    """
    import click

    from harness.cli import console
    from harness.cli.commands._raw_images import check_images
    from harness.config.data import DataSettings
    from harness.config.raw_paths import raw_path
    from harness.system import environment
    from writers.beton.encoding import Encoding
    from writers.beton.provenance import open_with_origin, record
    from writers.beton.write import write_split
    from writers.dataset import SplitSettings
    from writers.subset.spec import everything
    from writers.text_names import percent

    settings = DataSettings(
        dataset=dataset,
        path=str(source.expanduser().absolute()) if source else None,
        protocol=protocol,
    )
    path = raw_path(settings, folders.raw)
    if source is None and not path.exists() and path.with_suffix(".tar").is_file():
        path = path.with_suffix(".tar")
    check_images(settings.dataset, path, option)
    splitting = SplitSettings(protocol=protocol)
    opened, origin = open_with_origin(settings.dataset, [path], splitting)
    label = f"{settings.label}{f'-{protocol}' if protocol else ''}"
    if test_share and not opened.splits.get("test"):
        click.echo(
            f"{path} has no test split: {percent(test_share, 0)} % of its training images are "
            "drawn.",
            err=True,
        )
        splitting = replace(splitting, test=test_share)
        opened, origin = open_with_origin(settings.dataset, [path], splitting)
        label += f"-test{round(100 * test_share)}"
    folder = folders.data / f"{label}-all"
    written = {}
    for split, examples in opened.splits.items():
        if not examples or split not in splits:
            continue
        written[split] = folder / f"{split}.beton"
        if not _is_current(written[split], len(examples), origin):
            with console.progress(f"write {split}") as report:
                manifest = write_split(
                    opened,
                    split,
                    everything(opened.classes),
                    Encoding(),
                    written[split],
                    progress=report,
                    num_threads=environment.num_cores(),
                )
            record(written[split], manifest, origin)
    return written


def _is_current(file: Path, num_images: int, origin: "Origin | None") -> bool:
    """Return True if the beton has these images.

    If the origin (record of the raw files) of either is unknown, only their numbers are compared.
    """
    from writers.beton.provenance import recorded
    from writers.beton.store import open_beton
    from writers.errors import UserError

    try:
        manifest = open_beton(file).manifest
    except UserError:
        return False
    if manifest.num_samples != num_images:
        return False
    known = recorded(file, manifest)
    return origin is None or known is None or known == origin
