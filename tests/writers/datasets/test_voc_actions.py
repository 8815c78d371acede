"""People and actions of PASCAL VOC 2012 in its official layout, and files that do not fit it."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCDetection

from tests.helpers.pictures import picture
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset, spec_of
from writers.datasets.voc2012_actions import ACTIONS, TAR, Box, crop_of
from writers.errors import UserError
from writers.subset.spec import everything

ALL = SplitSettings(val=0)
OTHER = "other"
WIDTH, HEIGHT = 60, 50
# Person -> xmin, ymin, xmax, ymax, as in annotations: pixels count from 1, the last is included.
BOXES = {1: (1, 1, 20, 30), 3: (25.7, 10.2, 60, 50)}


def actions_of(image: int, number: int) -> set[str]:
    """Return two actions of a person, one, or none of the ten."""
    if (image + number) % 5 == 0:
        return set()
    return {ACTIONS[image % 10], ACTIONS[(image * number) % 10]}


def thing(name: str, box: tuple[float, ...], actions: set[str] | None) -> str:
    sides = "".join(
        f"<{side}>{value}</{side}>"
        for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    flags = (
        ""
        if actions is None
        else "".join(
            f"<{action}>{int(action in (actions or {OTHER}))}</{action}>"
            for action in (*ACTIONS, OTHER)
        )
    )
    return (
        f"<object><name>{name}</name><difficult>0</difficult><bndbox>{sides}</bndbox>"
        f"<actions>{flags}</actions></object>"
    )


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Make VOCdevkit/VOC2012 with 20 images, each with a person, a horse and another person."""
    folder = tmp_path / "raw" / "VOCdevkit" / "VOC2012"
    for name in ("Annotations", "ImageSets/Action", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for split, images in {"train": range(1, 11), "val": range(11, 21)}.items():
        lists = dict.fromkeys(ACTIONS, "")
        for image in images:
            name = f"2010_{image:06d}"
            picture(image, WIDTH, HEIGHT).save(folder / "JPEGImages" / f"{name}.jpg")
            things = [
                thing("person", BOXES[1], actions_of(image, 1)),
                thing("horse", (2, 2, 30, 30), None),
                thing("person", BOXES[3], actions_of(image, 3)),
            ]
            (folder / "Annotations" / f"{name}.xml").write_text(
                f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
                f"<depth>3</depth></size>{''.join(things)}</annotation>"
            )
            for number in BOXES:
                for action in ACTIONS:
                    mark = 1 if action in actions_of(image, number) else -1
                    lists[action] += f"{name}  {number} {mark:2d}\n"
        for action, text in lists.items():
            (folder / "ImageSets" / "Action" / f"{action}_{split}.txt").write_text(text)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(
            "".join(f"2010_{image:06d}\n" for image in images)
        )
    return tmp_path / "raw"


def test_labels_and_crops_equal_torchvision_annotations(devkit: Path):
    source = open_dataset("voc2012-actions", devkit, ALL)
    assert source.multi_label and source.classes == list(ACTIONS)
    sizes = {split: len(examples) for split, examples in source.splits.items()}
    assert sizes == {"train": 20, "val": 0, "test": 20}
    oracle = VOCDetection(str(devkit), year="2012", image_set="train")
    people = [
        (image, number, thing)
        for image, annotation in oracle
        for number, thing in enumerate(annotation["annotation"]["object"], start=1)
        if thing["name"] == "person"
    ]
    for example, (image, number, person) in zip(source.splits["train"], people, strict=True):
        assert example.name.endswith(f"#{number}") and example.labels is not None
        flags = {action for action, flag in person["actions"].items() if flag == "1"}
        assert {ACTIONS[at] for at in range(10) if example.labels[at] == 1} == flags - {OTHER}
        assert set(example.labels) == {-1} if flags == {OTHER} else 1 in example.labels
        # By definition, the crop has 10 % of the box more on every side, in whole pixels.
        sides = {side: float(value) for side, value in person["bndbox"].items()}
        more_x, more_y = (
            0.1 * (sides[f"{axis}max"] - sides[f"{axis}min"] + 1) for axis in ("x", "y")
        )
        columns = [
            x for x in range(WIDTH) if sides["xmin"] - 1 - more_x - 1 < x < sides["xmax"] + more_x
        ]
        rows = [
            y for y in range(HEIGHT) if sides["ymin"] - 1 - more_y - 1 < y < sides["ymax"] + more_y
        ]
        crop = np.asarray(Image.open(io.BytesIO(source.read(example))))
        assert np.array_equal(crop, np.asarray(image)[np.ix_(rows, columns)])


def test_an_annotation_of_another_size_is_refused_by_file(devkit: Path, tmp_path: Path):
    file = next(devkit.rglob("2010_000003.xml"))
    file.write_text(file.read_text().replace(f"<width>{WIDTH}<", f"<width>{WIDTH + 40}<"))
    source = open_dataset("voc2012-actions", devkit, ALL)
    encoding, subset = Encoding(format="raw"), everything(source.classes)
    with pytest.raises(UserError, match=r"2010_000003\.jpg, object 1: .* of an image of"):
        write_split(source, "train", subset, encoding, tmp_path / "t.beton")
    assert not list(tmp_path.glob("*t.beton*"))


def test_the_crop_is_cut_at_the_edges():
    assert crop_of(Box(10, 20, 30, 40), 100, 100) == (8, 18, 32, 42)
    assert crop_of(Box(0, 0, 100, 50), 100, 50) == (0, 0, 100, 50)


def test_a_beton_of_a_tar_equals_that_of_the_folder(devkit: Path, tmp_path: Path):
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / TAR, "w") as archive:
        archive.add(devkit / "VOCdevkit", "VOCdevkit")
    written = []
    for number, path in enumerate((devkit, tmp_path / "tars", devkit / "VOCdevkit" / "VOC2012")):
        source = open_dataset("voc2012_actions", path, SplitSettings(val=0.3, seed=1))
        out = tmp_path / f"{number}.beton"
        write_split(source, "test", everything(source.classes), Encoding(format="jpeg"), out)
        assert verify(out) == []
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]
    labels = open_beton(tmp_path / "0.beton").labels
    assert labels.shape == (20, 10) and (labels.max(axis=1) == -1).any()
    assert spec_of("voc2012_actions").metric == "map11"


