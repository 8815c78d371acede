"""Make the twelve transfer datasets in their official layouts, with all classes and few images."""

import io
import json
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.helpers.pictures import picture
from writers.datasets import caltech101


@cache
def jpeg(seed: int, mode: str) -> bytes:
    buffer = io.BytesIO()
    picture(seed, 12, 10, mode).save(buffer, "JPEG")
    return buffer.getvalue()


def make_caltech101(
    root: Path, classes: Sequence[str] = (*caltech101.CLASSES, caltech101.BACKGROUND)
) -> Path:
    """Make 31 to 33 images per class, some gray, and the other files of the real folders."""
    folder = root / "caltech101" / "101_ObjectCategories"
    for label, name in enumerate(sorted(classes)):
        (folder / name).mkdir(parents=True)
        for number in range(1, 32 + label % 3):
            (folder / name / f"image_{number:04d}.jpg").write_bytes(
                jpeg(label, "L" if number == 5 else "RGB")
            )
    (folder / caltech101.BACKGROUND / "tmp").write_bytes(b"stray")
    (root / "caltech101" / "Annotations" / "anchor").mkdir(parents=True)
    (root / "caltech101" / "Annotations" / "anchor" / "annotation_0001.mat").write_bytes(b"ignored")
    return root


def make_caltech256(root: Path) -> Path:
    folder = root / "caltech256" / "256_ObjectCategories"
    for label in range(1, 258):
        name = f"{label:03d}." + {56: "dog", 198: "spider", 257: "clutter"}.get(
            label, f"thing{label}"
        )
        (folder / name).mkdir(parents=True)
        for number in range(1, 62):
            (folder / name / f"{label:03d}_{number:04d}.jpg").write_bytes(
                jpeg(label, "L" if label == 2 else "RGB")
            )
    (folder / "056.dog" / "greg" / "vision309").mkdir(parents=True)
    picture(0, 12, 10).save(folder / "056.dog" / "greg" / "vision309" / "056_0001.jpg")
    (folder / "198.spider" / "RENAME2").write_text("#!/bin/sh\n")
    return root


VARIANTS = [
    "707-320",
    "A340-200",
    "F/A-18",
    "DHC-8-100",
    "Cessna 172",
    *(f"Make {number}" for number in range(95)),
]


