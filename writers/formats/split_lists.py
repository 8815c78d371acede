"""Read datasets that have one folder of images and a list of images per split."""

import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from writers.dataset import DatasetSpec
from writers.errors import UserError
from writers.formats.files import Files, JoinedFiles, open_files
from writers.formats.image_formats import is_image
from writers.formats.tars import looks_like_tar
from writers.source import Example, Source, SplitSettings, carve, named_examples, open_source
from writers.text_names import counted

Listing = Sequence[tuple[str, str]]  # path of an image relative to the root, and its class
ARCHIVE = re.compile(r"\.(tar\.gz|tgz|tar|zip)$")


@dataclass(frozen=True)
class Lists:
    """Files of a dataset's official layout, whose root may be below the given path."""

    files: Files
    names: frozenset[str]  # paths relative to the given path
    prefix: str  # the root, relative to the given path
    where: str  # the given path, and how to get missing files, for errors

    def text(self, name: str) -> str:
        """Read a list as UTF-8 without a byte order mark; invalid bytes are replaced.

        Raises UserError if it is missing.
        """
        return self.bytes(name).decode("utf-8-sig", errors="replace")

    def lines(self, name: str) -> list[str]:
        """Read the lines that are not empty. Raises UserError if there are none."""
        stripped = [line.strip() for line in self.text(name).splitlines() if line.strip()]
        if not stripped:
            raise UserError(
                f"{self.prefix}{name} at {self.where} is empty.", "Download the dataset again."
            )
        return stripped

    def bytes(self, name: str) -> bytes:
        """Read a list as bytes. Raises UserError if it is missing, OSError if it is damaged."""
        if self.prefix + name not in self.names:
            raise UserError(
                f"There is no {self.prefix}{name} at {self.where}", "Download the dataset again."
            )
        return self.files.read(self.prefix + name)

    def source(
        self,
        name: str,
        path: Path,
        classes: Sequence[str],
        train: Listing,
        test: Listing,
        settings: SplitSettings,
        *,
        val: Listing = (),
    ) -> Source:
        """Make a source from the lists.

        If `val` is empty, val is drawn from train, class by class. Test is never drawn.

        Raises:
            UserError: a listed image is missing, in two splits, or of an unknown class; or two
                classes have the same name.
        """
        label = {class_name: number for number, class_name in enumerate(classes)}
        if len(label) < len(classes):
            raise UserError(
                f"{name} has the class {Counter(classes).most_common(1)[0][0]} twice.",
                "Fetch its lists again.",
            )
        in_train, in_val, in_test = (
            self._examples(split, listing, label)
            for split, listing in (("train", train), ("val", val), ("test", test))
        )
        keys = [example.key for example in (*in_train, *in_val, *in_test)]
        if len(set(keys)) < len(keys):
            twice = Counter(keys).most_common(1)[0][0]
            raise UserError(
                f"{self.prefix}{twice} is in two lists of {name}.", "Fetch its lists again."
            )
        splits = carve(in_train, in_val, in_test, replace(settings, test=0.0))
        return Source(name, path.name, list(classes), splits, self.files, self.prefix)

    def refuse_strangers(self, folder: str, class_folders: Collection[str]) -> None:
        """Raise UserError if an image below `folder` is in none of the class folders.

        `folder` is empty or ends in /.
        """
        root, known = self.prefix + folder, set(class_folders)
        for name in sorted(self.names):
            if (
                name.startswith(root)
                and is_image(name)
                and name[len(root) :].rpartition("/")[0] not in known
            ):
                raise UserError(
                    f"{self.files.where(name)} is in none of the {counted(len(known), 'class')}.",
                    "Remove files that are not part of the dataset.",
                )

    def _examples(self, split: str, listing: Listing, label: Mapping[str, int]) -> list[Example]:
        images = {}
        missing = []
        for key, class_name in listing:
            if class_name not in label:
                raise UserError(
                    f"{self.prefix}{key} is listed under '{class_name}', which is not one of the "
                    f"{counted(len(label), 'class')}.",
                    "Fetch its lists again.",
                )
            if self.prefix + key not in self.names:
                missing.append(key)
            images[key] = (class_name, key.rsplit("/", 1)[-1])
        if missing:
            raise UserError(
                f"{len(missing)} of the {counted(len(listing), 'image')} of {split} are missing at "
                f"{self.where} "
                f"The first is {self.prefix}{missing[0]}.",
                "Check that the archive was unpacked completely.",
            )
        return named_examples(images, label)


