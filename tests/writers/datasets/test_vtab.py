"""VTAB's tasks on small trees in their official layouts; torchvision is the oracle if possible."""

import gzip
import io
import json
import zipfile
from collections import Counter
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as oracles

from tests.helpers.pictures import picture
from tests.helpers.vtab_trees import (
    CLOSEST_LABELS,
    MAKERS,
    jpeg,
    make_clevr,
    make_dmlab,
    make_dsprites,
    make_eurosat,
    make_kitti,
    make_pcam,
    make_retinopathy,
    make_smallnorb,
    make_svhn,
    tf_record,
)
from writers import names
from writers.dataset import SplitSettings, open_dataset
from writers.errors import UserError
from writers.source import Example, Source

SETTINGS = SplitSettings(val=0.1)


def pixels(source: Source, example: Example) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(source.read(example))).convert("RGB"))


def examples_by_key(source: Source, *splits: str) -> dict[str, Example]:
    return {example.key: example for split in splits for example in source.splits[split]}


def sizes(source: Source) -> dict[str, int]:
    return {split: len(examples) for split, examples in source.splits.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_the_number_of_classes_is_as_documented(name: str, tmp_path: Path):
    source = open_dataset(name, MAKERS[name](tmp_path), SETTINGS)
    spec = import_module(f"writers.datasets.{names.normalize(name)}").SPEC
    labels = [example.label for examples in source.splits.values() for example in examples]
    assert len(source.classes) == len(set(source.classes)) == max(labels) + 1 == spec.num_classes
    assert set(labels) == set(range(spec.num_classes))
    assert spec.name == source.name == names.normalize(name)
    assert all(source.splits.values())
    for examples in source.splits.values():
        assert len({example.name for example in examples}) == len(examples)
    assert {example.key for example in source.splits["train"]}.isdisjoint(
        {example.key for example in source.splits["val"]}
    )
    other = open_dataset(name, tmp_path, SplitSettings(val=0.1, test=0.3, seed=5))
    assert [example.name for example in other.splits["test"]] == [
        example.name for example in source.splits["test"]
    ]
    assert all(pixels(source, example).ndim == 3 for example in source.splits["test"][:3])


@pytest.mark.parametrize("name", ["svhn", "kitti-distance", "pcam"])
def test_a_tree_of_class_folders_is_accepted(name: str, tmp_path: Path):
    classes = import_module(f"writers.datasets.{names.normalize(name)}").CLASSES
    for split in ("train", "test"):
        for label, kind in enumerate(classes):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(3):
                picture(label, 32, 32).save(tmp_path / split / kind / f"{number}.png")
    source = open_dataset(name, tmp_path, SETTINGS)
    assert source.classes == classes and len(source.splits["test"]) == 3 * len(classes)
    (tmp_path / "train" / "stranger").mkdir()
    picture(0, 32, 32).save(tmp_path / "train" / "stranger" / "0.png")
    with pytest.raises(UserError, match="stranger"):
        open_dataset(name, tmp_path, SETTINGS)


def test_svhn_equals_torchvision(tmp_path: Path):
    source = open_dataset("svhn", make_svhn(tmp_path), SETTINGS)
    # The small files do not have the checksums of the published ones.
    unchecked = type("SVHN", (oracles.SVHN,), {"_check_integrity": lambda self: True})
    oracle_parts = {split: unchecked(str(tmp_path), split) for split in ("train", "test")}
    for split, parts in (("train", ("train", "val")), ("test", ("test",))):
        examples = examples_by_key(source, *parts)
        assert len(examples) == len(oracle_parts[split])
        for key, example in examples.items():
            image, label = oracle_parts[split][int(key.split("/")[1])]
            assert example.label == label and (pixels(source, example) == np.asarray(image)).all()
    assert set(sizes(source).values()) == {50, 10, 20}


def test_eurosat_folder_and_zip_equal_torchvision(tmp_path: Path):
    root = make_eurosat(tmp_path)
    source = open_dataset("eurosat", root, SETTINGS)
    oracle = oracles.EuroSAT(str(root))
    assert oracle.classes == source.classes
    assert sizes(source) == {
        "train": 60,
        "val": 20,
        "test": 20,
    }
    truth = {
        str(Path(path).relative_to(Path(path).parents[1])): label for path, label in oracle.samples
    }
    assert {
        key: example.label
        for key, example in examples_by_key(source, "train", "val", "test").items()
    } == truth
    assert Counter(example.label for example in source.splits["val"]) == dict.fromkeys(range(10), 2)
    (tmp_path / "packed").mkdir()
    with zipfile.ZipFile(tmp_path / "packed" / "EuroSAT.zip", "w") as archive:
        for path in sorted((root / "eurosat").rglob("*.jpg")):
            archive.write(path, path.relative_to(root / "eurosat"))
    packed = open_dataset("EuroSAT", tmp_path / "packed", SETTINGS)
    assert packed.splits == source.splits
    assert packed.read(packed.splits["val"][3]) == source.read(source.splits["val"][3])


def test_pcam_equals_torchvision(tmp_path: Path):
    source = open_dataset("pcam", make_pcam(tmp_path), SETTINGS)
    for split in ("train", "val", "test"):
        oracle = oracles.PCAM(str(tmp_path), split)
        assert len(oracle) == len(source.splits[split])
        for example, (image, label) in zip(source.splits[split], oracle, strict=True):
            assert example.label == label and (pixels(source, example) == np.asarray(image)).all()


def test_clevr_counts_equal_torchvision_and_distances_equal_vtabs_formula(tmp_path: Path):
    root = make_clevr(tmp_path)
    counts, distances = (
        open_dataset(f"clevr_{task}", root, SETTINGS) for task in ("count", "distance")
    )
    thresholds = np.array([0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0])
    for split, parts in (("train", ("train", "val")), ("val", ("test",))):
        oracle = oracles.CLEVRClassification(str(root), split)
        scenes = json.loads(
            (root / f"clevr/CLEVR_v1.0/scenes/CLEVR_{split}_scenes.json").read_text()
        )["scenes"]
        counted, ranges = examples_by_key(counts, *parts), examples_by_key(distances, *parts)
        assert len(counted) == len(ranges) == len(oracle)
        for (key, example), path, label, scene in zip(
            sorted(counted.items()), oracle._image_files, oracle._labels, scenes, strict=True
        ):
            assert key.endswith(path.name) and int(counts.classes[example.label]) == label
            assert counts.read(example) == path.read_bytes()
            closest = min(thing["pixel_coords"][2] for thing in scene["objects"])
            assert ranges[key].label == np.flatnonzero(thresholds - closest < 0).max()
    with zipfile.ZipFile(tmp_path / "CLEVR_v1.0.zip", "w") as archive:
        for path in sorted((root / "clevr").rglob("*.*")):
            archive.write(path, path.relative_to(root / "clevr"))
    (tmp_path / "zipped").mkdir()
    (tmp_path / "CLEVR_v1.0.zip").rename(tmp_path / "zipped" / "CLEVR_v1.0.zip")
    packed = open_dataset("clevr-count", tmp_path / "zipped", SETTINGS)
    for split, examples in packed.splits.items():
        assert [example.name for example in examples] == [
            example.name for example in counts.splits[split]
        ]


@pytest.mark.parametrize(
    ("task", "column", "num_values"), [("location", 4, 32), ("orientation", 3, 40)]
)
def test_dsprites_labels_are_binned_factors_and_pixels_are_kept(
    tmp_path: Path, task: str, column: int, num_values: int
):
    root = make_dsprites(tmp_path)
    source = open_dataset(f"dsprites-{task}", root, SETTINGS)
    with h5py.File(next(root.glob("*.hdf5"))) as file:
        images, values = file["imgs"][:], file["latents/classes"][:]
    assert sum(sizes(source).values()) == 640
    assert 56 <= sizes(source)["val"] <= sizes(source)["test"] == 64
    for key, example in examples_by_key(source, "train", "val", "test").items():
        number = int(key.split("/")[1])
        assert example.label == int(
            np.floor(np.float32(values[number, column]) / np.float32(num_values / 16))
        )
        if number % 40 == 0:
            assert (pixels(source, example) == images[number][:, :, None] * 255).all()
    np.savez_compressed(
        root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
        imgs=images,
        latents_classes=values,
        metadata=np.array({"not": "unpickled"}, object),
    )
    next(root.glob("*.hdf5")).unlink()
    again = open_dataset(f"dsprites-{task}", root, SETTINGS)
    assert again.splits == source.splits
    assert again.read(again.splits["test"][7]) == source.read(source.splits["test"][7])


@pytest.mark.parametrize(("task", "column", "step"), [("azimuth", 2, 2), ("elevation", 1, 1)])
def test_smallnorb_equals_hand_made_labels(tmp_path: Path, task: str, column: int, step: int):
    source = open_dataset(f"smallnorb_{task}", make_smallnorb(tmp_path), SETTINGS)
    assert sizes(source) == {"train": 36, "val": 36, "test": 36}
    with gzip.open(tmp_path / "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat.gz") as file:
        images = np.frombuffer(file.read()[24:], np.uint8).reshape(36, 2, 96, 96)
    for number, example in enumerate(source.splits["train"]):
        info = (number % 10, number % 9, 2 * (number % 18), number % 6)
        assert example.label == info[column] // step
        assert (pixels(source, example) == images[number, 0][:, :, None]).all()
    assert source.classes[3] == {"azimuth": "60", "elevation": "45"}[task]
    assert {example.key for example in source.splits["val"]}.isdisjoint(
        example.key for example in source.splits["test"]
    )
    for path in tmp_path.glob("*.gz"):  # some mirrors have unpacked files
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert open_dataset(f"smallnorb_{task}", tmp_path, SETTINGS).splits == source.splits


def test_kitti_labels_are_the_closest_vehicle_and_splits_share_no_drive(tmp_path: Path):
    root = make_kitti(tmp_path)
    source = open_dataset("kitti-distance", root, SETTINGS)
    oracle = oracles.Kitti(str(root))
    thresholds = np.array([-100.0, 8.0, 20.0, 999.0])
    examples = examples_by_key(source, "train", "val", "test")
    assert len(examples) == len(oracle) == 60
    for index, (path, target) in enumerate(
        zip(oracle.images, [oracle._parse_target(k) for k in range(60)], strict=True)
    ):
        frame = int(Path(path).stem)
        example = next(
            example for key, example in examples.items() if key.endswith(f"{frame:06d}.png")
        )
        closest = min(
            [thing["location"][2] for thing in target if thing["type"] in ("Car", "Van", "Truck")]
            + [1000.0]
        )
        assert (
            example.label
            == np.flatnonzero(thresholds - closest < 0).max()
            == CLOSEST_LABELS[frame % 6]
        ), index
    drive_of = {f"{frame:06d}": (7 * frame) % 60 // 3 for frame in range(60)}
    drives = {
        split: {drive_of[example.name[-6:]] for example in examples}
        for split, examples in source.splits.items()
    }
    assert (len(drives["train"]), len(drives["val"]), len(drives["test"])) == (16, 2, 2)
    assert not drives["train"] & drives["val"]
    assert not (drives["train"] | drives["val"]) & drives["test"]

    raw, packed = root / "Kitti" / "raw", tmp_path / "packed"
    packed.mkdir()
    for archive, part in (
        ("data_object_image_2", "training/image_2"),
        ("data_object_label_2", "training/label_2"),
        ("devkit_object", "mapping"),
    ):
        with zipfile.ZipFile(packed / f"{archive}.zip", "w") as file:
            for path in sorted((raw / part).iterdir()):
                file.write(path, path.relative_to(raw))
    again = open_dataset("kitti_distance", packed, SETTINGS)
    for split, examples in source.splits.items():
        assert [(e.name, e.label) for e in again.splits[split]] == [
            (e.name, e.label) for e in examples
        ]
    (packed / "devkit_object.zip").unlink()
    with pytest.raises(UserError, match=r"train_mapping\.txt is missing"):
        open_dataset("kitti_distance", packed, SETTINGS)


def test_dmlab_reads_tf_records_and_refuses_damaged_ones(tmp_path: Path):
    source = open_dataset("dmlab", make_dmlab(tmp_path), SETTINGS)
    assert sizes(source) == {"train": 12, "val": 6, "test": 6}
    for example in source.splits["train"]:
        shard, number = int(example.key.split("-")[2]), int(example.key.rpartition("/")[2])
        index = shard + 2 * number
        assert example.label == index % 6 and source.read(example) == jpeg(index)
    file = tmp_path / "dmlab" / "dmlab-test.tfrecord-00001-of-00002"
    whole = file.read_bytes()
    for broken in (
        whole[:-3],
        whole[: len(whole) // 2],
        b"\0" * 30,
        whole[:12] + b"\xff" * 40 + whole[52:],
    ):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=file.name):
            open_dataset("dmlab", tmp_path, SETTINGS)
    file.write_bytes(tf_record(jpeg(0), 6, packed=True))
    with pytest.raises(UserError, match="label 6"):
        open_dataset("dmlab", tmp_path, SETTINGS)


def test_retinopathy_follows_its_lists_and_refuses_missing_images(tmp_path: Path):
    source = open_dataset("retinopathy", make_retinopathy(tmp_path), SETTINGS)
    assert sizes(source) == {"train": 10, "val": 5, "test": 7}
    assert {example.key: example.label for example in source.splits["val"]} == {
        f"test/{index}_left.jpeg": index % 5 for index in range(5)
    }
    (tmp_path / "test" / "7_left.jpeg").unlink()
    with pytest.raises(UserError, match=r"7_left\.jpeg is missing"):
        open_dataset("retinopathy", tmp_path, SETTINGS)
    (tmp_path / "trainLabels.csv").write_text("image,level\n0_left,7\n")
    with pytest.raises(UserError, match=r"trainLabels\.csv, line 2"):
        open_dataset("retinopathy", tmp_path, SETTINGS)
