"""Pack a tree of class folders in all other supported forms."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path


def images_of(tree: Path, split: str) -> list[tuple[str, Path]]:
    """Return sorted pairs (class, file)."""
    return [(path.parent.name, path) for path in sorted((tree / split).glob("*/*"))]


def tar_of(tree: Path, out: Path) -> Path:
    with tarfile.open(out / "tree.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tree, "any/folder")
    return out / "tree.tar"


def zip_of(tree: Path, out: Path) -> Path:
    with zipfile.ZipFile(out / "tree.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(tree.rglob("*.*")):
            archive.write(path, path.relative_to(tree))
    return out / "tree.zip"


def split_folders(tree: Path, out: Path) -> list[Path]:
    return [tree / "val", tree / "train"]


def parquet_of(
    tree: Path,
    out: Path,
    *,
    hub_path: Callable[[str, Path], str | None] = lambda _, path: path.name,
    names: Sequence[str] | None = None,
    folder: str = "data",
) -> Path:
    """Make two shards of train and one of validation, with row groups of four and hub metadata.

    Args:
        tree: folder of images, <split>/<class>/<image>.
        out: the shards are in out/hub/FOLDER.
        hub_path: (class, file) -> path of an image in the shard; None stores no path.
        names: class names in the metadata, in label order. None means those of the tree.
        folder: FOLDER.

    Returns:
        out/hub.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes = sorted(path.name for path in (tree / "train").iterdir())
    metadata = {
        "info": {"features": {"label": {"names": list(names or classes), "_type": "ClassLabel"}}}
    }
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
        ],
        metadata={"huggingface": json.dumps(metadata)},
    )
    (out / "hub" / folder).mkdir(parents=True, exist_ok=True)
    for split, called, num_shards in (("train", "train", 2), ("val", "validation", 1)):
        images = images_of(tree, split)[::-1]
        for shard in range(num_shards):
            rows = [
                {
                    "image": {"bytes": path.read_bytes(), "path": hub_path(class_name, path)},
                    "label": classes.index(class_name),
                }
                for class_name, path in images[shard::num_shards]
            ]
            pq.write_table(
                pa.Table.from_pylist(rows, schema),
                row_group_size=4,
                where=out / "hub" / folder / f"{called}-{shard:05d}-of-{num_shards:05d}.parquet",
            )
    return out / "hub"


def webdataset_of(
    tree: Path, out: Path, *, filenames: bool = False, json_label: bool = False, name: str = "set"
) -> Path:
    """Make shards whose keys are file names, or numbers with names in .json if `filenames`."""
    classes = sorted(path.name for path in (tree / "train").iterdir())
    (out / "wds").mkdir(exist_ok=True)
    (out / "wds" / "classnames.txt").write_text("\n".join(classes) + "\n")
    for split, called, num_shards in (("train", "train", 2), ("val", "validation", 1)):
        images = images_of(tree, split)[::-1]
        for shard in range(num_shards):
            with tarfile.open(out / "wds" / f"{name}-{called}-{shard:04d}.tar", "w") as archive:
                for number, (class_name, path) in enumerate(images[shard::num_shards]):
                    key = f"{number:06d}" if filenames else f"{class_name}/{path.stem}"
                    label = classes.index(class_name)
                    metadata = {"filename": f"{class_name}/{path.name}"} | (
                        {"label": label} if json_label else {}
                    )
                    if not json_label:
                        add(archive, f"{key}.cls", str(label).encode())
                    if filenames or json_label:
                        add(archive, f"{key}.json", json.dumps(metadata).encode())
                    add(archive, key + path.suffix, path.read_bytes())
    return out / "wds"


def official_of(tree: Path, out: Path) -> Path:
    """Make ImageNet's two archives."""
    with tarfile.open(out / "ILSVRC2012_img_train.tar", "w") as archive:
        for folder in sorted((tree / "train").iterdir()):
            inner = io.BytesIO()
            with tarfile.open(
                fileobj=inner, mode="w", format=tarfile.USTAR_FORMAT
            ) as inner_archive:
                for path in sorted(folder.iterdir(), reverse=True):
                    inner_archive.add(path, path.name)
            add(archive, f"{folder.name}.tar", inner.getvalue())
    with tarfile.open(out / "ILSVRC2012_img_val.tar", "w") as archive:
        for _, path in images_of(tree, "val"):
            archive.add(path, path.name)
    return out


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
