"""Normalised batches, where a plan asks for them: what stands in a batch for each of the 256 levels of each colour.

A table, because a level has only so many values: whoever looks it up gives the same float16 as any other, and a kernel writes
it in the pass that resizes. `loaders/backends/reference.py` computes each value instead.
"""

import numpy as np
import torch
from torch import Tensor

from loaders.plan import LoaderPlan
from writers.errors import UserError


def lookup_table(plan: LoaderPlan) -> np.ndarray:
    """float16 [3, 256]: (level / 255 - mean) / std, rounded once; [0, 256] where batches are uint8.

    Raises UserError where float16 has no such number.
    """
    if plan.dtype == "uint8":
        return np.empty((0, 256), np.float16)
    mean, std = (np.array(values, np.float64)[:, None] for values in (plan.mean, plan.std))
    exact = (np.arange(256) / 255 - mean) / std
    if np.abs(exact).max() > np.finfo(np.float16).max:
        raise UserError(
            f"LoaderPlan.std is {plan.std}; pixels divided by it are beyond the largest float16, 65504."
        )
    return exact.astype(np.float16)


def conversion(plan: LoaderPlan) -> np.ndarray | None:
    """float32 [2, 3], shift and scale: (level - shift) * scale in float32, rounded to float16, is what the table holds.

    None where batches are uint8, or where one of the 768 values differs. Processors convert faster than they look up.
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
    """What the table, on the device of `levels` (uint8 [..., 3]), has for them; the levels themselves where it is empty."""
    if not len(table):
        return levels
    return table.flatten()[
        levels.int() + 256 * torch.arange(3, dtype=torch.int32, device=levels.device)
    ]
