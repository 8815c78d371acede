"""Normalize batches to float16 with a lookup table: one value for each of 256 levels and 3 colors.

Every kernel that reads the table gives the same float16 values, and can write them in the same pass
as the resize. `loaders/backends/reference.py` computes each value instead.
"""

import numpy as np
import torch
from torch import Tensor

from loaders.plan import LoaderPlan
from writers.errors import UserError


def lookup_table(plan: LoaderPlan) -> np.ndarray:
    """Return float16 [3, 256]: (level / 255 - mean) / std, rounded once; [0, 256] for uint8 plans.

    Raises:
        UserError: a value exceeds the range of float16.
    """
    if plan.dtype == "uint8":
        return np.empty((0, 256), np.float16)
    mean, std = (np.array(values, np.float64)[:, None] for values in (plan.mean, plan.std))
    exact = (np.arange(256) / 255 - mean) / std
    if np.abs(exact).max() > np.finfo(np.float16).max:
        raise UserError(
            f"LoaderPlan.std is {plan.std}; pixels divided by it exceed float16's maximum, 65504.",
            "Set std for pixels in [0, 1], such as ImageNet's (0.229, 0.224, 0.225).",
        )
    return exact.astype(np.float16)


def conversion(plan: LoaderPlan) -> np.ndarray | None:
    """Return shift and scale, float32 [2, 3], that reproduce the lookup table arithmetically.

    (level - shift) * scale in float32, rounded to float16, equals the table. CPUs compute this
    faster than they read the table. Returns None for uint8 plans, and if one of the 768 values
    would differ.
    """
    if plan.dtype == "uint8":
        return None
    mean, std = np.array(plan.mean, np.float64), np.array(plan.std, np.float64)
    shift, scale = (255 * mean).astype(np.float32), (1 / (255 * std)).astype(np.float32)
    levels = np.arange(256, dtype=np.float32)
    with np.errstate(over="ignore"):
        values = ((levels - shift[:, None]) * scale[:, None]).astype(np.float16)
    return np.stack([shift, scale]) if (values == lookup_table(plan)).all() else None


def look_up(table: Tensor, levels: Tensor) -> Tensor:
    """Map levels (uint8 [..., 3]) to the table's values. The table must be on the same device.

    Returns the levels themselves if the table is empty.
    """
    if not len(table):
        return levels
    return table.flatten()[
        levels.int() + 256 * torch.arange(3, dtype=torch.int32, device=levels.device)
    ]
