"""Smooth an estimate of the remaining time, so that the displayed one does not jump."""

import math
from dataclasses import dataclass

SHARE = 0.03  # time constant of the smoothing, as a fraction of the run's total time


@dataclass
class Smoothed:
    """Exponential mean of the estimated total time of a run.

    Attributes:
        total_s: Smoothed total; None before the first estimate.
        at_s: Time of the last estimate, in seconds since the start of the run.
    """

    total_s: float | None = None
    at_s: float = 0.0

    def next(self, elapsed_s: float, left_s: float | None) -> float | None:
        """Add an estimate and return the remaining seconds to display.

        Args:
            elapsed_s: Time since the start of the run.
            left_s: Estimated remaining time; None if it is unknown. None is then returned.
        """
        if left_s is None:
            return None
        total_s = elapsed_s + left_s
        if self.total_s is None:
            self.total_s = total_s
        else:
            weight = -math.expm1(-(elapsed_s - self.at_s) / (SHARE * max(total_s, 1e-9)))
            self.total_s += weight * (total_s - self.total_s)
        self.at_s = elapsed_s
        return max(0.0, self.total_s - elapsed_s)
