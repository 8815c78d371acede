"""Options of Python that a command and all processes that it starts need."""

import os
import sys
from pathlib import Path

UTF8 = "PYTHONUTF8"  # "1" switches on Python's UTF-8 mode
ROOT = Path(__file__).parents[2]  # folder of the package


def variables() -> dict[str, str]:
    """Return variables with which Python does not import from the working directory.

    The user's folder may have a `loaders/`, a `timm/` or a `queue.py`, which processes started by
    `python -m` would import in place of others. If the package is a checkout, its folder is on the
    path: it may not be installed.
    """
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    is_checkout = (ROOT / "pyproject.toml").is_file()
    if is_checkout and str(ROOT) not in path:
        path.insert(0, str(ROOT))
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, path))}


def set_options() -> None:
    """Set `variables`, and use UTF-8, for which this program may be started again.

    Python decodes names of files by the locale. Ids of images, and with them orders and splits,
    are derived from names: in ISO-8859-1 they would be others than in UTF-8.
    """
    os.environ.update(variables())
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get(UTF8) != "1":
        os.environ[UTF8] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
