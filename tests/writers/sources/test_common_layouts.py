"""Layouts in common use are recognized; files that are not read are counted and named."""

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.helpers.pictures import picture
from writers.beton.encoding import Encoding
from writers.beton.store import manifest_path, open_beton
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.formats.image_formats import EXTENSIONS_OF, format_of
from writers.formats.imagenet_val import SOLUTION, image_name, shipped
from writers.source import Source
from writers.split_names import split_of
from writers.subset.spec import everything

ALL_TRAIN = SplitSettings(val=0)


def opened(path: Path | list[Path], dataset: str = "folder") -> Source:
    return open_dataset(dataset, path, ALL_TRAIN)


def make(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, 30, 20).save(root / name, "JPEG")
    return root


def keys(source: Source) -> dict[str, list[str]]:
    return {split: [example.key for example in part] for split, part in source.splits.items()}


def omitted(source: Source) -> dict[str, int]:
    return {omission.reason: omission.count for omission in source.omissions}


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        *(
            (name, "train")
            for name in ("Train", "training", "training_set", "seg_train", "trainset")
        ),
        *((name, "train") for name in ("train_images", "images_train", "train2017", "Train Data")),
        *((name, "val") for name in ("valid", "Validation", "val2014", "validation_set", "dev")),
        *((name, "test") for name in ("TESTING", "test_set", "seg_test", "test-images")),
        *((name, None) for name in ("trainer", "trains", "contest", "train station", "validator")),
        *((name, None) for name in ("seg_pred", "images", "set", "1", "")),
    ],
)
def test_split_folders_by_the_names_that_people_use(folder: str, split: str | None):
    assert split_of(folder) == split


@pytest.mark.parametrize(
    "pattern", ["{}/{}", "set/{}/{}", "{0}/{0}/{1}"], ids=["plain", "wrapped", "twice"]
)
@pytest.mark.parametrize(
    ("train", "test"), [("seg_train", "seg_test"), ("training_set", "test_set")]
)
def test_split_folders_of_common_archives_are_recognized(
    tmp_path: Path, pattern: str, train: str, test: str
):
    names = [
        f"{pattern.format(split, name)}/{index}.jpg"
        for split in (train, test)
        for name in ("cat", "dog")
        for index in range(2)
    ]
    source = opened(make(tmp_path / "photos", *names))
    assert source.classes == ["cat", "dog"]
    assert {split: len(part) for split, part in keys(source).items()} == {
        "train": 4,
        "val": 0,
        "test": 4,
    }
    (tmp_path / "photos" / names[0]).parent.with_name("ghost").mkdir()
    with pytest.raises(UserError, match="ghost has no images"):
        opened(tmp_path / "photos")


def test_two_folders_of_one_split_are_refused(tmp_path: Path):
    root = make(tmp_path / "t", "train/cat/1.jpg", "training/cat/2.jpg")
    with pytest.raises(UserError, match=r"train/ and training/, which are both train"):
        opened(root)


@pytest.mark.parametrize(("tops", "below"), [("ab", "cd"), (("cat", "dog"), ("fold1", "fold2"))])
def test_equal_subfolders_of_all_classes_are_ambiguous(tmp_path: Path, tops, below):
    names = [f"{top}/{sub}/{index}.jpg" for top in tops for sub in below for index in range(2)]
    with pytest.raises(UserError, match="Which ones are the classes"):
        opened(make(tmp_path / "flat", *names))
    with pytest.raises(UserError, match="Which ones are the classes"):
        opened(make(tmp_path / "split", *(f"train/{name}" for name in names)))
    tiny = make(tmp_path / "tiny", *(f"train/{top}/images/1.jpg" for top in tops))
    assert opened(tiny).classes == sorted(tops)


def test_a_folder_between_split_and_classes_is_not_the_only_class(tmp_path: Path):
    """Earlier, train/data/cat and train/data/dog were read as one class `data`."""
    names = [f"{split}/data/{name}/1.jpg" for split in ("train", "val") for name in ("cat", "dog")]
    with pytest.raises(UserError, match=r"\(data\) have the subfolders cat, dog. Which ones"):
        opened(make(tmp_path / "wrapped", *names))
    mixed = make(tmp_path / "mixed", *names, "train/data/1.jpg")
    assert opened(mixed).classes == ["data"]
    partial = make(tmp_path / "partial", *names, "train/more/1.jpg")
    assert opened(partial).classes == ["data", "more"]


