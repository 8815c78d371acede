"""Make a program independent of the locale's encoding."""

import os
import sys

VARIABLE = "PYTHONUTF8"  # "1" switches on Python's UTF-8 mode, also in processes started later


def ensure_utf8() -> None:
    """Start this program again in Python's UTF-8 mode if the locale has another encoding.

    Python decodes names of files by the locale. Ids of images, and with them orders and splits,
    are derived from names: in ISO-8859-1 they would be others than in UTF-8.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get(VARIABLE) == "1":
        return
    os.environ[VARIABLE] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
