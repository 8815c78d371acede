"""Accepted storage of the twelve datasets (archives, mirrors), and refused layouts."""

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from tests.helpers import official_layouts as layouts
from writers.beton.encoding import Encoding
from writers.beton.write import write_split
from writers.check import accepted_differences
from writers.dataset import SplitSettings, open_dataset, spec_of
from writers.datasets import sun397
from writers.download import fetch
from writers.errors import UserError
from writers.source import Source
from writers.subset.spec import everything

WHOLE = SplitSettings(val=0)
MAKERS: dict[str, Callable[[Path], None]] = {
    name: getattr(layouts, name)
    for name in (
        "aircraft",
        "birdsnap",
        "caltech101",
        "caltech256",
        "cars",
        "dtd",
        "flowers",
        "food",
        "pets",
        "sun397",
    )
}
CIFAR = "cifar-10-batches-py"
Spoil = Callable[[Path], object]


def pack(folder: Path, archive: Path, *names: str) -> Path:
    """Make an uncompressed tar of `names` in the folder, or of all files."""
    with tarfile.open(archive, "w") as packed:
        for name in names or sorted(path.name for path in folder.iterdir()):
            packed.add(folder / name, name)
    return archive


def pixels(source: Source, split: str) -> list[bytes]:
    images = (Image.open(io.BytesIO(source.read(example))) for example in source.splits[split])
    return sorted(np.asarray(image.convert("RGB")).tobytes() for image in images)


@pytest.mark.parametrize("name", MAKERS)
def test_tar_zip_and_folder_are_equivalent(tmp_path: Path, name: str):
    settings = SplitSettings(val=0.25, seed=3)
    MAKERS[name](tmp_path / "made")
    source = open_dataset(name, tmp_path / "made", settings)
    tar = pack(tmp_path / "made", tmp_path / "all.tar")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        for file in sorted((tmp_path / "made").rglob("*")):
            packed.write(file, file.relative_to(tmp_path / "made"))
    for path in (tar, tmp_path / "all.zip"):
        again = open_dataset(name, path, settings)
        assert again.splits == source.splits and again.classes == source.classes
        assert pixels(again, "test") == pixels(source, "test")


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.startswith("caltech101")])
def test_truncated_unsafe_and_compressed_archives_are_refused(tmp_path: Path, name: str):
    MAKERS[name](tmp_path / "made")
    archive = pack(tmp_path / "made", tmp_path / "all.tar")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a complete, uncompressed tar"):
        open_dataset(name, archive, WHOLE)
    with tarfile.open(archive, "w") as packed:
        packed.addfile(tarfile.TarInfo("images/../../evil.jpg"))
    with pytest.raises(UserError, match="outside itself"):
        open_dataset(name, archive, WHOLE)
    if name != "caltech256":
        with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as packed:
            packed.add(tmp_path / "made", "x")
        with pytest.raises(UserError, match=r"all\.tar\.gz is compressed"):
            open_dataset(name, tmp_path / "all.tar.gz", WHOLE)
    with pytest.raises(UserError, match="There is no folder or archive"):
        open_dataset(name, tmp_path / "nowhere", WHOLE)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "caltech256"])
def test_archives_that_are_not_unpacked_are_named(tmp_path: Path, name: str):
    packed = next(download for download in spec_of(name).downloads if download.unpack)
    (tmp_path / packed.file).write_bytes(b"archive")
    with pytest.raises(UserError, match=rf"{packed.file} is compressed"):
        open_dataset(name, tmp_path, WHOLE)


def test_adjacent_archives_are_read_without_unpacking(tmp_path: Path):
    layouts.pets(tmp_path / "pets")
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "pets", tmp_path / "packed" / "images.tar", "images")
    pack(tmp_path / "pets", tmp_path / "packed" / "annotations.tar", "annotations")
    unpacked, packed = (open_dataset("pets", tmp_path / name, WHOLE) for name in ("pets", "packed"))
    assert packed.splits == unpacked.splits and pixels(packed, "train") == pixels(unpacked, "train")


