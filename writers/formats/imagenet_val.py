"""Labels of ImageNet's 50,000 validation images. Their archive has numbers instead of labels.

The package has the labels in `writers/imagenet_val.txt` (made by
`writers/tools/make_imagenet_val.py`). They equal those in ImageNet's development kit, which
`writers/sources/imagenet_tar.py` reads instead if it is next to the archive.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

from writers.errors import UserError
from writers.subset.lists import imagenet_classes, read_rows
from writers.text_names import printable

FILE = Path(__file__).parents[1] / "imagenet_val.txt"
VAL_IMAGE = re.compile(r"(?:^|/)(?P<stem>ILSVRC2012_val_(?P<number>\d{8}))\.JPEG$", re.IGNORECASE)
SOLUTION = "LOC_val_solution.csv"
IMAGE_COLUMN, CLASS_COLUMN = "imageid", "predictionstring"
DIGITS = "0123456789abcdefghijklmnopqrstuv"  # base 32: FILE has two digits per image, its label
NUM_IMAGES = 50_000
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
GROUND_TRUTH, SYNSETS = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"


def image_name(number: int) -> str:
    """Return the file name of the image with a number, 1 to 50,000."""
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def shipped() -> list[str]:
    """Return the WordNet ids from the package; the id of image number n is at index n - 1."""
    classes = imagenet_classes()
    digits = "".join(line for line in FILE.read_text().splitlines() if not line.startswith("#"))
    return [classes[int(digits[place : place + 2], 32)] for place in range(0, len(digits), 2)]


def val_classes(keys: Collection[str], paths: Sequence[Path]) -> dict[str, str]:
    """Map the keys of official validation images to WordNet ids, by their file names.

    Other keys are left out. Labels come from Kaggle's LOC_val_solution.csv if it is in one of
    `paths` or up to three folders above it, otherwise from the package.

    Raises:
        UserError: the CSV is not Kaggle's, or lacks an image.
    """
    numbers = {key: match for key in keys if (match := VAL_IMAGE.search(key))}
    if not numbers:
        return {}
    places = [place for path in paths for place in (path.absolute(), *path.absolute().parents[:3])]
    solution = next((place / SOLUTION for place in places if (place / SOLUTION).is_file()), None)
    if solution is None:
        wnids = shipped()
        return {
            key: wnids[int(match["number"]) - 1]
            for key, match in numbers.items()
            if 1 <= int(match["number"]) <= len(wnids)
        }
    of_image = _read_solution(solution)
    if lacking := sorted(key for key, match in numbers.items() if match["stem"] not in of_image):
        raise UserError(f"{solution} has no label of {lacking[0]}.", "Download it again.")
    return {key: of_image[match["stem"]] for key, match in numbers.items()}


def _read_solution(path: Path) -> dict[str, str]:
    """Return image -> WordNet id, read from Kaggle's file.

    A line is `ILSVRC2012_val_00048981,n03995372 85 1 499 272`: image, class, and a box.

    If another program has saved the file, it may have quotes, other line ends, further columns, or
    `.JPEG` after the names. The header defines the order of the columns. Raises UserError if a
    column is missing or a class is not one of ImageNet's.
    """
    known, of_image = set(imagenet_classes()), {}
    rows = read_rows(path)
    line, header = next(rows, (1, []))
    names = [name.strip().lower() for name in header]
    if not {IMAGE_COLUMN, CLASS_COLUMN} <= set(names):
        raise UserError(
            f"{path}, row {line}: there are no columns ImageId and PredictionString.",
            "Download it again from Kaggle.",
        )
    image_at, class_at = names.index(IMAGE_COLUMN), names.index(CLASS_COLUMN)
    for line, row in rows:
        prediction = row[class_at].split() if max(image_at, class_at) < len(row) else []
        wnid = prediction[0] if prediction else ""
        if wnid not in known:
            raise UserError(
                f"{path}, row {line}: '{printable(wnid)}' is not a class of ImageNet.",
                "Download it again from Kaggle.",
            )
        of_image[row[image_at].strip().removesuffix(".JPEG")] = wnid
    return of_image


def of_devkit(path: Path) -> list[str]:
    """Read the WordNet ids of the images from the development kit's archive, in order of number.

    Raises UserError if the archive is incomplete.
    """
    from scipy.io import loadmat

    try:
        with tarfile.open(path, "r:gz") as archive:
            synsets = loadmat(io.BytesIO(_member(archive, SYNSETS)), squeeze_me=True)["synsets"]
            numbers = _member(archive, GROUND_TRUTH).split()
        # synsets with children are nodes above the 1000 classes
        leaves = synsets[synsets["num_children"] == 0]
        wnid = dict(zip(leaves["ILSVRC2012_ID"].tolist(), leaves["WNID"].tolist(), strict=True))
        return [wnid[int(number)] for number in numbers]
    except (
        tarfile.TarError,
        zlib.error,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        raise UserError(
            f"{path} is not ImageNet's complete development kit: {error}",
            "Download it again, or remove it: the labels are also part of this package.",
        ) from error


def _member(archive: tarfile.TarFile, extension: str) -> bytes:
    file = next(
        (member for member in archive if member.isfile() and member.name.endswith(extension)), None
    )
    content = archive.extractfile(file) if file else None
    if content is None:
        raise KeyError(f"no {extension}")
    return content.read()
