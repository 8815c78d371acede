"""Find the inputs of a recipe that cannot be read: images, tables, checkpoints and class lists."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.config.data import BETON, DataSettings
from harness.config.inputs import Checkpoint, ClassList, Images, Input, inputs_of_model
from writers.dataset import spec_of
from writers.errors import UserError
from writers.subset.spec import named

if TYPE_CHECKING:
    from harness.config.recipe import Recipe

MAX_NEARBY = 1000  # files next to a missing one whose names are compared with its name


class MissingInput(NamedTuple):
    """An input that cannot be read.

    Attributes:
        label: name in messages, such as "images of pets".
        reason: sentences that name the path, and the fix if it is known.
    """

    label: str
    reason: str

    def __str__(self) -> str:
        return f"{self.label}: {self.reason}"


def find(
    recipe: "Recipe", raw: Path, datasets: Collection[str], models: Collection[str]
) -> list[MissingInput]:
    """Find the inputs of some datasets and models that cannot be read on this machine.

    Published weights of torchvision and timm are not looked up: importing these libraries takes
    seconds, and a recipe may name all their models to use those whose weights are present.

    Args:
        recipe: the recipe.
        raw: folder of raw downloads.
        datasets: labels of the datasets that have yet to be written.
        models: names of the models that have yet to be loaded.
    """
    inputs: list[Input] = [
        Images(data)
        for _, data in recipe.datasets
        if data.label in datasets and not spec_of(data.dataset).generated
    ]
    for model in recipe.models:
        if model.name in models:
            inputs += inputs_of_model(model, recipe.weights_dir)
    return [MissingInput(item.label, reason) for item in inputs for reason in _reasons(item, raw)]


def where_to_get(dataset: str) -> str:
    """Describe where to get the images of a dataset, after a space; "" for one's own images."""
    spec = spec_of(dataset)
    if dataset in ("folder", BETON):
        return ""
    is_served = any(download.url for download in spec.downloads)
    command = f". `harness download {spec.name}` fetches what is published." if is_served else ""
    return f" {spec.title}: {spec.where}{command}"


def _reasons(item: Input, raw: Path) -> Iterator[str]:
    path = item.path(raw)
    if isinstance(item, Images):
        yield from _reasons_of_images(item.data, path)
        table = item.table(raw)
        for file in table.paths if table else ():
            if not file.exists():
                yield f"There is no table of labels {file}."
    elif isinstance(item, Checkpoint) and not path.exists():
        here = _in_current_folder(item.model.checkpoint)
        hint = f" {here} is in the current folder: move it, or give its absolute path."
        yield f"There is no {path}.{hint if here else _similar(path)}"
    elif isinstance(item, ClassList):
        try:
            named(item.model.classes or "")
        except UserError as error:
            yield str(error).replace("\n", " ")


def _reasons_of_images(data: DataSettings, path: Path) -> Iterator[str]:
    if not path.exists():
        here = _in_current_folder(data.path)
        hint = f" {here} is in the current folder: pass --raw-dir . to use it."
        where = where_to_get(data.dataset) or _similar(path)
        yield f"There is no {path}.{hint if here else where}"
    elif data.is_beton:
        files = sorted(path.glob("*.beton")) if path.is_dir() else [path]
        if not files:
            yield f"{path} has no betons."
        for file in files:
            # `writers.beton.store.manifest_path`, whose module imports numpy.
            if not (manifest := file.with_name(f"{file.name}.json")).exists():
                yield (
                    f"{file} has no manifest ({manifest.name}). If FFCV wrote it, run "
                    f"harness adopt-beton {file}."
                )
    elif path.is_dir() and not any(path.iterdir()):
        yield f"{path} is empty."


def _similar(path: Path) -> str:
    """Suggest files or folders next to the path with a similar name, after a space."""
    with suppress(OSError):
        nearby = [file.name for file in islice(path.parent.iterdir(), MAX_NEARBY)]
        if near := get_close_matches(path.name, sorted(nearby), cutoff=0.8):
            return f" Did you mean {' or '.join(near)}?"
    return ""


def _in_current_folder(name: str | None) -> Path | None:
    """Return the path if it exists relative to the current folder, instead of the raw folder."""
    here = Path(name).expanduser() if name else None
    return here if here is not None and here.exists() else None
