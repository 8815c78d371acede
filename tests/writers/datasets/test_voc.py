"""PASCAL VOC 2007 in its genuine layout: lists, difficult objects, tars, FFCV's reader."""

import io
import shutil
import tarfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import VOCDetection

from harness.config.recipe import Recipe
from harness.matrix.expand import expand
from harness.runner.context import StageContext
from harness.runner.result import Result
from tests.helpers.pictures import picture
from tests.helpers.reseal import reseal
from writers.beton.encoding import Encoding
from writers.beton.store import open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.dataset import SplitSettings, open_dataset
from writers.datasets.voc2007 import CLASSES, TEST_TAR, TRAINVAL_TAR
from writers.errors import UserError
from writers.subset.spec import everything

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>1</xmin></bndbox></object>"
ALL = SplitSettings(val=0)


def labels_of(number: int) -> list[int]:
    """Return the labels of image `number`: two classes, one of them difficult."""
    labels = [-1] * 20
    labels[number % 20] = labels[(3 * number + 1) % 20] = 1
    if labels[(number + 7) % 20] == -1:
        labels[(number + 7) % 20] = 0
    return labels


def write_devkit(root: Path, splits: dict[str, range]) -> Path:
    """Make VOCdevkit/VOC2007 like the archives: annotations, and lists per class and split."""
    folder = root / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages", "SegmentationClass"):
        (folder / name).mkdir(parents=True)
    picture(0, 40, 30).save(folder / "SegmentationClass" / "000001.png")
    for split, numbers in splits.items():
        lists = {name: "" for name in CLASSES}
        for number in numbers:
            picture(number, 60 + number % 7, 50).save(folder / "JPEGImages" / f"{number:06d}.jpg")
            objects = ""
            for name, label in zip(CLASSES, labels_of(number), strict=True):
                lists[name] += f"{number:06d} {label:2d}\n"
                objects += "" if label == -1 else OBJECT.format(name, int(label == 0))
            (folder / "Annotations" / f"{number:06d}.xml").write_text(
                f"<annotation>{objects}</annotation>"
            )
        for name, text in lists.items():
            (folder / "ImageSets" / "Main" / f"{name}_{split}.txt").write_text(text)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(
            "".join(f"{number:06d}\n" for number in numbers)
        )
    return root


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(
        tmp_path_factory.mktemp("voc") / "both", {"trainval": range(1, 41), "test": range(41, 61)}
    )


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    (tmp_path / "tars").mkdir()
    for name, split, numbers in (
        (TRAINVAL_TAR, "trainval", range(1, 41)),
        (TEST_TAR, "test", range(41, 61)),
    ):
        write_devkit(tmp_path / split, {split: numbers})
        with tarfile.open(tmp_path / "tars" / name, "w") as archive:
            archive.add(tmp_path / split / "VOCdevkit", "VOCdevkit")
    return tmp_path / "tars"


def test_labels_match_the_lists_and_torchvision_annotations(devkit: Path):
    source = open_dataset("VOC2007", devkit, ALL)
    assert source.multi_label
    assert source.classes == CLASSES == sorted(CLASSES)
    assert len(CLASSES) == 20
    assert {split: len(examples) for split, examples in source.splits.items()} == {
        "train": 40,
        "val": 0,
        "test": 20,
    }
    oracle = VOCDetection(str(devkit), year="2007", image_set="trainval")
    assert len(oracle) == 40
    for example, image, (_, target) in zip(
        source.splits["train"], oracle.images, oracle, strict=True
    ):
        assert source.read(example) == Path(image).read_bytes()
        easy, difficult = set(), set()
        for thing in target["annotation"]["object"]:
            (difficult if thing["difficult"] == "1" else easy).add(thing["name"])
        expected = tuple(1 if name in easy else 0 if name in difficult else -1 for name in CLASSES)
        assert example.labels == expected and expected[example.label] == 1


