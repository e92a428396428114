"""Estimates over seeds: intervals, verdicts, and how many seeds a verdict needs.

The seed is the unit: what is measured on one seed (branches, periods, checkpoints) is averaged or
drawn as a whole before seeds are compared. Intervals of means have 95 %; an estimate is shown to be
inside a margin if this interval is, which is two one-sided tests at 2.5 % (TOST). Intervals of
shares have 90 %: each limit is a one-sided bound of 95 %.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

MEANS, SHARES = 0.95, 0.9  # coverage of the intervals
VERDICTS = ("supported", "contradicted", "undecided")
ABOVE, BELOW = (lambda x: (x, math.inf)), (lambda x: (-math.inf, x))  # one-sided margins
POWER_DRAWS = 20_000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; NaN limits where the seeds do not suffice."""

    value: float
    low: float
    high: float

    def map(self, function: Callable[[float], float]) -> "Interval":
        """The interval of an increasing function of the estimate, such as exp of a mean log."""
        return Interval(*map(function, (self.value, self.low, self.high)))


def of_share(successes: int, seeds: int, level: float = SHARES) -> Interval:
    """Share of seeds with its Clopper-Pearson interval.

    Raises
    ------
    ValueError : not 0 <= successes <= seeds.
    """
    if seeds == 0:
        return Interval(math.nan, math.nan, math.nan)
    limits = stats.binomtest(successes, seeds).proportion_ci(level, method="exact")
    return Interval(successes / seeds, float(limits.low), float(limits.high))


def of_mean(
    values: Sequence[float], bounds: tuple[float, float] | None = None, level: float = MEANS
) -> Interval:
    """Mean over seeds with Student's interval; without limits for fewer than two seeds.

    Parameters
    ----------
    values : (n,) one number of each seed.
    bounds : the range of values that are bounded, such as a share or a difference of shares. Where
        all seeds are alike Student's interval has no width; its limits are then those of the exact
        binomial interval, as if the seeds that were not seen were at the far bound.
    """
    values = np.asarray(values, dtype=float)
    n, mean = len(values), float(values.mean()) if len(values) else math.nan
    if n < 2 or not np.isfinite(values).all():
        return Interval(mean, math.nan, math.nan)
    spread = float(values.std(ddof=1))
    if bounds is not None and spread < 1e-12 * (bounds[1] - bounds[0]):
        unseen = 1 - ((1 - level) / 2) ** (1 / n)
        low, high = ((1 - unseen) * mean + unseen * bound for bound in bounds)
        return Interval(mean, low, high)
    width = float(stats.t.ppf((1 + level) / 2, n - 1)) * spread / math.sqrt(n)
    return Interval(mean, mean - width, mean + width)


def of_ratio(values: Sequence[float], level: float = MEANS) -> Interval:
    """Geometric mean of positive numbers over seeds with Student's interval in logarithms."""
    return of_mean(np.log(np.asarray(values, dtype=float)), level=level).map(math.exp)


def of_seeds(
    seeds: Sequence[Sequence[float]],
    statistic: Callable[[np.ndarray], float] = np.median,
    level: float = MEANS,
) -> Interval:
    """A statistic of all values with the percentile interval of a bootstrap of whole seeds.

    Too short for few seeds: of 5 to 8 it covers the truth in 89 to 90 %, where it says 95.

    Parameters
    ----------
    seeds : the values of each seed; without limits for fewer than two seeds.
    """
    seeds = [np.asarray(seed, dtype=float) for seed in seeds if len(seed)]
    value = float(statistic(np.concatenate(seeds))) if seeds else math.nan
    if len(seeds) < 2:
        return Interval(value, math.nan, math.nan)
    limits = stats.bootstrap(
        (np.arange(len(seeds)),),
        lambda drawn: statistic(np.concatenate([seeds[i] for i in drawn])),
        confidence_level=level, n_resamples=2000, vectorized=False, method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Interval(value, float(limits.low), float(limits.high))


def verdict(interval: Interval, inside: tuple[float, float]) -> str:
    """What an interval says of the margin, the open range of values `inside` which the claim holds.

    "supported": the interval lies inside; "contradicted": wholly outside; else "undecided".
    """
    if inside[0] < interval.low and interval.high < inside[1]:
        return "supported"
    if interval.high <= inside[0] or interval.low >= inside[1]:
        return "contradicted"
    return "undecided"


def together(verdicts: Sequence[str]) -> str:
    """The verdict on a claim that needs several estimates: supported if every one is."""
    if "contradicted" in verdicts:
        return "contradicted"
    return "supported" if verdicts and set(verdicts) == {"supported"} else "undecided"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope of the least-squares line; NaN with fewer than two finite points."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    return float(np.polyfit(x[known], y[known], 1)[0]) if known.sum() > 1 else math.nan


def power_of_share(seeds: int, share: float, inside: tuple[float, float] = ABOVE(0.5)) -> float:
    """Probability that the verdict on a share is "supported" where the true one is `share`."""
    counts = np.arange(seeds + 1)
    yes = [verdict(of_share(int(k), seeds), inside) == "supported" for k in counts]
    return float(stats.binom.pmf(counts, seeds, share)[yes].sum())


def power_of_mean(seeds: int, mean: float, spread: float, inside: tuple[float, float]) -> float:
    """Probability that the verdict on a mean is "supported", by simulation.

    Parameters
    ----------
    mean, spread : of normally distributed seeds, the standard deviation being `spread`.
    """
    rng = np.random.default_rng(0)
    means = mean + spread / math.sqrt(seeds) * rng.normal(size=POWER_DRAWS)
    found = spread * np.sqrt(rng.chisquare(seeds - 1, POWER_DRAWS) / (seeds - 1))
    width = stats.t.ppf((1 + MEANS) / 2, seeds - 1) * found / math.sqrt(seeds)
    return float(np.mean((means - width > inside[0]) & (means + width < inside[1])))
