"""File names as text: in one Unicode form, with bytes that are not UTF-8 as escapes.

Python represents undecodable bytes of file names as lone surrogates, which cannot be encoded. Names
of classes and images must be equal for a folder and its archive, and on every file system: macOS
decomposes accents, Linux keeps any bytes.
"""

import unicodedata


def printable(name: str) -> str:
    r"""Replace bytes that are not UTF-8 by escapes such as \xe9, and line breaks by spaces."""
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
