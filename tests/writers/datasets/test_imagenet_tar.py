"""ImageNet's official archives: labels of validation images, development kit, damaged archives."""

import io
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import imagenet as torchvision_imagenet

from tests.helpers.packed import add, official_of
from tests.helpers.pictures import picture
from writers.beton.encoding import Encoding
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.formats.imagenet_val import DEVKIT, image_name, of_devkit, shipped
from writers.sources import imagenet_tar
from writers.sources.imagenet_tar import TRAIN, VAL
from writers.subset.lists import imagenet_classes
from writers.subset.spec import everything

WNIDS = list(imagenet_classes()[:2])


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Make archives of two classes with three training images and one validation image each."""
    of_image = shipped()
    for number, wnid in enumerate(WNIDS):
        for name in (
            *(f"train/{wnid}/{wnid}_{index}.JPEG" for index in range(3)),
            f"val/{wnid}/{image_name(of_image.index(wnid) + 1)}",
        ):
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            picture(number, 30, 20).save(tmp_path / "tree" / name, "JPEG")
    (tmp_path / "archives").mkdir()
    return official_of(tmp_path / "tree", tmp_path / "archives")


def opened(path: Path | list[Path]):
    return open_dataset("imagenet", path, SplitSettings())


def test_packaged_labels_have_fifty_per_class_and_match_the_published_start():
    labels = shipped()
    assert len(labels) == 50_000
    assert set(Counter(labels).values()) == {50} and set(labels) == set(imagenet_classes())
    # Classes of known images: sea snake, alp, Shetland sheepdog, tench.
    known = {
        1: "n01751748",
        2: "n09193705",
        3: "n02105855",
        293: "n01440764",
    }
    assert {number: labels[number - 1] for number in known} == known


def test_packaged_labels_equal_those_of_imagenet_classes():
    imagenet_classes_package = pytest.importorskip(
        "imagenet_classes", reason="a check against PyPI's imagenet-classes"
    )
    classes = imagenet_classes()
    assert shipped() == [
        classes[int(imagenet_classes_package.val_image_to_1k_label(image_name(number)))]
        for number in range(1, 50_001)
    ]


def make_devkit(path: Path, wnids: list[str]) -> Path:
    """Make a kit whose ids are not in name order, with a node above the classes; labels are ids."""
    ids = {wnid: number for number, wnid in enumerate(sorted(set(wnids), reverse=True), start=1)}
    fields = [
        ("ILSVRC2012_ID", "O"),
        ("WNID", "O"),
        ("words", "O"),
        ("gloss", "O"),
        ("num_children", "O"),
        ("children", "O"),
        ("wordnet_height", "O"),
        ("num_train_images", "O"),
    ]
    rows = [(number, wnid, "words", "gloss", 0, [], 0, 3) for wnid, number in ids.items()]
    rows.append((len(ids) + 1, "n00001740", "entity", "gloss", 2, [1, 2], 1, 0))
    mat = io.BytesIO()
    savemat(mat, {"synsets": np.array(rows, fields)})
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "ILSVRC2012_devkit_t12/readme.txt", b"hello")
        add(archive, "ILSVRC2012_devkit_t12/data/meta.mat", mat.getvalue())
        add(
            archive,
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
            "".join(f"{ids[wnid]}\n" for wnid in wnids).encode(),
        )
    return path


def test_the_development_kit_is_read_as_by_torchvision(tmp_path: Path, monkeypatch):
    wnids = [f"n0000000{digit}" for digit in "31122213"]
    devkit = make_devkit(tmp_path / DEVKIT, wnids)
    assert of_devkit(devkit) == wnids
    monkeypatch.setitem(torchvision_imagenet.ARCHIVE_META, "devkit", (DEVKIT, None))
    torchvision_imagenet.parse_devkit_archive(tmp_path)
    assert torchvision_imagenet.load_meta_file(tmp_path)[1] == wnids


def test_the_development_kit_takes_precedence_over_packaged_labels(archives: Path):
    first = opened(archives)
    numbers = {example.name.rsplit("_", 1)[1]: example.label for example in first.splits["val"]}
    swapped = [{WNIDS[0]: WNIDS[1], WNIDS[1]: WNIDS[0]}.get(wnid, wnid) for wnid in shipped()]
    devkit = make_devkit(archives / DEVKIT, swapped)
    assert {
        example.name.rsplit("_", 1)[1]: 1 - example.label
        for example in opened(archives).splits["val"]
    } == numbers
    devkit.write_bytes(devkit.read_bytes()[:3000])
    with pytest.raises(
        UserError, match=r"devkit_t12\.tar\.gz is not ImageNet's complete development kit"
    ):
        opened(archives)


def test_archives_with_other_names_or_next_to_a_tree(archives: Path, tmp_path: Path):
    expected = opened(archives).splits
    shutil.move(archives / TRAIN, archives / "a.tar")
    shutil.move(archives / VAL, archives / "b.tar")
    renamed = opened([archives / "a.tar", archives / "b.tar"])
    assert renamed.origin == "a.tar + b.tar"
    assert {
        split: [(example.name, example.label) for example in examples]
        for split, examples in renamed.splits.items()
    } == {
        split: [(example.name, example.label) for example in examples]
        for split, examples in expected.items()
    }
    shutil.copy(archives / "b.tar", tmp_path / "tree" / VAL)
    assert opened(tmp_path / "tree").splits["val"][0].key.startswith(f"val/{WNIDS[0]}/")


def test_a_missing_archive_is_named(archives: Path):
    with pytest.raises(
        UserError,
        match=r"ILSVRC2012_img_train\.tar: val lacks 2 of the classes.*\n.*another --source",
    ):
        opened(archives / TRAIN)
    with pytest.raises(
        UserError, match=r"ILSVRC2012_img_val\.tar has no images to train on, only val"
    ):
        opened(archives / VAL)


def test_duplicate_images_are_refused(archives: Path):
    source = opened([archives / TRAIN, archives])
    with pytest.raises(UserError, match=r"two images called n01440764/n01440764_0\.JPEG in train"):
        write_split(source, "train", everything(source.classes), Encoding(), archives / "x.beton")


def test_incomplete_archives_are_named(archives: Path):
    for name in (TRAIN, VAL):
        whole = (archives / name).read_bytes()
        (archives / name).write_bytes(whole[:2000])
        with pytest.raises(
            UserError, match=rf"{name}.* is not a complete, uncompressed tar archive"
        ):
            opened(archives)
        (archives / name).write_bytes(whole)


def test_each_inner_archive_is_checked(archives: Path, tmp_path: Path):
    def pack(content: dict[str, bytes]) -> Path:
        with tarfile.open(tmp_path / TRAIN, "w") as archive:
            for name, data in content.items():
                add(archive, name, data)
        return tmp_path / TRAIN

    with tarfile.open(archives / TRAIN) as archive:
        inner = archive.extractfile(f"{WNIDS[0]}.tar").read()
    for content, words in (
        (
            {"n01440764.tar": inner, "n01443537.tar": inner[:2000]},
            r"img_train\.tar/n01443537\.tar is not a complete",
        ),
        ({"n01440764.tar": inner, "n01443537.tar": bytes(1024)}, "n01443537.tar has no images"),
        ({"n01440764.tar": inner, "readme.txt": b"x"}, r"readme\.txt is not the tar of one class"),
        (
            {"n01440764.tar": inner, "n99999999.tar": inner},
            "images of 1 class that imagenet lacks, such as n99999999",
        ),
    ):
        with pytest.raises(UserError, match=words):
            opened(pack(content))
    shutil.copy(archives / VAL, tmp_path / TRAIN)
    shutil.copy(archives / VAL, tmp_path / VAL)
    with pytest.raises(UserError, match=r"img_val\.tar is not ImageNet's archive of that name"):
        opened(tmp_path)


def test_a_validation_image_with_an_unknown_number_is_refused(archives: Path):
    with tarfile.open(archives / VAL, "a") as archive:
        add(archive, "ILSVRC2012_val_00050001.JPEG", b"x")
    with pytest.raises(
        UserError, match=r"ILSVRC2012_val_00050001\.JPEG is not one of ImageNet's 50,000"
    ):
        opened(archives)


def test_the_list_of_inner_members_is_the_same_for_any_number_of_threads(
    archives: Path, monkeypatch
):
    names = imagenet_tar.find(archives, None).files.names()
    monkeypatch.setattr(imagenet_tar, "THREADS", 1)
    monkeypatch.setattr(imagenet_tar, "TARS_AT_ONCE", 1)
    assert imagenet_tar.find(archives, None).files.names() == names
    assert len(names) == 8