def test_caltech101_opens_as_downloaded(tmp_path: Path):
    """`harness download` unpacks a zip that contains the archive of the images."""
    layouts.caltech101(tmp_path / "made")
    inner = tmp_path / "inner.tar.gz"
    with tarfile.open(inner, "w:gz") as packed:
        packed.add(tmp_path / "made" / "101_ObjectCategories", "101_ObjectCategories")
    raw = tmp_path / "raw"
    raw.mkdir()
    with zipfile.ZipFile(raw / "caltech-101.zip", "w") as packed:
        packed.write(inner, "caltech-101/101_ObjectCategories.tar.gz")
        packed.writestr("__MACOSX/caltech-101/._101_ObjectCategories.tar.gz", b"")
    with pytest.raises(UserError, match=r"caltech-101\.zip is compressed"):
        open_dataset("caltech101", raw, WHOLE)
    for download in spec_of("caltech101").downloads:
        fetch(replace(download, url="", checksum="", num_bytes=None), raw)
    fetched, made = (open_dataset("caltech101", path, WHOLE) for path in (raw, tmp_path / "made"))
    assert fetched.splits == made.splits and len(fetched.splits["train"]) == 60


def test_cars_opens_with_padded_names_and_nested_folders(tmp_path: Path):
    layouts.cars(tmp_path)
    before = open_dataset("cars", tmp_path, WHOLE)
    shown = pixels(before, "train")
    file = tmp_path / "devkit" / "cars_train_annos.mat"
    rows = loadmat(file)["annotations"]
    for row in rows.ravel():
        row["fname"] = np.array([f"    {row['fname'][0]}"])
    savemat(file, {"annotations": rows})
    (tmp_path / "cars_train").rename(tmp_path / "inner")
    (tmp_path / "cars_train").mkdir()
    (tmp_path / "inner").rename(tmp_path / "cars_train" / "cars_train")
    source = open_dataset("cars", tmp_path, WHOLE)
    assert pixels(source, "train") == shown
    assert [example.name for example in source.splits["train"]] == [
        example.name for example in before.splits["train"]
    ]


def test_sun397_of_vtab_uses_the_lists_of_tensorflow_datasets(tmp_path: Path):
    layouts.sun397(tmp_path)
    with pytest.raises(UserError, match=r"need sun397_tfds_tr\.txt"):
        open_dataset("sun397", tmp_path, SplitSettings(protocol="vtab"))
    images = [
        f"/{path.relative_to(tmp_path / 'SUN397')}"
        for path in sorted((tmp_path / "SUN397").rglob("*.jpg"))
    ]
    for name, own in (("tr", images[::3]), ("va", images[1::3]), ("te", images[2::3])):
        (tmp_path / f"sun397_tfds_{name}.txt").write_text("\n".join(own))
    # Splits before 800 and 200 images are drawn.
    source = sun397.open(tmp_path, SplitSettings(protocol="vtab"))
    assert {
        split: [f"/{example.key}" for example in source.splits[split]]
        for split in ("train", "val", "test")
    } == {"train": images[::3], "val": images[1::3], "test": images[2::3]}


def test_aircraft_cropped_has_no_banner(tmp_path: Path):
    layouts.aircraft(tmp_path)
    whole, cropped = (
        open_dataset(name, tmp_path, WHOLE) for name in ("aircraft", "aircraft-cropped")
    )
    assert cropped.name == "aircraft_cropped" and cropped.splits == whole.splits
    for example in whole.splits["test"][:3]:
        image = Image.open(io.BytesIO(whole.read(example))).convert("RGB")
        left = np.asarray(Image.open(io.BytesIO(cropped.read(example))))
        assert (left == np.asarray(image)[: image.height - 20]).all() and left.shape == (4, 30, 3)
    manifest = write_split(
        cropped,
        "test",
        everything(cropped.classes),
        Encoding(format="passthrough"),
        tmp_path / "t.beton",
    )
    assert (manifest.max_height, manifest.num_raw) == (4, 6)


def test_val_is_never_the_test_set(tmp_path: Path):
    for number in range(6):
        layouts.image(tmp_path / "train" / "cat" / f"{number}.jpg")
        layouts.image(tmp_path / "test" / "cat" / f"{number}.jpg")
    shutil.copytree(tmp_path / "test", tmp_path / "val")
    for name in ("folder", "dtd", "clothing"):
        with pytest.raises(UserError, match="val and test are the same images"):
            open_dataset(name, tmp_path, SplitSettings())
    layouts.image(tmp_path / "val" / "cat" / "0.jpg")
    assert len(open_dataset("folder", tmp_path, SplitSettings()).splits["val"]) == 6


def test_differences_name_the_missing_species(tmp_path: Path):
    layouts.birdsnap(tmp_path)
    source = open_dataset("birdsnap", tmp_path, WHOLE)
    assert (
        accepted_differences(source, spec_of("birdsnap"), accept=True)[-1]
        == "train has no image of Zone-tailed_Hawk"
    )


