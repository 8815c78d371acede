"""Convert arguments of `Loader` that a `LoaderPlan` has in one form only: subset and device."""

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from writers.beton.class_counts import training_images
from writers.beton.store import open_beton
from writers.errors import UserError
from writers.settings_errors import sentence
from writers.subset.spec import Subset, SubsetSpec, named, resolve
from writers.text_names import counted


def subset_of(subset: Any, path: Path) -> Subset | None:
    """Return a subset of the classes of the beton at `path`.

    Args:
        subset: a subset or its specification; the name of a subset, or its file, as in
            `harness write-beton --subset`; or names of classes. None means no subset.
        path: the beton. Class counts are those of its folder's train.beton.

    Raises:
        UserError: no subset has this name, the beton lacks a class, or `subset` is another value.
    """
    if subset is None or isinstance(subset, Subset):
        return subset
    beton = open_beton(path)
    classes = beton.manifest.classes
    if isinstance(subset, str | Path):
        try:
            spec = named(str(subset))
        except UserError as error:
            if subset not in classes:
                raise
            raise UserError(error.message, f"For one class, use subset=[{subset!r}].") from None
    elif isinstance(subset, SubsetSpec):
        spec = subset
    else:
        spec = _listed(subset)
    return resolve(spec, classes, class_counts=training_images(beton))


def _listed(names_of_classes: Any) -> SubsetSpec:
    """Return the specification of a list of classes. Raises UserError for other values."""
    reason = "."
    if isinstance(names_of_classes, list | tuple):
        try:
            return SubsetSpec(name="listed", classes=tuple(names_of_classes))
        except ValidationError as error:
            reason = f": {sentence(error.errors()[0])}"
    raise UserError(
        f"Loader.subset is {names_of_classes!r}, which is no subset{reason}",
        "Give the name of a subset, such as 'in900', or a list of names of classes.",
    )


def device_of(device: Any) -> str:
    """Return the device of a plan with the number of its GPU: "cuda" becomes "cuda:0".

    Raises:
        UserError: torch does not know the device or cannot use a GPU, or this GPU does not exist.
    """
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"Loader.device is {device!r}, which torch does not know.",
            "Use 'cpu', 'cuda' or 'cuda:N'.",
        ) from error
    if parsed.type != "cuda":
        return str(parsed)
    if not torch.cuda.is_available():
        raise UserError(
            f"Loader.device is {device!r}, but this torch ({torch.__version__}) cannot use a GPU.",
            "Install a torch built for the driver's CUDA, or use device='cpu'.",
        )
    index = torch.cuda.current_device() if parsed.index is None else parsed.index
    if index >= torch.cuda.device_count():
        raise UserError(
            f"Loader.device is {device!r}, but this process sees "
            f"{counted(torch.cuda.device_count(), 'GPU')}.",
            "Use a smaller number, or change CUDA_VISIBLE_DEVICES.",
        )
    return f"cuda:{index}"