def make_aircraft(root: Path) -> Path:
    data = root / "fgvc-aircraft-2013b" / "data"
    (data / "images").mkdir(parents=True)
    (data / "variants.txt").write_text("".join(f"{name}\n" for name in VARIANTS))
    lists = {"train": "", "val": "", "test": ""}
    for number in range(400):
        image, part = (
            f"{1_000_000 + 7919 * number % 999_983:07d}",
            ("train", "val", "test", "train")[number // 100],
        )
        lists[part] += f"{image} {VARIANTS[number % 100]}\n"
        picture(number, 30, 50).save(data / "images" / f"{image}.jpg")
    for part, text in (*lists.items(), ("trainval", lists["train"] + lists["val"])):
        (data / f"images_variant_{part}.txt").write_text(text)
        (data / f"images_family_{part}.txt").write_text("1 Boeing 707\n")
    (data / "images_box.txt").write_text("1000000 1 1 2 2\n")
    return root


def make_dtd(root: Path) -> Path:
    folder = root / "dtd" / "dtd"  # torchvision nests the archive's dtd/ in another dtd/
    (folder / "labels").mkdir(parents=True)
    lists = {(part, fold): "" for part in ("train", "val", "test") for fold in range(1, 11)}
    for kind in (f"kind{label:02d}" for label in range(47)):
        (folder / "images" / kind).mkdir(parents=True)
        (folder / "images" / kind / ".directory").write_text("ignored")
        for number in range(6):
            name = f"{kind}/{kind}_{number:04d}.jpg"
            picture(number, 14, 12).save(folder / "images" / name)
            for fold in range(1, 11):
                lists[("train", "val", "test")[(number + fold) % 3], fold] += f"{name}\n"
    for (part, fold), text in lists.items():
        (folder / "labels" / f"{part}{fold}.txt").write_text(text)
    (folder / "labels" / "labels_joint_anno.txt").write_text(
        "kind00/kind00_0000.jpg kind00 kind01\n"
    )
    return root


def make_flowers(root: Path) -> Path:
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    number = 4 * 102
    labels = (37 * np.arange(number) % 102 + 1).astype(np.uint8)
    for index in range(1, number + 1):
        picture(index, 14, 12).save(folder / "jpg" / f"image_{index:05d}.jpg")
    ids = np.random.default_rng(0).permutation(number) + 1
    by_turn: dict[str, list[int]] = {"trnid": [], "valid": [], "tstid": []}
    seen = [0] * 103
    for index in ids.tolist():
        label = int(labels[index - 1])
        by_turn[("trnid", "valid", "tstid", "tstid")[seen[label]]].append(index)
        seen[label] += 1
    savemat(folder / "imagelabels.mat", {"labels": labels[None, :]})
    savemat(
        folder / "setid.mat",
        {name: np.array(images, np.uint16)[None, :] for name, images in by_turn.items()},
    )
    return root


def make_birdsnap(root: Path) -> Path:
    """Make Birdsnap: the last species has no image, the first no test image."""
    birds = [f"Bird_{number:03d}" for number in range(500)]
    images, test = ["url\tmd5\tpath\tspecies_id\tbb_x1\tbb_y1"], ["path"]
    for number, bird in enumerate(birds, start=1):
        (root / "download" / "images" / bird).mkdir(parents=True)
        for index in range(5):
            images.append(f"http://x/{index}\t0\t{bird}/{10 * number + index}.jpg\t{number}\t1\t2")
            if number < 500 and not (number == 1 and index == 4):
                picture(index, 8, 8).save(
                    root / "download" / "images" / bird / f"{10 * number + index}.jpg"
                )
        test.append(f"{bird}/{10 * number + 4}.jpg")
    species = [
        f"{number}\t{bird.replace('_', ' ')}'s\tAvis avis\t{bird}"
        for number, bird in enumerate(birds, start=1)
    ]
    for name, lines in (
        ("images", images),
        ("species", ["id\tcommon\tscientific\tdir", *species]),
        ("test_images", test),
    ):
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def make_cars(root: Path) -> Path:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    for part, place in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        (folder / f"cars_{part}").mkdir()
        rows = np.zeros((1, 392), [(field, object) for field in fields])
        for number in range(392):
            name = f"{number + 1:05d}.jpg"
            picture(number, 12, 10).save(folder / f"cars_{part}" / name)
            # Some names are padded, as in the real dataset.
            padded = f"    {name}" if number % 2 else name
            rows[0, number] = (1, 1, 9, 9, 5 * number % 196 + 1, padded)
        savemat(folder / place, {"annotations": rows})
    names = np.empty((1, 196), object)
    names[0] = [f"Make {number} Sedan" for number in range(196)]
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    return root


def make_cifar(root: Path, fine: bool) -> Path:
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    number, key, random = (100, "fine_labels", 1) if fine else (10, "labels", 0)
    pixels = np.random.default_rng(random).integers(0, 256, (6, 4 * number, 3072), np.uint8)
    for index, name in enumerate(
        ("train", "test") if fine else (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
    ):
        batch = {
            "data": pixels[index],
            key: [3 * k % number for k in range(4 * number)],
            "filenames": ["x.png"] * 4 * number,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {"fine_label_names" if fine else "label_names": [f"thing{k}" for k in range(number)]}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(meta, protocol=2))
    return root


def make_food(root: Path) -> Path:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    dishes = [f"dish_{number:03d}" for number in range(101)]
    lists: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for label, dish in enumerate(dishes):
        (folder / "images" / dish).mkdir(parents=True)
        for number in range(5):
            picture(number, 12, 10).save(folder / "images" / dish / f"{10 * label + number}.jpg")
            lists["test" if number == 4 else "train"].setdefault(dish, []).append(
                f"{dish}/{10 * label + number}"
            )
    for part, listed in lists.items():
        (folder / "meta" / f"{part}.json").write_text(json.dumps(listed))
        (folder / "meta" / f"{part}.txt").write_text(
            "".join(f"{name}\n" for names in listed.values() for name in names)
        )
    (folder / "meta" / "classes.txt").write_text("".join(f"{dish}\n" for dish in dishes))
    return root


def make_pets(root: Path) -> Path:
    folder = root / "oxford-iiit-pet"
    breeds = [
        "Abyssinian",
        "american_bulldog",
        "beagle",
        *(f"Breed_{number}" for number in range(34)),
    ]
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for part, numbers in (("trainval", (1, 2, 3, 116)), ("test", (100, 101))):
        lines = [
            (f"{breed}_{number}", label)
            for label, breed in enumerate(breeds, start=1)
            for number in numbers
        ]
        for name, _ in lines:
            picture(len(name), 120, 100).save(folder / "images" / f"{name}.jpg")
        (folder / "annotations" / f"{part}.txt").write_text(
            "".join(f"{name} {label} 1 {label}\n" for name, label in lines)
        )
    (folder / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n")
    (folder / "images" / "Abyssinian_100.mat").write_bytes(b"ignored")
    return root


def make_sun397(root: Path) -> Path:
    places = [
        f"/{'ab'[number % 2]}/place{number:03d}{'/indoor' if number % 5 == 0 else ''}"
        for number in range(397)
    ]
    lists: dict[str, list[str]] = {}
    for label, place in enumerate(sorted(places)):
        (root / "SUN397" / place[1:]).mkdir(parents=True)
        for number in range(6):
            picture(number, 8, 8).save(
                root / "SUN397" / place[1:] / f"sun_{label:03d}{'abcdef'[number]}.jpg"
            )
            for fold in (1, 2):
                lists.setdefault(
                    f"{'Training' if number % 3 < 2 - fold % 2 else 'Testing'}_{fold:02d}.txt", []
                ).append(f"{place}/sun_{label:03d}{'abcdef'[number]}.jpg")
    (root / "Partitions").mkdir()
    for name, listed in lists.items():
        (root / "Partitions" / name).write_text("\n".join(listed) + "\n")
    for folder in ("SUN397", "Partitions"):
        (root / folder / "ClassName.txt").write_text("\n".join(sorted(places)) + "\n")
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "aircraft": make_aircraft,
    "birdsnap": make_birdsnap,
    "caltech101": make_caltech101,
    "caltech256": make_caltech256,
    "cars": make_cars,
    "cifar10": lambda root: make_cifar(root, fine=False),
    "cifar100": lambda root: make_cifar(root, fine=True),
    "dtd": make_dtd,
    "flowers": make_flowers,
    "food": make_food,
    "pets": make_pets,
    "sun397": make_sun397,
}