def replace_in(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        place = folder / file
        text = place.read_text()
        assert old in text
        place.write_text(text.replace(old, new, 1))

    return change


XML, LIST = "Annotations/2010_000002.xml", "ImageSets/Action/reading_train.txt"
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "box outside": (replace_in(XML, "<xmax>60</xmax>", "<xmax>90</xmax>"), XML),
    "empty box": (replace_in(XML, "<xmin>1</xmin>", "<xmin>40</xmin>"), XML),
    "no number": (replace_in(XML, "<ymin>1</ymin>", "<ymin>nan</ymin>"), XML),
    "no size": (replace_in(XML, "<width>60</width>", ""), XML),
    "damaged": (replace_in(XML, "</annotation>", ""), XML),
    "entities": (
        replace_in(XML, "<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>'),
        XML,
    ),
    "too large": (lambda folder: (folder / XML).write_text(" " * (2 << 20)) and None, XML),
    "no such person": (replace_in(XML, "<name>person</name>", "<name>dog</name>"), XML),
    "no annotation": (lambda folder: (folder / XML).unlink(), XML),
    "no image": (
        lambda folder: (folder / "JPEGImages/2010_000003.jpg").unlink(),
        "JPEGImages/2010_000003.jpg",
    ),
    "no list": (lambda folder: (folder / LIST).unlink(), LIST),
    "other people": (replace_in(LIST, "2010_000001  1", "2010_000001  2"), LIST),
    "twice": (replace_in(LIST, "2010_000001  3", "2010_000001  1"), f"{LIST}, line 2"),
    "unknown mark": (replace_in(LIST, "-1", "7"), LIST),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_refused_by_file(fault: str, devkit: Path):
    change, named = FAULTS[fault]
    change(devkit / "VOCdevkit" / "VOC2012")
    with pytest.raises(UserError) as caught:
        open_dataset("voc2012_actions", devkit, ALL)
    assert named in str(caught.value)


def test_people_with_wrong_annotations_can_be_left_out(devkit: Path, tmp_path: Path):
    folder = devkit / "VOCdevkit" / "VOC2012"
    whole = [person.name for person in open_dataset("voc2012_actions", devkit, ALL).splits["train"]]
    FAULTS["damaged"][0](folder)
    other = "Annotations/2010_000003.xml"
    replace_in(other, f"<width>{WIDTH}<", f"<width>{WIDTH + 40}<")(folder)
    settings = SplitSettings(val=0, skip_damaged=True)
    source = open_dataset("voc2012_actions", devkit, settings)
    every, out = everything(source.classes), tmp_path / "t.beton"
    manifest = write_split(source, "train", every, Encoding(format="raw"), out, on_error="skip")
    wrong = [name for name in whole if name.startswith(("2010_000002#", "2010_000003#"))]
    assert [entry["name"] for entry in manifest.skipped] == wrong and len(wrong) >= 2
    assert manifest.num_samples == len(whole) - len(wrong)
    reasons = [entry["reason"] for entry in manifest.skipped]
    assert reasons[0].startswith(f"{XML} cannot be read as an annotation")
    assert "of an image of" in reasons[-1]


def test_another_dataset_is_refused(tmp_path: Path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(UserError, match="jumping_train"):
        open_dataset("voc2012_actions", tmp_path, ALL)
