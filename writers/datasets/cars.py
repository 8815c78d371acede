"""Stanford Cars: 196 makes, models and years; cars_train/, cars_test/, devkit/*.mat and cars_test_annos_withlabels.mat.

Train is the official one without what a seeded draw carves out as val. Its own host is gone; mirrors' class folders, train/ and
test/<class>/*.jpg, are read, too. Bounding boxes are ignored.
"""

from pathlib import Path

from writers.dataset import DatasetSpec, Download
from writers.listed import Lists, open_lists
from writers.mat import read_mat, variable
from writers.official import check_labels
from writers.source import Source, SplitSettings, open_source

SPEC = DatasetSpec(
    name="cars", title="Stanford Cars", metric="top1", num_classes=196, split_sizes={"train": 8144, "test": 8041},
    licence="non-commercial research only",
    citation="Krause et al. 2013, 3D object representations for fine-grained categorization",
    where="cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat (ai.stanford.edu no longer has them; mirrors "
          "do), or a mirror's train/ and test/<class>/*.jpg",
    downloads=(Download("cars_train.tgz", num_bytes=979_269_282), Download("cars_test.tgz", num_bytes=977_350_468),
               Download("car_devkit.tgz"), Download("cars_test_annos_withlabels.mat")))


def open(path: Path, settings: SplitSettings) -> Source:
    lists = open_lists(path, "devkit/cars_meta.mat", SPEC.where)
    if lists is None:
        return open_source(path, settings, name="cars")
    meta = read_mat(lists.bytes("devkit/cars_meta.mat"), "devkit/cars_meta.mat")
    classes = [str(name).strip() for name in variable(meta, "class_names", "devkit/cars_meta.mat")]
    train = _listing(lists, "devkit/cars_train_annos.mat", "cars_train", classes)
    test_name = next((name for name in ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat")
                      if lists.prefix + name in lists.names), "cars_test_annos_withlabels.mat")
    return lists.source("cars", path, classes, train, _listing(lists, test_name, "cars_test", classes), settings)


def _listing(lists: Lists, name: str, folder: str, classes: list[str]) -> list[tuple[str, str]]:
    annotations = variable(read_mat(lists.bytes(name), name), "annotations", name)
    labels = [int(number) - 1 for number in annotations["class"].tolist()]      # in the file they begin with 1
    check_labels(labels, len(classes), name)
    return [(f"{folder}/{str(image).strip()}", classes[label]) for image, label in zip(annotations["fname"].tolist(), labels,
                                                                                       strict=True)]
