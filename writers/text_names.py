"""File names as text: in one Unicode form, with bytes that are not UTF-8 as escapes.

Python represents undecodable bytes of file names as lone surrogates, which cannot be encoded. Names
of classes and images must be equal for a folder and its archive, and on every file system: macOS
decomposes accents, Linux keeps any bytes.
"""

import unicodedata

MAX_FILE_NAME = 200  # bytes; file systems allow 255, of which endings take some


def printable(name: str) -> str:
    r"""Replace control characters, line breaks and bytes that are not UTF-8 by escapes."""
    if name.isascii() and name.isprintable():
        return name
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in name
    )


def normalized(name: str) -> str:
    r"""Return a file name as text in Unicode form NFC; undecodable bytes become \xNN."""
    if name.isascii():
        return name
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", name)


def decoded(name: bytes) -> str:
    """Decode a name of an archive as Python decodes file names: other bytes become surrogates."""
    return name.decode("utf-8", "surrogateescape")


def file_name(text: str) -> str:
    """Return text as the name of one file or folder: slashes and control characters become `_`.

    A long name loses its middle, since names in use end with a key.
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