def test_tars_and_trees_of_every_depth_are_equivalent(devkit: Path, tars: Path, tmp_path: Path):
    first = open_dataset("voc2007", devkit, SplitSettings(val=0.25, seed=3))
    assert 8 <= len(first.splits["val"]) <= 20
    assert len(first.splits["val"]) + len(first.splits["train"]) == 40
    with tarfile.open(tmp_path / "one.tar", "w") as archive:
        archive.add(devkit / "VOCdevkit", "VOCdevkit")
    for path in (
        tars,
        tmp_path / "one.tar",
        devkit / "VOCdevkit",
        devkit / "VOCdevkit" / "VOC2007",
    ):
        again = open_dataset("voc2007", path, SplitSettings(val=0.25, seed=3))
        assert again.splits == first.splits
        example = again.splits["test"][3]
        assert again.read(example) == first.read(example)


def test_ffcv_itself_reads_images_and_labels(devkit: Path, tmp_path: Path):
    from ffcv.fields.ndarray import NDArrayDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader
    from ffcv.transforms import ToTensor

    import loaders.ffcv_parts  # noqa: F401  without it, FFCV's loaders change numba's types

    source = open_dataset("voc2007", devkit, ALL)
    file = tmp_path / "train.beton"
    manifest = write_split(
        source, "train", everything(source.classes), Encoding(format="raw"), file, num_threads=2
    )
    assert manifest.multi_label and verify(file) == []
    truth = {example.key: example.labels for example in source.splits["train"]}
    assert manifest.class_counts == [
        sum(labels[k] == 1 for labels in truth.values()) for k in range(20)
    ]
    labels = open_beton(file).labels
    assert labels.dtype == np.int8 and sorted(map(tuple, labels.tolist())) == sorted(truth.values())

    reader = Reader(str(file))
    handler = reader.handlers["label"]
    assert (handler.dtype, handler.shape) == (np.dtype("i1"), (20,))
    loader = Loader(
        str(file),
        batch_size=16,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        os_cache=False,
        pipelines={
            "image": [CenterCropRGBImageDecoder((32, 32), 1.0)],
            "label": [NDArrayDecoder(), ToTensor()],
        },
    )
    loaded = np.concatenate([part.numpy().copy() for _, part in loader])
    assert loaded.dtype == np.int8 and (loaded == labels).all()
    again = write_split(
        source,
        "train",
        everything(source.classes),
        Encoding(format="raw"),
        tmp_path / "again",
        num_threads=1,
    )
    assert again == manifest


def test_damaged_labels_are_found(devkit: Path, tmp_path: Path):
    source = open_dataset("voc2007", devkit, ALL)
    file = tmp_path / "test.beton"
    write_split(source, "test", everything(source.classes), Encoding(format="raw"), file)
    place = int(open_beton(file).rows["label"][0])
    data = bytearray(file.read_bytes())
    data[place] = 7
    file.write_bytes(data)
    assert any("labels other than -1, 0 and 1" in problem for problem in verify(file))
    data[place] = 1 if labels_of(41)[0] != 1 else 0
    row = 24 + 2 * 1041 + 16
    data[row : row + 8] = (2**40).to_bytes(8, "little")
    file.write_bytes(data)
    reseal(file)
    assert any("labels are outside" in problem for problem in verify(file))


def test_unreadable_images_that_are_skipped_are_not_counted(devkit: Path, tmp_path: Path):
    copy = shutil.copytree(devkit, tmp_path / "copy")
    (copy / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").write_bytes(b"none")
    source = open_dataset("voc2007", copy, ALL)
    with pytest.raises(UserError, match=r"000001\.jpg"):
        write_split(source, "train", everything(CLASSES), Encoding(), tmp_path / "t.beton")
    assert not list(tmp_path.glob("*t.beton*"))
    manifest = write_split(
        source, "train", everything(CLASSES), Encoding(), tmp_path / "t.beton", on_error="skip"
    )
    assert manifest.class_counts == [
        sum(labels_of(number)[k] == 1 for number in range(2, 41)) for k in range(20)
    ]
    assert verify(tmp_path / "t.beton") == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda voc: (voc / "ImageSets/Main/cow_test.txt").unlink(), "cow_test.txt is missing"),
        (
            lambda voc: (voc / "ImageSets/Main/cow_test.txt").write_text("000041 2\n"),
            "cow_test.txt, line 1: '000041 2'",
        ),
        (
            lambda voc: (voc / "ImageSets/Main/cow_test.txt").write_text("000041 1\n"),
            "cow_test.txt lists other images",
        ),
        (
            lambda voc: (voc / "ImageSets/Main/cow_test.txt").write_text("000041 1\n000041 -1\n"),
            "cow_test.txt, line 2: 000041 is listed twice",
        ),
        (lambda voc: (voc / "JPEGImages/000050.jpg").unlink(), "000050.jpg"),
        (lambda voc: shutil.rmtree(voc / "ImageSets"), "has no ImageSets/Main"),
        (
            lambda voc: [
                (voc / f"ImageSets/Main/{name}_test.txt").write_text("000041 -1\n")
                for name in CLASSES
            ],
            "Image 000041",
        ),
    ],
)
def test_an_error_names_the_missing_or_damaged_file(
    devkit: Path, tmp_path: Path, spoil, message: str
):
    copy = shutil.copytree(devkit, tmp_path / "copy")
    spoil(copy / "VOCdevkit" / "VOC2007")
    with pytest.raises(UserError, match=message):
        open_dataset("voc2007", copy, ALL)


