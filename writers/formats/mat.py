"""Read MATLAB files of datasets with scipy."""

import io
from typing import Any

from writers.errors import UserError


def read_mat(data: bytes, where: str) -> dict[str, Any]:
    """Return name -> value of the variables of a .mat file. Raises UserError if it is damaged.

    Axes of length 1 are removed from the values.
    """
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(io.BytesIO(data), squeeze_me=True)
    except Exception as error:  # scipy raises many exception types
        raise UserError(
            f"{where} is not a complete MATLAB file: {error}", "Download it again."
        ) from error
    return content


def variable(content: dict[str, Any], name: str, where: str) -> Any:
    """Return a variable of a MATLAB file. Raises UserError if it is missing."""
    if name not in content:
        raise UserError(f"{where} has no variable {name}.", "Download it again.")
    return content[name]
