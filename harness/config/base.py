"""The base of all settings, and the kinds of numbers in them."""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from writers.text_names import preview

JSON = dict[str, Any]
# Metric that chooses settings on val, and that reports show. Mean average precision at 11 recalls:
# map11 for several labels per image, map50_11 for boxes of objects at an IoU of 0.5.
Metric = Literal["top1", "mean_per_class", "map11", "map50_11"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=-(2**62), le=2**62)]  # torch takes 64 bits; ranks add to the seed

MAX_LABEL = 100  # characters of a name; names of files may have 255 bytes


def check_text(text: str) -> str:
    """Return the text if it can be a name; otherwise raise ValueError.

    It must be one printable line of at most MAX_LABEL characters, not empty, without outer spaces.
    """
    if not text.strip() or text != text.strip():
        raise ValueError("a name must not begin or end with a space, and must not be empty")
    if not text.isprintable():
        raise ValueError("a name must consist of printable characters, on one line")
    if len(text) > MAX_LABEL:
        raise ValueError(f"a name may have {MAX_LABEL} characters; this has {len(text)}")
    return text


def check_label(text: str) -> str:
    """Return the name if `check_text` accepts it and it is not a path; otherwise raise ValueError.

    `writers.text_names.file_name` derives file names from the name.
    """
    check_text(text)
    if text.startswith((".", "-", "/", "\\")) or ".." in text.replace("\\", "/").split("/"):
        raise ValueError("a name must not be a path, or begin with a dot, dash or slash")
    return text


def repeated(values: Iterable[Any]) -> str:
    """Format the first values that occur more than once; empty if there are none."""
    return preview([str(value) for value, number in Counter(values).items() if number > 1])


Label = Annotated[str, AfterValidator(check_label)]
OneLine = Annotated[str, AfterValidator(check_text)]


class Settings(BaseModel):
    """Frozen settings. An unknown key is an error, and so is a setting that has no effect.

    Validators are built when they are first used, because most commands use few of them.

    Attributes:
        ADDED_LATER: fields that `resolved` leaves out at their default. They were added when
            results existed, and a new key in the settings would change the keys of stages.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    def without_effect(self) -> dict[str, str]:
        """Return field -> reason for each field that has no effect with the other fields' values.

        Such a field must not be set, and `resolved` leaves it out.
        """
        return {}

    def resolved(self) -> JSON:
        """Dump every setting that has an effect, with all defaults except those of ADDED_LATER.

        Validating the result gives equal settings.
        """
        fields = type(self).model_fields
        absent = {name for name in self.ADDED_LATER if getattr(self, name) == fields[name].default}
        settings = self.model_dump(mode="json", exclude=absent | set(self.without_effect()))
        for name in settings:
            if isinstance(value := getattr(self, name), Settings):
                settings[name] = value.resolved()
        return settings

    @model_validator(mode="after")
    def _check_effects(self) -> Self:
        for name, reason in self.without_effect().items():
            if name in self.model_fields_set and getattr(self, name) is not None:
                raise PydanticCustomError(
                    "no_effect", "{reason}", {"field": name, "reason": reason}
                )
        return self
