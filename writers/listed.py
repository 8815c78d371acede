"""Datasets that come as a heap of images and lists that say which are for what: from the lists to a source."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from writers.dataset import DatasetSpec
from writers.errors import UserError
from writers.files import Files, is_image, open_files
from writers.source import Example, Source, SplitSettings, carve, named_examples, open_source

Listing = Sequence[tuple[str, str]]         # image below the root, and its class


@dataclass(frozen=True)
class Lists:
    """The files of a dataset's official layout, wherever below the named place its root lies."""

    files: Files
    names: frozenset[str]       # paths below the place
    prefix: str                 # the root, below the place
    where: str                  # the place and how to get what is missing, for errors

    def text(self, name: str) -> str:
        """A list, as text. Raises UserError where it is missing or none."""
        return self.bytes(name).decode("utf-8", errors="replace")

    def lines(self, name: str) -> list[str]:
        """Its lines that are not empty."""
        return [line.strip() for line in self.text(name).splitlines() if line.strip()]

    def bytes(self, name: str) -> bytes:
        if self.prefix + name not in self.names:
            raise UserError(f"There is no {self.prefix}{name} at {self.where}", "Fetch the dataset again.")
        return self.files.read(self.prefix + name)

    def source(self, name: str, path: Path, classes: Sequence[str], train: Listing, test: Listing, settings: SplitSettings, *,
               val: Listing = ()) -> Source:
        """The images of the lists. What is missing of val is carved out of train, seeded, class by class.

        Raises UserError for an image that is listed and not there, listed in two splits, or of no class.
        """
        label = {class_name: number for number, class_name in enumerate(classes)}
        in_train, in_val, in_test = (self._examples(listing, label) for listing in (train, val, test))
        keys = [example.key for example in (*in_train, *in_val, *in_test)]
        if len(set(keys)) < len(keys):
            twice = Counter(keys).most_common(1)[0][0]
            raise UserError(f"{self.prefix}{twice} stands in two lists of {name}.", "Fetch its lists again.")
        return Source(name, path.name, list(classes), carve(in_train, in_val, in_test, settings), self.files, self.prefix)

    def _examples(self, listing: Listing, label: Mapping[str, int]) -> list[Example]:
        images = {}
        missing = []
        for key, class_name in listing:
            if class_name not in label:
                raise UserError(f"{self.prefix}{key} is listed under '{class_name}', which is none of the {len(label)} "
                                "classes.", "Fetch its lists again.")
            if self.prefix + key not in self.names:
                missing.append(key)
            images[key] = (class_name, key.rsplit("/", 1)[-1])
        if missing:
            raise UserError(f"{len(missing)} of the {len(listing)} images of a list are not at {self.where} "
                            f"The first is {self.prefix}{missing[0]}.", "Is the archive whole?")
        return named_examples(images, label)


def open_lists(path: Path, marker: str, where: str, *, also: Callable[[str], bool] = lambda name: False) -> Lists | None:
    """The layout whose root has the file `marker`, in a folder, a tar or a zip; None: there is no such file.

    `also`: files to keep beside images, .txt and .mat files.
    """
    files = open_files(path, lambda name: is_image(name) or name.endswith((".txt", ".mat")) or also(name))
    names = frozenset(files.names())
    found = sorted((name for name in names if f"/{name}".endswith(f"/{marker}")), key=lambda name: (len(name), name))
    if not found:
        return None
    return Lists(files, names, found[0].removesuffix(marker), f"{path}. {where}.")


def class_folders(path: Path, settings: SplitSettings, spec: DatasetSpec, missing: str,
                  classes: Sequence[str] | None = None) -> Source:
    """A tree with train/ and test/, as mirrors have it, where the layout's own file `missing` is not there.

    A lone val/ or valid/ beside train/ is the test set, which fast.ai's and Salman's copies call so; beside test/ it is val.
    """
    try:
        source = open_source(path, replace(settings, val=0.0, test=0.0), name=spec.name, classes=classes)
    except UserError as error:
        raise UserError(f"{path} has no {missing}, nor train/ and test/ with class folders: {error.message}",
                        spec.where) from error
    if not source.splits["val"] and not source.splits["test"]:
        raise UserError(f"{path} has no {missing}, nor train/ and test/ with class folders.", spec.where)
    return with_own_splits(source, settings)


def with_own_splits(source: Source, settings: SplitSettings) -> Source:
    """A source whose tree has splits keeps them; val is carved where there is none."""
    train, val, test = (source.splits[split] for split in ("train", "val", "test"))
    if not test:
        val, test = [], val
    source.splits = carve(train, val, test, settings)
    return source
