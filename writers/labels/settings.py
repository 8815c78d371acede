"""Settings for labels from a table: its files, and the meaning of its columns."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from writers.regular_file import InputPath

Text = Annotated[str, Field(min_length=1)]


class LabelTable(BaseModel):
    """Table with a row per image: its file, its label or labels, and possibly its split.

    A recipe may give the name of one file, or a list of names, instead of these settings; this sets
    `files`. Columns without a setting are recognized by common names.

    Attributes:
        files: CSV, TSV, JSON, JSON Lines or Parquet; in a recipe, relative to $HARNESS_RAW. Several
            files are parts of one table; each is of the split in its name, such as val.csv.
        file_column: name of the column of image files. These are given with or without extension,
            relative to the images' folder.
        label_columns: name of the column of labels, or names of columns of 0 and 1, one per class.
        split_column: name of the column with train, val, test or common synonyms. An empty string
            means that there is none.
        separator: separates several labels of an image. An empty string means that each value is
            one label. None takes lists apart; a text that may be several labels is refused,
            unless `several` is False.
        several: whether images may have several labels. None infers it from the table: lists, a
            separator, or columns of 0 and 1 in which some row does not have exactly one 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    files: Annotated[tuple[Annotated[Text, InputPath()], ...], Field(min_length=1)]
    file_column: Text | None = None
    label_columns: tuple[Text, ...] = ()
    split_column: str | None = None
    separator: str | None = None
    several: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_names(cls, value: Any) -> Any:
        if isinstance(value, str | list | tuple):
            value = {"files": value}
        if isinstance(value, dict):
            return {
                name: _as_tuple(own) if name in ("files", "label_columns") else own
                for name, own in value.items()
            }
        return value

    @model_validator(mode="after")
    def _check_consistent(self) -> Self:
        if len(set(self.files)) < len(self.files):
            raise ValueError("the table of labels names a file twice")
        if self.separator and self.several is False:
            raise ValueError("a separator of labels has no effect if each image has one label")
        return self

    def below(self, folder: Path) -> "LabelTable":
        """Return the settings with file names that are relative to `folder`."""
        files = tuple(str(folder / Path(file).expanduser()) for file in self.files)
        return self.model_copy(update={"files": files})

    @property
    def paths(self) -> list[Path]:
        """Paths of the files."""
        return [Path(file) for file in self.files]


def _as_tuple(value: Any) -> Any:
    """Return a list, or a single name, as a tuple."""
    return (
        (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    )
