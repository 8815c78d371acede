"""Make small datasets in their official layouts, which torchvision can read, too."""

import pickle
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.helpers.pictures import picture

COUNTER = iter(range(10**6))


def image(path: Path, kind: str = "JPEG") -> None:
    """Make a picture unlike any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(next(COUNTER), 30, 24).save(path, kind)


def lines(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    variants = ["707-320", "F/A-18", "Cessna 172"]
    rows: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number in range(18):
        image(data / "images" / f"{1000 + number:07}.jpg")
        rows[("train", "val", "test")[number % 3]].append(
            f"{1000 + number:07} {variants[number // 6]}"
        )
    for split, listed in {**rows, "trainval": rows["train"] + rows["val"]}.items():
        lines(data / f"images_variant_{split}.txt", listed)
    lines(data / "variants.txt", variants)


def dtd(root: Path) -> None:
    for split in ("train", "val", "test"):
        rows = [
            f"{name}/{name}_{split}{number}.jpg"
            for name in ("banded", "dotted", "zigzagged")
            for number in range(2)
        ]
        for row in rows:
            image(root / "dtd" / "images" / row)
        lines(root / "dtd" / "labels" / f"{split}1.txt", rows)


def flowers(root: Path) -> None:
    labels = np.arange(20) % 4 + 1
    for number in range(1, 21):
        image(root / "jpg" / f"image_{number:05}.jpg")
    savemat(root / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    sets = {"trnid": np.arange(1, 5), "valid": np.arange(5, 9), "tstid": np.arange(9, 21)}
    savemat(root / "setid.mat", {name: ids[None] for name, ids in sets.items()})


def food(root: Path) -> None:
    for split, first in (("train", 0), ("test", 10)):
        rows = [
            f"{name}/{first + number}" for name in ("apple_pie", "sushi") for number in range(3)
        ]
        for row in rows:
            image(root / "food-101" / "images" / f"{row}.jpg")
        lines(root / "food-101" / "meta" / f"{split}.txt", rows)
        import json

        by_class = {
            name: [row for row in rows if row.startswith(name)] for name in ("apple_pie", "sushi")
        }
        (root / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(by_class))
    lines(root / "food-101" / "meta" / "classes.txt", ["apple_pie", "sushi"])


def pets(root: Path) -> None:
    breeds = ["Abyssinian", "american_bulldog", "Bengal"]
    for split, first in (("trainval", 1), ("test", 100)):
        rows = []
        for number, breed in enumerate(breeds, 1):
            for index in range(3):
                # The real dataset has PNGs with transparency that are named .jpg.
                image(
                    root / "images" / f"{breed}_{first + index}.jpg",
                    "PNG" if index == 2 else "JPEG",
                )
                rows.append(f"{breed}_{first + index} {number} 1 {number}")
        lines(root / "annotations" / f"{split}.txt", rows)
    (root / "images" / "Abyssinian_1.mat").write_bytes(b"")


def cars(root: Path) -> None:
    classes = np.array(
        ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van 2012"], object
    )

    def annotations(folder: str, count: int) -> dict:
        rows = []
        for number in range(1, count + 1):
            image(root / folder / f"{number:05}.jpg")
            rows.append((1, 1, 9, 9, number % 3 + 1, f"{number:05}.jpg"))
        dtype = [
            (name, object)
            for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
        ]
        return {"annotations": np.array(rows, dtype)[None]}

    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": classes[None]})
    savemat(root / "devkit" / "cars_train_annos.mat", annotations("cars_train", 9))
    savemat(root / "cars_test_annos_withlabels.mat", annotations("cars_test", 6))


def cifar(root: Path, fine: bool) -> None:
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    names = (
        ["train", "test"]
        if fine
        else [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    )
    key = "fine_labels" if fine else "labels"
    for name in names:
        batch = {
            "data": random.integers(0, 256, (4, 3072), np.uint8),
            key: [number % 3 for number in range(4)],
        }
        (folder / name).write_bytes(
            pickle.dumps({**batch, "coarse_labels": [0] * 4} if fine else batch, protocol=2)
        )
    meta = {"fine_label_names" if fine else "label_names": ["apple", "bear", "cup"]}
    (folder / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(meta, protocol=2))


def sun397(root: Path) -> None:
    classes = ["/a/abbey", "/a/apartment_building/outdoor", "/z/zoo"]
    rows: dict[str, list[str]] = {"Training": [], "Testing": []}
    for name in classes:
        for number in range(6):
            image(
                root / "SUN397" / f"{name[1:]}/sun_{name[3]}{number}.jpg",
                ("JPEG", "PNG", "GIF")[number % 3],
            )
            rows["Training" if number < 3 else "Testing"].append(
                f"{name}/sun_{name[3]}{number}.jpg"
            )
    lines(root / "SUN397" / "ClassName.txt", classes)
    for kind, listed in rows.items():
        lines(root / "Partitions" / f"{kind}_01.txt", listed)


def caltech101(root: Path) -> None:
    for name in ("BACKGROUND_Google", "accordion", "yin_yang"):
        for number in range(1, 34):
            image(root / "101_ObjectCategories" / name / f"image_{number:04}.jpg")
    (root / "101_ObjectCategories" / "BACKGROUND_Google" / "tmp").write_bytes(b"")


def caltech256(root: Path) -> None:
    for number, name in enumerate(("ak47", "dog"), 1):
        for index in range(1, 64):
            image(
                root
                / "256_ObjectCategories"
                / f"{number:03}.{name}"
                / f"{number:03}_{index:04}.jpg"
            )
    (root / "256_ObjectCategories" / "002.dog" / "greg").mkdir()
    (root / "256_ObjectCategories" / "002.dog" / "RENAME2").write_bytes(b"")


def birdsnap(root: Path) -> None:
    species = ["Acadian Flycatcher", "Acorn Woodpecker", "Zone-tailed Hawk"]
    rows, test = ["url\tmd5\tpath\tspecies_id\tbb_x1"], ["path"]
    for number, name in enumerate(species, 1):
        for index in range(4):
            path = f"{name.replace(' ', '_')}/{index}.jpg"
            rows.append(f"http://x/{index}\t0\t{path}\t{number}\t3")
            if number < 3:  # the third species has no images
                image(root / "images" / path)
            if index == 3:
                test.append(path)
    lines(root / "images.txt", rows)
    lines(
        root / "species.txt",
        [
            "id\tcommon\tscientific\tdir",
            *(
                f"{number}\t{name}\tx y\t{name.replace(' ', '_')}"
                for number, name in enumerate(species, 1)
            ),
        ],
    )
    lines(root / "test_images.txt", test)
