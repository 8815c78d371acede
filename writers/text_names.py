"""Convert file names to text in one Unicode form, with escapes for bytes that are not UTF-8.

Python represents undecodable bytes of file names as lone surrogates, which cannot be encoded. Names
of classes and images must be equal for a folder and its archive, and on every file system: macOS
decomposes accents, and Linux allows any bytes.
"""

import re
import unicodedata
from collections.abc import Sequence

_COLORS = re.compile(r"\x1b\[[0-9;]*m")  # codes of terminal colors (SGR)
# Control characters, line separators, changes of direction, and halves of surrogate pairs.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MAX_PATH = 4096  # characters of a path in an archive or table; Linux allows 4095 bytes
MAX_LINE = 1000  # characters of a line of a message; longer lines are shortened
MAX_FILE_NAME = 200  # bytes of a name without its extension; file systems allow 255 in total


def printable(name: str) -> str:
    r"""Replace control characters, line breaks and bytes that are not UTF-8 by escapes."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in _encodable(name)
    )


def printable_lines(text: str) -> str:
    """Remove colors, and replace control characters by escapes, except line breaks and tabs.

    A carriage return, as in progress bars, becomes a line break. All kinds of spaces are kept.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _COLORS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    if not _CONTROLS.search(text):
        return text
    return _CONTROLS.sub(lambda found: printable(found.group()), _encodable(text))


def normalized(name: str) -> str:
    r"""Return a file name as text in Unicode form NFC; undecodable bytes become \xNN."""
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", _encodable(name))


def preview(names: Sequence[str], number: int = 5) -> str:
    """Format the first `number` names for a message."""
    return ", ".join(map(printable, names[:number])) + (", ..." if len(names) > number else "")


def counted(number: int, noun: str, verbs: tuple[str, str] | None = None) -> str:
    """Format a number with its noun: 1 image, 2,000 images, 3 classes, 0 entries.

    Args:
        number: the number.
        noun: the noun in the singular.
        verbs: a verb to add, in the singular and the plural, such as ("has", "have"). None adds
            no verb.
    """
    if verbs is not None:
        return f"{counted(number, noun)} {verbs[number != 1]}"
    if number == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{number:,} {noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}s"


def percent(fraction: float, decimals: int) -> str:
    """Format a fraction as a percentage without the percent sign. Only 1 is printed as 100."""
    text = f"{100 * fraction:.{decimals}f}"
    if fraction < 1 and float(text) >= 100:
        return f"{100 - 10.0**-decimals:.{decimals}f}"
    return text


def shortened(text: str) -> str:
    """Remove the middle of lines that have more than MAX_LINE characters."""
    if len(text) <= MAX_LINE:
        return text
    return "\n".join(
        line if len(line) <= MAX_LINE else f"{line[: MAX_LINE // 2]} ... {line[-MAX_LINE // 4 :]}"
        for line in text.split("\n")
    )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _encodable(text: str) -> str:
    r"""Replace undecodable bytes by \xNN, and other lone surrogates by \uNNNN.

    JSON may contain any surrogate, file names only those that represent undecodable bytes.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def decoded(name: bytes) -> str:
    """Decode a name as Python decodes file names: bytes that are not UTF-8 become surrogates."""
    return name.decode("utf-8", "surrogateescape")


def file_name(text: str) -> str:
    """Make a file or folder name: slashes, control characters, a first dot or dash become `_`.

    If the name is too long, its middle is removed, because the end usually identifies the file.
    """
    name = "".join(
        character if character.isprintable() and character not in "/\\" else "_"
        for character in text
    )
    name = f"_{name[1:]}" if name.startswith((".", "-")) else name
    data = name.encode("utf-8", "surrogateescape")
    if len(data) > MAX_FILE_NAME:
        data = data[:100] + b"_" + data[-(MAX_FILE_NAME - 101) :]
    return data.decode("utf-8", "ignore")