def test_missing_truncated_and_unsafe_tars_are_refused(tars: Path, tmp_path: Path):
    (tars / TEST_TAR).rename(tmp_path / "kept.tar")
    with pytest.raises(UserError, match=TEST_TAR):
        open_dataset("voc2007", tars, ALL)
    (tars / TEST_TAR).write_bytes((tmp_path / "kept.tar").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"tar archive|not there|missing"):
        open_dataset("voc2007", tars, ALL)
    with tarfile.open(tars / TEST_TAR, "w") as archive:
        member = tarfile.TarInfo("VOCdevkit/VOC2007/JPEGImages/../../../../evil.jpg")
        archive.addfile(member, io.BytesIO(b""))
    with pytest.raises(UserError, match="outside itself"):
        open_dataset("voc2007", tars, ALL)


def test_a_recipe_runs_from_tars_to_map(tars: Path, tree: Path, tmp_path: Path):
    """Run every stage of the recipe in order, as the executor's workers do."""
    small = {
        "epochs": 1,
        "batch_size": 16,
        "resolution": 24,
        "eval_crop": 1.0,
        "precision": "float32",
    }
    recipe = Recipe.model_validate(
        {
            "name": "voc",
            "source": {"path": str(tree)},
            "subsets": ["all"],
            "archs": ["resnet10"],
            "pretrain": {**small, "channels": [16, 16, 16, 16]},
            "methods": {"full": {**small, "lrs": [0.01]}},
            "targets": [{"dataset": "voc2007", "path": str(tars), "accept_counts": True}],
        }
    )
    results: dict[str, Result] = {}
    for stage in expand(recipe).stages:
        folder = tmp_path / stage.key
        folder.mkdir()
        run = import_module(f"harness.stages.{stage.kind}.run").run
        outcome = run(
            StageContext(
                config=stage.config,
                folder=folder,
                needs={role: results[need.key] for role, need in stage.needs.items()},
                need_folders={role: tmp_path / need.key for role, need in stage.needs.items()},
                data=tmp_path / "data",
                raw=tmp_path,
                num_threads=1,
                device="cpu",
            )
        )
        results[stage.key] = Result(
            kind=stage.kind,
            key=stage.key,
            name=stage.name,
            axes=stage.axes,
            config=stage.config,
            needs={},
            metrics=outcome.metrics,
            environment={},
            started_at="",
            wall_s=0.0,
        )
    written, transferred = (
        next(
            result
            for result in results.values()
            if result.kind == kind and result.axes[axis] == "voc2007"
        )
        for kind, axis in (("write", "dataset"), ("transfer", "target"))
    )
    assert written.metrics["classes"] == list(CLASSES)
    test = open_beton(tmp_path / "data" / written.metrics["splits"]["test"]["path"])
    assert test.manifest.multi_label
    assert sorted(test.labels.tolist()) == sorted(labels_of(number) for number in range(41, 61))
    metrics = transferred.metrics
    assert metrics["metric"] == "map11" and metrics["test"]["num_images"] == 20
    assert 0 < metrics["test"]["map11"] < 1
    assert metrics["val"]["num_images"] + test.manifest.num_samples < 60
