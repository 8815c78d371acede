"""A number from several seeds: mean, spread and a t interval; and the difference of two settings, paired by seed."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Cell = tuple[str, ...]  # where in the matrix a number stands, apart from its seed: (target, eps)


@dataclass(frozen=True)
class Estimate:
    """The mean over `num_seeds` runs. `sd` (sample standard deviation) is None for one run: nothing was repeated."""

    mean: float
    sd: float | None
    num_seeds: int

    @property
    def half_width(self) -> float | None:
        """Half the 95 % t interval of the mean; None for one run."""
        if self.sd is None:
            return None
        return t_quantile_975(self.num_seeds - 1) * self.sd / math.sqrt(self.num_seeds)

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero. Never true of one run."""
        return self.half_width is not None and abs(self.mean) > self.half_width


@dataclass(frozen=True)
class Difference:
    """Setting minus baseline: averaged over `cells` within each seed, then estimated over seeds."""

    estimate: Estimate
    cells: tuple[Cell, ...]


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and sample standard deviation; at least one value."""
    numbers = list(values)
    return Estimate(
        mean=statistics.fmean(numbers),
        sd=statistics.stdev(numbers) if len(numbers) > 1 else None,
        num_seeds=len(numbers),
    )


def paired_difference(
    values: Mapping[tuple[int, Cell], float], baseline: Mapping[tuple[int, Cell], float]
) -> Difference | None:
    """`values - baseline`, both keyed by (seed, cell); None where no seed has one cell on both sides.

    The seed is what was repeated, so each seed gives one number: its mean difference over the cells (eps, targets).
    All seeds must speak of the same cells: the largest set that some seed has; seeds that lack a part of it wait.
    """
    by_seed: defaultdict[int, dict[Cell, float]] = defaultdict(dict)
    for (seed, cell), value in values.items():
        if (seed, cell) in baseline:
            by_seed[seed][cell] = value - baseline[seed, cell]
    if not by_seed:
        return None
    cells = max(
        (tuple(sorted(differences)) for differences in by_seed.values()),
        key=lambda cells: (len(cells), cells),
    )
    means = [
        statistics.fmean(differences[cell] for cell in cells)
        for _, differences in sorted(by_seed.items())
        if set(cells) <= set(differences)
    ]
    return Difference(estimate(means), cells)


# Student's t, 97.5 % quantile, for 1 to 9 degrees of freedom; the series below is good to 4 digits from 10 on.
_T_975 = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)
_Z_975 = 1.959963985


def t_quantile_975(degrees_of_freedom: int) -> float:
    """97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5 from 10 degrees of freedom on)."""
    assert degrees_of_freedom >= 1
    if degrees_of_freedom <= len(_T_975):
        return _T_975[degrees_of_freedom - 1]
    z, n = _Z_975, degrees_of_freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def is_near_chance(top1: float, num_answers: int | None, num_images: int) -> bool:
    """Whether `top1` lies below chance plus three binomial standard errors, chance being 1 / num_answers."""
    if not num_answers or num_images < 1:
        return False
    chance = 1 / num_answers
    return top1 <= chance + 3 * math.sqrt(chance * (1 - chance) / num_images)


def difference_noise(top1: float, num_images: int) -> float:
    """1.96 standard errors of the difference of two accuracies near `top1` on so many images each.

    For independent images; two models on the same images differ by less than that wherever their errors coincide.
    """
    return _Z_975 * math.sqrt(2 * top1 * (1 - top1) / num_images) if num_images else 1.0
