"""Decode the text files that people bring: class lists, tables of labels, recipes."""

from pathlib import Path

from writers.errors import UserError
from writers.text_names import printable

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
LIKELY = "cp1252"  # Windows-1252, in which Excel saves a CSV; a superset of printable Latin-1
MAX_SHOWN = 60  # characters of a line in a message
TO_UTF8 = (
    "Save it as UTF-8 (in Excel: `CSV UTF-8`). If it is in Windows-1252, run "
    "iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW."
)


def decode(data: bytes, name: Path | str) -> str:
    """Decode a text in UTF-8, or in UTF-16 if it begins with a byte order mark.

    Args:
        data: content of the file.
        name: path of the file, for the message.

    Raises:
        UserError: the text has another encoding. The message names the first such line.
    """
    try:
        if data.startswith(UTF16_MARKS):
            return data.decode("utf-16")
        return data.removeprefix(UTF8_MARK).decode()
    except UnicodeDecodeError as error:
        text = error.object
        number = text.count(b"\n", 0, error.start) + 1
        begin = text.rfind(b"\n", 0, error.start) + 1
        line = text[begin:].partition(b"\n")[0].decode(LIKELY, "replace").strip()
        raise UserError(
            f"{name}:{number} cannot be read as text in UTF-8: '{printable(line[:MAX_SHOWN])}'.",
            TO_UTF8,
        ) from error


def has_undecoded_bytes(text: str) -> bool:
    """Return True if a text has bytes that are not UTF-8, as Python keeps them in file names."""
    return not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text)


def likely_text(text: str) -> str:
    """Return a text with its undecoded bytes read as LIKELY, to show it in a message."""
    return printable(text.encode("utf-8", "surrogateescape").decode(LIKELY, "replace"))