def open_lists(path: Path, marker: str, spec: DatasetSpec) -> Lists | None:
    """Find the official layout, whose root has the file `marker`, in a folder, a tar or a zip.

    In a folder, the publisher's .tar and .zip archives are read like unpacked folders.

    Returns:
        The lists, or None if the marker is missing or `path` is another kind of file.
    """
    if path.is_file() and not looks_like_tar(path) and not zipfile.is_zipfile(path):
        return None
    parts = [open_files(place, _wanted) for place in (path, *_archives(path, spec))]
    files = JoinedFiles(parts) if len(parts) > 1 else parts[0]
    names = frozenset(files.names())
    prefixes = sorted(
        (name for name in names if f"/{name}".endswith(f"/{marker}")),
        key=lambda name: (len(name), name),
    )
    if not prefixes:
        return None
    return Lists(files, names, prefixes[0].removesuffix(marker), f"{path}. {spec.where}.")


def class_folders(
    path: Path,
    settings: SplitSettings,
    spec: DatasetSpec,
    missing: str,
    classes: Sequence[str] | None = None,
) -> Source:
    """Open an unofficial copy with train/ and test/, because it lacks the official file `missing`.

    If there is no test/, val/ or valid/ is the test set, as in copies by fast.ai and Salman et al.
    `classes` are those of the dataset in label order; None takes the class folders.

    Raises:
        UserError: train/ and test/ with class folders are missing, or an archive must be unpacked
            first.
    """
    refuse_packed(path, spec)
    try:
        source = open_source(
            path, replace(settings, val=0.0, test=0.0), name=spec.name, classes=classes
        )
    except UserError as error:
        raise UserError(
            f"{path} has no {missing}, nor train/ and test/ with class folders: {error.message}",
            spec.where,
        ) from error
    if not source.splits["val"] and not source.splits["test"]:
        raise UserError(
            f"{path} has no {missing}, nor train/ and test/ with class folders.", spec.where
        )
    return with_own_splits(source, settings)


def refuse_packed(path: Path, spec: DatasetSpec) -> None:
    """Raise UserError if `path` has no images, only an archive that must be unpacked first."""
    places = (
        [path]
        if path.is_file()
        else [path / download.file for download in spec.downloads if download.unpack]
    )
    packed = next(
        (place for place in places if place.is_file() and ARCHIVE.search(place.name)), None
    )
    if (
        packed is not None
        and not (path.is_file() and (looks_like_tar(path) or zipfile.is_zipfile(path)))
        and not (path.is_dir() and open_files(path).names())
    ):
        raise UserError(
            f"{packed} is compressed: its images cannot be read without unpacking.",
            "Unpack it there; `harness download` does that as well.",
        )


def with_own_splits(source: Source, settings: SplitSettings) -> Source:
    """Keep the splits of a tree. If it has no test, its val becomes test.

    If there is then no val, val is drawn from train.
    """
    train, val, test = (source.splits[split] for split in ("train", "val", "test"))
    if not test:
        val, test = [], val
    source.splits = carve(train, val, test, replace(settings, test=0.0))
    return source


def _archives(path: Path, spec: DatasetSpec) -> list[Path]:
    """List the publisher's archives in the folder `path` that can be read without unpacking."""
    names = [
        download.file
        for download in spec.downloads
        if not (download.unpack and download.file.endswith(".zip"))
    ]
    stems = dict.fromkeys(
        ARCHIVE.sub("", name.rsplit("/", 1)[-1]) for name in names if ARCHIVE.search(name)
    )
    places = [path / f"{stem}{extension}" for stem in stems for extension in (".tar", ".zip")]
    return [place for place in places if path.is_dir() and place.is_file()]


def _wanted(path: str) -> bool:
    return is_image(path) or (
        path.endswith((".txt", ".mat")) and not path.rsplit("/", 1)[-1].startswith(".")
    )