def appended(file: str, line: str) -> Spoil:
    """Append a line to a text file."""
    return lambda root: (root / file).write_text((root / file).read_text() + f"{line}\n")


def written(file: str, content: bytes) -> Spoil:
    """Replace the content of a file."""
    return lambda root: (root / file).write_bytes(content)


def stray_image(file: str) -> Spoil:
    """Add an image that no list names."""
    return lambda root: layouts.image(root / file)


def changed(file: str, variable: str, change: Callable[[np.ndarray], object]) -> Spoil:
    """Return a function that changes a variable of the MATLAB file `file` in a folder.

    `change` changes the array in place.
    """

    def spoil(root: Path) -> None:
        content = loadmat(root / file)
        change(content[variable])
        savemat(
            root / file,
            {name: value for name, value in content.items() if not name.startswith("__")},
        )

    return spoil


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (
            "aircraft",
            appended("fgvc-aircraft-2013b/data/variants.txt", "707-320"),
            "has the class 707-320 twice",
        ),
        (
            "aircraft",
            appended("fgvc-aircraft-2013b/data/images_variant_test.txt", "0001000 707-320"),
            "is in two lists",
        ),
        ("dtd", written("dtd/labels/test1.txt", b"\n"), r"labels/test1\.txt at .* is empty"),
        (
            "dtd",
            stray_image("dtd/images/mine/1.jpg"),
            r"images/mine/1\.jpg is in none of the 3 classes",
        ),
        (
            "food",
            stray_image("food-101/images/1.jpg"),
            r"images/1\.jpg is in none of the 2 classes",
        ),
        (
            "sun397",
            stray_image("SUN397/z/zebra/sun_a.jpg"),
            r"zebra/sun_a\.jpg is in none of the 3 classes",
        ),
        (
            "flowers",
            changed("imagelabels.mat", "labels", lambda labels: labels.fill(103)),
            "label 102 of image 0",
        ),
        (
            "flowers",
            changed("imagelabels.mat", "labels", lambda labels: labels.fill(0)),
            "label -1 of image 0",
        ),
        (
            "flowers",
            changed("setid.mat", "tstid", lambda ids: ids.fill(21)),
            "tstid names images that are not in imagelabels",
        ),
        ("flowers", lambda root: savemat(root / "setid.mat", {"x": 1}), "has no variable trnid"),
        (
            "cars",
            lambda root: savemat(root / "devkit/cars_train_annos.mat", {"annotations": np.ones(3)}),
            "no classes of images",
        ),
        (
            "cars",
            changed(
                "cars_test_annos_withlabels.mat",
                "annotations",
                lambda rows: rows.ravel()[0].__setitem__("class", 197),
            ),
            "label 196 of image 0 is outside its 3 classes",
        ),
        (
            "birdsnap",
            appended("test_images.txt", "Dodo/1.jpg"),
            r"names Dodo/1\.jpg, which is not in images\.txt",
        ),
        (
            "birdsnap",
            appended("images.txt", "http://x\t0\tDodo/1.jpg\t77\t3"),
            "do not match",
        ),
        ("caltech101", stray_image("101_ObjectCategories/dodo/image_0001.jpg"), "such as dodo"),
    ],
)
def test_inconsistent_files_are_refused(tmp_path: Path, name: str, spoil: Spoil, message: str):
    MAKERS[name](tmp_path)
    open_dataset(name, tmp_path, WHOLE)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        open_dataset(name, tmp_path, WHOLE)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test_batch", None, "There is no .*test_batch"),
        ("test_batch", pickle.dumps([1]), "is not a batch of CIFAR"),
        ("test_batch", pickle.dumps(os.getcwd), r"it names \w+\.getcwd"),
        ("batches.meta", pickle.dumps({}), "has no label_names"),
        (
            "data_batch_2",
            pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 3, 0]}),
            "label 3 of image 2",
        ),
        (
            "data_batch_2",
            pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0] * 5}),
            "images and labels",
        ),
    ],
)
def test_errors_of_cifar_name_the_cause(
    tmp_path: Path, file: str, content: bytes | None, message: str
):
    layouts.cifar(tmp_path, fine=False)
    if content is None:
        (tmp_path / CIFAR / file).unlink()
    else:
        (tmp_path / CIFAR / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_dataset("cifar10", tmp_path, WHOLE)
