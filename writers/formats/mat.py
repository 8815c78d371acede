"""MATLAB files of datasets: what scipy makes of them, in plain lists."""

import io
from typing import Any

from writers.errors import UserError


def read_mat(data: bytes, where: str) -> dict[str, Any]:
    """The variables of a .mat file. Raises UserError for one that is damaged."""
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(io.BytesIO(data), squeeze_me=True)
    except Exception as error:  # scipy raises what it likes
        raise UserError(
            f"{where} is not a whole MATLAB file: {error}", "Fetch it again."
        ) from error
    return content


def variable(content: dict[str, Any], name: str, where: str) -> Any:
    if name not in content:
        raise UserError(f"{where} has no variable {name}.", "Fetch it again.")
    return content[name]
