"""Boxes of PASCAL VOC 2007 in its official layout, and files that do not fit it."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from torchvision.datasets import VOCDetection

from tests.helpers.voc_boxes import write_devkit
from writers.beton.encoding import Encoding
from writers.beton.write import write_split
from writers.check import check_raw
from writers.dataset import SplitSettings, open_dataset, spec_of
from writers.datasets.voc2007 import CLASSES, TEST_TAR, TRAINVAL_TAR
from writers.errors import UserError
from writers.raw_files import listing_of, walk
from writers.source import BoxLabel, Source
from writers.subset.spec import everything

ALL = SplitSettings(val=0)
SIZE = (120, 100)
# Each class occurs in one image per split. The last two images of trainval are special: the only
# object of 000021 is a cat marked as difficult, and 000022 has no object.
TRAINVAL = {
    f"{number:06}": (SIZE, [(name, 0, 1, 1, 60, 100), (name, 1, 30.5, 20, 120, 90)])
    for number, name in enumerate(CLASSES, start=1)
} | {"000021": (SIZE, [("cat", 1, 5, 5, 9, 9)]), "000022": (SIZE, [])}
TEST = {
    f"{number:06}": (SIZE, [(name, 0, 11, 21, 30, 40)])
    for number, name in enumerate(CLASSES, start=31)
}


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(
        tmp_path_factory.mktemp("voc") / "both", {"trainval": TRAINVAL, "test": TEST}
    )


def test_boxes_match_torchvision_annotations(devkit: Path):
    source = open_dataset("voc2007-detection", devkit.parents[1], ALL)
    assert source.has_boxes and source.multi_label and source.classes == list(CLASSES)
    oracle = VOCDetection(str(devkit.parents[1]), year="2007", image_set="trainval")
    assert len(oracle) == len(source.splits["train"]) == 22
    for example, image, (_, target) in zip(
        source.splits["train"], oracle.images, oracle, strict=True
    ):
        assert source.read(example) == Path(image).read_bytes()
        things = target["annotation"].get("object", [])
        assert example.boxes is not None and len(example.boxes) == len(things)
        for box, thing in zip(example.boxes, things, strict=True):
            sides = {side: float(value) for side, value in thing["bndbox"].items()}
            # right - left is the number of pixels from xmin to xmax, both included
            assert (box.right - box.left) == sides["xmax"] - sides["xmin"] + 1
            assert (box.bottom - box.top) == sides["ymax"] - sides["ymin"] + 1
            assert (box.left, box.top) == (sides["xmin"] - 1, sides["ymin"] - 1)
            assert CLASSES[box.label] == thing["name"]
            assert box.difficult == (thing["difficult"] == "1")


def test_labels_derive_from_the_boxes(devkit: Path):
    source = open_dataset("voc2007_detection", devkit, ALL)
    labels = {example.name: example.labels for example in source.splits["train"]}
    cat = CLASSES.index("cat")
    assert [k for k, mark in enumerate(labels["000008"] or ()) if mark == 1] == [cat]
    assert [k for k, mark in enumerate(labels["000021"] or ()) if mark == 0] == [cat]
    assert labels["000022"] == (-1,) * 20
    assert spec_of("voc2007_detection").metric == "map50_11"


def test_tars_and_trees_give_the_same_splits(devkit: Path, tmp_path: Path):
    settings = SplitSettings(val=0.3, seed=1)
    first = open_dataset("voc2007_detection", devkit, settings)
    (tmp_path / "tars").mkdir()
    for name, split in ((TRAINVAL_TAR, "trainval"), (TEST_TAR, "test")):
        images = TRAINVAL if split == "trainval" else TEST
        part = write_devkit(tmp_path / split, {split: images})
        with tarfile.open(tmp_path / "tars" / name, "w") as archive:
            archive.add(part.parent, "VOCdevkit")
    again = open_dataset("voc2007_detection", tmp_path / "tars", settings)
    assert again.splits == first.splits and first.splits["val"]


def replace_in(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return change


XML, LIST = "Annotations/000003.xml", "ImageSets/Main/trainval.txt"
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "box right of the image": (replace_in(XML, "<xmax>120</xmax>", "<xmax>130</xmax>"), XML),
    "box left of the image": (
        replace_in(XML, "<xmin>1</xmin><ymin>1<", "<xmin>-9</xmin><ymin>1<"),
        XML,
    ),
    "box below the image": (replace_in(XML, "<ymax>90</ymax>", "<ymax>103</ymax>"), XML),
    "empty box": (replace_in(XML, "<xmin>30.5</xmin>", "<xmin>121</xmin>"), XML),
    "empty box right of the image": (
        lambda folder: [
            replace_in(XML, "<xmin>30.5</xmin>", "<xmin>121</xmin>")(folder),
            replace_in(XML, "<xmax>120</xmax>", "<xmax>121</xmax>")(folder),
        ],
        XML,
    ),
    "not a number": (replace_in(XML, "<ymin>20</ymin>", "<ymin>inf</ymin>"), XML),
    "no box": (replace_in(XML, "<xmin>30.5</xmin>", ""), XML),
    "unknown class": (replace_in(XML, "<name>bird</name>", "<name>unicorn</name>"), XML),
    "no class": (replace_in(XML, "<name>bird</name>", ""), XML),
    "unknown flag": (replace_in(XML, "<difficult>1<", "<difficult>maybe<"), XML),
    "cut off": (replace_in(XML, "</annotation>", ""), XML),
    "another document": (lambda folder: (folder / XML).write_text("<html/>"), XML),
    "no annotation": (lambda folder: (folder / XML).unlink(), XML),
    "no image": (
        lambda folder: (folder / "JPEGImages/000003.jpg").unlink(),
        "JPEGImages/000003.jpg",
    ),
    "no list of test": (
        lambda folder: (folder / "ImageSets/Main/test.txt").unlink(),
        "ImageSets/Main/test.txt is missing",
    ),
    "empty list of test": (
        lambda folder: (folder / "ImageSets/Main/test.txt").write_text("\n"),
        "ImageSets/Main/test.txt lists no image",
    ),
    "list of a class": (replace_in(LIST, "000003\n", "000003  1\n"), f"{LIST}, line 3"),
    "image listed twice": (replace_in(LIST, "000003\n", "000002\n"), f"{LIST}, line 3"),
    "path in a list": (replace_in(LIST, "000003\n", "../000003\n"), f"{LIST}, line 3"),
    "image of test in trainval": (replace_in(LIST, "000003\n", "000031\n"), "000031"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_refused_by_file(fault: str, tmp_path: Path):
    change, named = FAULTS[fault]
    few = {name: TRAINVAL[name] for name in ("000001", "000002", "000003")}
    folder = write_devkit(tmp_path, {"trainval": few, "test": {"000031": TEST["000031"]}})
    assert len(open_dataset("voc2007_detection", folder, ALL).splits["train"]) == 3
    change(folder)
    with pytest.raises(UserError) as caught:
        open_dataset("voc2007_detection", folder, ALL)
    assert named in str(caught.value)


def test_boxes_beyond_the_actual_image_are_refused_when_written(devkit: Path, tmp_path: Path):
    """The annotation states a larger image than the file has."""
    images = {**TRAINVAL, "000002": ((60, 50), [("bicycle", 0, 10, 10, 50, 40)])}
    folder = write_devkit(tmp_path, {"trainval": images, "test": TEST})
    file = folder / "Annotations/000002.xml"
    ElementTree.parse(file)
    text = file.read_text().replace("<width>60<", "<width>600<").replace(">50</xmax>", ">90</xmax>")
    file.write_text(text)
    source = open_dataset("voc2007_detection", folder, ALL)
    for encoding in (Encoding(format="raw"), Encoding(format="jpeg", max_resolution=40)):
        with pytest.raises(UserError, match=r"000002\.jpg: .* 600 x 50 px, .* has 60 x 50"):
            write_split(source, "train", everything(CLASSES), encoding, tmp_path / "t.beton")
        assert not list(tmp_path.glob("*t.beton*"))
    problems = check_raw(source, spec_of("voc2007_detection")).problems
    [problem] = [text for text in problems if "000002" in text]
    assert "its annotation is of an image of 600 x 50 px" in problem


def test_images_with_wrong_annotations_can_be_left_out(tmp_path: Path):
    """One annotation is damaged, one has a box outside of the image, one has another size."""
    again = {f"{100 + number:06}": TRAINVAL[f"{number:06}"] for number in (3, 4, 5)}
    voc = write_devkit(tmp_path / "both", {"trainval": TRAINVAL | again, "test": TEST})
    (voc / "Annotations" / "000003.xml").write_text("<annotation>")
    replace_in("Annotations/000004.xml", "<xmax>60</xmax>", "<xmax>600</xmax>")(voc)
    Image.new("RGB", (64, 64)).save(voc / "JPEGImages" / "000005.jpg")
    with pytest.raises(UserError, match=r"000003\.xml"):
        open_dataset("voc2007-detection", voc, ALL)
    settings = SplitSettings(val=0, skip_damaged=True)
    source = open_dataset("voc2007-detection", voc, settings)
    out = tmp_path / "train.beton"
    every = everything(source.classes)
    with pytest.raises(UserError, match=r"000005"):
        write_split(source, "train", every, Encoding(format="jpeg"), out)
    manifest = write_split(source, "train", every, Encoding(format="jpeg"), out, on_error="skip")
    assert manifest.num_samples == len(TRAINVAL | again) - 3
    reasons = {entry["name"]: entry["reason"] for entry in manifest.skipped}
    assert list(reasons) == ["000003", "000004", "000005"]
    assert reasons["000003"].startswith("Annotations/000003.xml cannot be read as an annotation")
    assert "object 1 is from 1 to 600 of 120 px" in reasons["000004"]
    assert "120 x 100 px, and the image has 64 x 64" in reasons["000005"]


@pytest.mark.parametrize("max_resolution", [None, 40])
def test_an_annotation_of_the_turned_image_is_refused(tmp_path: Path, max_resolution: int | None):
    """The boxes are within the image and the turned image, so that only the size is wrong."""
    images = {**TRAINVAL, "000002": ((60, 50), [("bicycle", 0, 10, 10, 40, 40)])}
    folder = write_devkit(tmp_path, {"trainval": images, "test": TEST})
    photo = folder / "JPEGImages/000002.jpg"
    with Image.open(photo) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # viewers turn the image by 90 degrees
        image.save(photo, exif=exif)
    encoding = Encoding(format="jpeg", max_resolution=max_resolution)

    def write() -> None:
        source = open_dataset("voc2007_detection", folder, ALL)
        write_split(source, "train", everything(CLASSES), encoding, tmp_path / "t.beton")

    write()  # annotated as it is stored
    replace_in(
        "Annotations/000002.xml", "<width>60</width><height>50<", "<width>50</width><height>60<"
    )(folder)
    for file in tmp_path.glob("t.beton*"):
        file.unlink()
    with pytest.raises(UserError, match=r"000002\.jpg: .* 50 x 60 px, .* 60 x 50; .* rotation"):
        write()
    assert not list(tmp_path.glob("*t.beton*"))


def test_a_changed_box_changes_the_digest_of_the_raw_files(devkit: Path, tmp_path: Path):
    few = {name: TRAINVAL[name] for name in ("000001", "000002", "000003")}
    folder = write_devkit(tmp_path, {"trainval": few, "test": {"000031": TEST["000031"]}})

    def digest() -> str:
        return listing_of("voc2007_detection", folder, None, dict(walk(folder))).digest

    before = digest()
    replace_in(XML, "<ymax>90</ymax>", "<ymax>91</ymax>")(folder)
    assert digest() != before


def test_drawn_scenes_have_exact_boxes(tmp_path: Path):
    source: Source = open_dataset("synthetic_boxes", tmp_path / "drawn", SplitSettings())
    sizes = {split: len(examples) for split, examples in source.splits.items()}
    expected = spec_of("synthetic_boxes").split_sizes
    assert sizes["train"] + sizes["val"] == expected["train"]
    assert sizes["test"] == expected["test"] and sizes["val"] >= 5
    boxes = [
        box for examples in source.splits.values() for item in examples for box in item.boxes or ()
    ]
    assert all(isinstance(box, BoxLabel) for box in boxes)
    assert {box.label for box in boxes} == set(range(5))
    assert 0 < sum(box.difficult for box in boxes) < len(boxes) / 4
    counts = {len(item.boxes or ()) for examples in source.splits.values() for item in examples}
    assert counts == {1, 2, 3, 4}
    again = open_dataset("synthetic_boxes", tmp_path / "drawn", SplitSettings())
    assert again.splits == source.splits
