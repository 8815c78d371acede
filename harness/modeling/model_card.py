"""Write the model card of an exported model: its description, usage, data and metrics."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loaders.interpolation import Interpolation
from writers.text_names import percent

MAX_CLASSES = 50  # the card lists at most this number; classes.txt lists all
_NUMBERS = ("num_train_images", "num_steps", "num_parameters", "precision")


def preparation(center_fraction: float, size: int, interpolation: Interpolation) -> str:
    """Return lines of Python that make `images`, float [1, 3, size, size], from `photo.jpg`.

    They crop and resize as `loaders` does; pixels may differ by 1 of 255, due to rounding.

    Args:
        center_fraction: side of the center crop, as a fraction of the shorter side.
        size: side of the result, in pixels.
        interpolation: filter of the resize.
    """
    is_area = interpolation == "area"  # Pillow's BOX takes whole pixels only
    resize = (
        f"shape, filter = ({size}, {size}), cv2.INTER_AREA if side > {size} else cv2.INTER_LINEAR\n"
        "image = cv2.resize(np.asarray(image), shape, interpolation=filter)\n"
        if is_area
        else f"image = image.resize(({size}, {size}), Image.Resampling.{interpolation.upper()})\n"
    )
    return (
        ("import cv2  # package opencv-python\nimport numpy as np\n" if is_area else "")
        + "from PIL import Image\n"
        "from torchvision.transforms.v2.functional import to_image\n\n"
        'image = Image.open("photo.jpg").convert("RGB")\n'
        f"side = max(1, round({center_fraction:.7g} * min(image.size)))\n"
        "left, top = round((image.width - side) / 2), round((image.height - side) / 2)\n"
        "image = image.crop((left, top, left + side, top + side))\n"
        f"{resize}"
        "images = to_image(image)[None] / 255\n\n"
    )


def card(
    *,
    name: str,
    about: Mapping[str, Any],
    file: Path,
    usage: str,
    input_text: str,
    max_difference: float | None,
    metrics: Mapping[str, Any],
    inputs: Mapping[str, str],
    license_notes: Sequence[str],
    recipe: str = "",
    view: str = "",
) -> str:
    """Return the card as Markdown.

    Args:
        name: name of the stage or model.
        about: metadata that was saved with the weights.
        file: the exported file; the card contains its sha256.
        usage: lines of Python that prepare an image and load the file.
        input_text: one sentence about the pixels that the file expects.
        max_difference: largest difference between the file's logits and the model's; None if they
            were not compared.
        metrics: metrics of the training stage; empty if the model was not trained here. The card
            contains the scores on test if there are any, and otherwise those on val.
        inputs: data file that the model was trained on -> sha256.
        license_notes: one sentence per dataset or source of weights.
        recipe: the recipe as JSON; "" if unknown.
        view: one sentence about the pixels of the evaluated images; "" if unknown.
    """
    classes = list(about.get("classes") or ())
    eps = float(about.get("eps") or 0)
    facts = [
        ("architecture", about.get("arch")),
        ("classes", len(classes) or None),
        ("resolution", f"{about['resolution']} px" if about.get("resolution") else None),
        ("training", f"adversarial, {about.get('norm') or 'L2'} eps {eps:g}" if eps else "clean"),
        ("seed", about.get("seed")),
        ("weights from", about.get("imported_from")),
        *((key.replace("_", " "), metrics.get(key)) for key in _NUMBERS),
        ("sha256", hashlib.sha256(file.read_bytes()).hexdigest()),
    ]
    split = "test" if "test" in metrics else "val"
    scores = {
        key: value
        for key, value in (metrics.get(split) or {}).items()
        if isinstance(value, int | float) and key in ("top1", "top5", "mean_per_class")
    }
    if 0 < len(classes) <= 5:  # top5 is then always 100 %
        scores.pop("top5", None)
    compared = (
        "The logits were not compared, because onnxruntime is not installed."
        if max_difference is None
        else f"Logits differ by at most {max_difference:.1g} from the original model's."
    )
    parts = [
        f"# {name}",
        "## Load it",
        "Run these lines in the folder of this card, with a `photo.jpg` in it. `images` is a float "
        f"tensor [N, 3, R, R]. {input_text}",
        f"```python\n{usage}```",
        compared,
        "## Facts",
        _table(facts),
    ]
    if scores:
        rows = [(key.replace("_", " "), f"{percent(value, 1)} %") for key, value in scores.items()]
        name_of_split = {"test": "test", "val": "validation"}[split]
        parts += [f"## Accuracy on the {name_of_split} split of its classes", _table(rows)]
        parts += [view] if view else []
    if inputs:
        parts += ["## Data", _table([(key, f"sha256 {value}") for key, value in inputs.items()])]
    parts += ["## License notes", "\n".join(f"- {note}" for note in license_notes)]
    if classes:
        shown = ", ".join(map(str, classes[:MAX_CLASSES]))
        more = len(classes) - MAX_CLASSES
        tail = f", and {more} more; `classes.txt` lists all." if more > 0 else "."
        parts += ["## Classes in label order", shown + tail]
    if recipe:
        parts += ["## Recipe", f"```json\n{recipe.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[tuple[str, Any]]) -> str:
    lines = [f"| {key} | {value} |" for key, value in rows if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])