def test_images_with_any_ending_are_found_by_content(tmp_path: Path):
    formats = [name for name in EXTENSIONS_OF if name != "QOI"]  # Pillow reads but cannot write it
    for class_name in ("a", "b"):
        folder = tmp_path / "mix" / class_name
        folder.mkdir(parents=True)
        for name in formats:
            for extension in (*EXTENSIONS_OF[name], "", ".foo"):
                image = picture(1, 30, 20, "L" if extension == ".pfm" else "RGB")
                file = folder / f"{name}{extension.replace('.', '_')}{extension}"
                (image.convert("F") if extension == ".pfm" else image).save(file, name)
                assert format_of(file.read_bytes()[:32]) == name
        (folder / "words").write_text("P3 is not an image")
        (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
        (folder / "list.csv").write_text("x")
        (folder / ".DS_Store").write_text("x")
    source = opened(tmp_path / "mix")
    expected = sum(len(EXTENSIONS_OF[name]) + 2 for name in formats)
    assert source.class_counts() == {"a": expected, "b": expected}
    assert omitted(source) == {
        "files that are not images by name or content": 2,
        "images in formats that are not read, HEIC or JPEG XL": 2,
        "files with extensions of other formats": 2,
        "hidden and system files": 2,
    }
    named = next(entry for entry in source.omissions if "HEIC" in entry.reason)
    assert named.names == ("a/photo.heic", "b/photo.heic")
    for pack in (as_tar, as_zip):
        assert keys(opened(pack(tmp_path / "mix", tmp_path))) == keys(source)


def as_tar(tree: Path, out: Path) -> Path:
    with tarfile.open(out / "mix.tar", "w") as archive:
        archive.add(tree, "mix")
    return out / "mix.tar"


def as_zip(tree: Path, out: Path) -> Path:
    return Path(shutil.make_archive(str(out / "mix"), "zip", tree))


def test_flat_splits_are_counted_and_the_manifest_lists_them(tmp_path: Path):
    names = [f"train/{name}/{index}.jpg" for name in ("cat", "dog") for index in range(3)]
    flat = ["val/0.jpg", "val/1.jpg", "test/0.jpg", "train/stray.jpg", "seg_pred/9.jpg", "top.jpg"]
    source = opened(make(tmp_path / "plain", *names, *flat))
    assert {split: len(part) for split, part in keys(source).items()} == {
        "train": 6,
        "val": 0,
        "test": 0,
    }
    assert omitted(source) == {
        "images outside class folders, which have no label": 4,
        "images outside class folders, next to the splits": 1,
        "images outside class folders": 1,
    }
    out = tmp_path / "train.beton"
    write_split(source, "train", everything(source.classes), Encoding(), out)
    manifest = json.loads(manifest_path(out).read_text())
    assert sum(entry["count"] for entry in manifest["omitted"]) == 6
    assert open_beton(out).manifest.omitted == manifest["omitted"]


def test_system_folders_are_no_classes(tmp_path: Path):
    root = make(tmp_path / "t", "cat/1.jpg", "dog/1.jpg", "cat/@eaDir/1.jpg/THUMB.jpg")
    make(root, "__MACOSX/cat/._1.jpg", "#recycle/owl/1.jpg", "cat/._1.jpg")
    (root / "lost+found").mkdir()
    source = opened(root)
    assert keys(source)["train"] == ["cat/1.jpg", "dog/1.jpg"]
    assert keys(opened(as_tar(root, tmp_path)))["train"] == ["cat/1.jpg", "dog/1.jpg"]


def test_a_pipe_among_images_is_refused_and_a_circular_link_ends(tmp_path: Path):
    root = make(tmp_path / "t", "cat/1.jpg", "dog/1.jpg")
    (root / "cat" / "again").symlink_to(root)
    assert keys(opened(root))["train"] == ["cat/1.jpg", "dog/1.jpg"]
    os.mkfifo(root / "cat" / "2.jpg")
    with pytest.raises(UserError, match=r"2\.jpg is a pipe"):
        opened(root)


def test_names_in_other_encodings_give_equal_betons_from_folder_and_archive(tmp_path: Path):
    root = tmp_path / "t"
    for folder in (b"caf\xe9", "\u732b".encode(), "u\u0308ber".encode()):
        place = root / os.fsdecode(folder)
        place.mkdir(parents=True)
        for number in range(2):
            picture(number, 30, 20).save(place / f"{number}.jpg")
    source = opened(root)
    assert source.classes == ["caf\\xe9", "\u00fcber", "\u732b"]
    tar = tmp_path / "t.tar"
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(root, "t")
    packed = opened(tar)
    assert [example.name for example in packed.splits["train"]] == [
        example.name for example in source.splits["train"]
    ]
    betons = []
    for number, each in enumerate((source, packed)):
        betons.append(tmp_path / f"{number}.beton")
        write_split(each, "train", everything(each.classes), Encoding(), betons[-1])
        for example in each.splits["train"]:
            each.where(example).encode()
    assert betons[0].read_bytes() == betons[1].read_bytes()


def test_zips_made_on_windows_and_macos_are_read(tmp_path: Path):
    image = make(tmp_path, "x.jpg") / "x.jpg"
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name in ("train\\cat\\1.jpg", "train\\dog\\1.jpg", "test\\cat\\2.jpg"):
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            archive.writestr(info, image.read_bytes())
    assert keys(opened(tmp_path / "w.zip")) == {
        "train": ["train/cat/1.jpg", "train/dog/1.jpg"],
        "val": [],
        "test": ["test/cat/2.jpg"],
    }
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for name in ("\u00fcber/1.jpg", "cat/1.jpg"):
            archive.writestr(name, image.read_bytes())
    data = (tmp_path / "m.zip").read_bytes().replace(b"\0\x08\0\0", b"\0\0\0\0")  # no UTF-8 flag
    (tmp_path / "m.zip").write_bytes(data)
    assert not any(entry.flag_bits for entry in zipfile.ZipFile(tmp_path / "m.zip").infolist())
    assert opened(tmp_path / "m.zip").classes == ["cat", "\u00fcber"]


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """ImageNet as on Kaggle: class folders in train/, and files in val/ and test/."""
    val = shipped()
    root = tmp_path / "kaggle"
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    for wnid in sorted(set(val))[:3]:
        make(data, *(f"train/{wnid}/{wnid}_{index}.JPEG" for index in range(2)))
        numbers = [number for number, other in enumerate(val, start=1) if other == wnid]
        make(data, *(f"val/{image_name(number)}" for number in numbers[:2]))
    make(data, "test/ILSVRC2012_test_00000001.JPEG")
    (root / "ILSVRC" / "Annotations").mkdir()
    (root / "ILSVRC" / "Annotations" / "a.xml").write_text("<a/>")
    return root


def val_labels(source: Source) -> dict[str, str]:
    return {
        example.key.rsplit("/", 1)[-1]: source.classes[example.label]
        for example in source.splits["val"]
    }


def test_imagenet_with_a_flat_val_takes_the_shipped_labels(kaggle: Path, tmp_path: Path):
    source = opened(kaggle, "imagenet")
    labels = val_labels(source)
    assert len(labels) == 6
    for number, wnid in enumerate(shipped(), start=1):
        assert labels.get(image_name(number), wnid) == wnid
    assert omitted(source) == {
        "images outside class folders, which have no label": 1,  # test/
        "files with extensions of other formats": 1,
    }
    data = kaggle / "ILSVRC" / "Data" / "CLS-LOC"
    for place in (data, [data / "train", data / "val"], as_zip(kaggle, tmp_path)):
        assert val_labels(opened(place, "imagenet")) == labels


def test_kaggles_csv_has_priority_and_is_checked(kaggle: Path):
    labels = val_labels(opened(kaggle, "imagenet"))
    images, wnids = sorted(labels), sorted(set(labels.values()))
    other = {image: wnids[-1 - wnids.index(labels[image])] for image in images}
    lines = [f"{image.removesuffix('.JPEG')},{other[image]} 1 2 3 4 " for image in images]
    (kaggle / SOLUTION).write_text("\n".join(["ImageId,PredictionString", *lines]) + "\n")
    assert val_labels(opened(kaggle, "imagenet")) == other
    (kaggle / SOLUTION).write_text("\n".join(["ImageId,PredictionString", *lines[1:]]))
    with pytest.raises(UserError, match="has no label of"):
        opened(kaggle, "imagenet")
    (kaggle / SOLUTION).write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,dog\n")
    with pytest.raises(UserError, match="row 2: 'dog' is not a class of ImageNet"):
        opened(kaggle, "imagenet")
