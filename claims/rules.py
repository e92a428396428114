"""The rules by which the claims hold: small functions of numbers, fixed before the runs they judge.

Each takes what was measured and returns whether the claim holds. A period, and what "periodic"
means, is defined in `theory.periods`.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau, t

from theory.regimes import REGIMES

SHARE = 0.9  # of the cases that a rule is about
SLOPE = (0.85, 1.15)  # of the frequency against ηλ, in logarithms
FIRST = 6  # periods whose minima are to improve
TURNING = 0.7  # of the weights, near destabilisations
LENGTH = (1.0, 1.3)  # of phase B, in units of its shortest length
SIGNIFICANT = 0.05  # level of a trend
NO_TREND = 0.2  # Kendall's τ of an equilibrium's loss with time, at most
SWING = 5.0  # of an equilibrium's loss: its 90 % quantile over its 10 % quantile, at most
CLOSE = 0.1  # relative error of a forecast
ALIKE = 1.5  # factor between two levels of the same thing
CHAOTIC_RATES = 4  # whose levels rank in order
WANDERS = 0.1  # of the cosines of a random walk, at most


def trend(values: Sequence[float]) -> float:
    """Kendall's τ of values with their order."""
    return float(kendalltau(np.arange(len(values)), values).statistic)


def has_no_trend(values: Sequence[float], tests: int) -> bool:
    """Whether Kendall's τ is compatible with none, at a level of 5 % for so many tests together."""
    p = kendalltau(np.arange(len(values)), values).pvalue
    return not p < SIGNIFICANT / tests  # NaN if constant


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean over seeds (Student's t); (NaN, NaN) for fewer than two.

    Parameters
    ----------
    values : one number of each seed.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float("nan"), float("nan")
    width = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - width), float(values.mean() + width)


def median_interval(seeds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % bootstrap interval of the median of all values; (NaN, NaN) for fewer than two seeds.

    Whole seeds are drawn, since the values of one are not independent (percentiles, 2,000 draws of
    a fixed generator).

    Parameters
    ----------
    seeds : the values of each seed.
    """
    if len(seeds) < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(0).integers(len(seeds), size=(2000, len(seeds)))
    medians = [np.median(np.concatenate([seeds[i] for i in draw])) for draw in draws]
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


# --- P1 ---


def all_periodic(periodic: Sequence[Sequence[bool]]) -> bool:
    """Every run of every line is periodic after one e-fold of weight decay."""
    return all(len(line) > 0 and all(line) for line in periodic)


def wide_range(
    values: Sequence[float],
    periodic: Sequence[Sequence[bool]],
    at_smallest: Sequence[int],
    at_largest: Sequence[bool],
    error: Sequence[float],
    trends: Sequence[float],
) -> bool:
    """Periodic at every value over a decade; no period at the smallest; chaos at the largest.

    Parameters
    ----------
    values, periodic : the rates between the ends, and whether each of their runs is periodic.
    at_smallest : number of periods of the runs at the smallest rate, too small for one e-fold.
    at_largest : whether the runs at the largest rate are periodic.
    error, trends : their training error as a fraction of guessing's, and Kendall's τ of their loss,
        in the second half.
    """
    ends = not any(at_smallest) and not any(at_largest)
    chaos = all(0.05 <= e <= 0.8 for e in error) and all(abs(tau) < NO_TREND for tau in trends)
    return max(values) >= 10 * min(values) and all_periodic(periodic) and ends and chaos


def the_norm_is_the_cause(free: Sequence[bool], held: Sequence[bool]) -> bool:
    """Of branches in phase B: the free ones destabilise in time in >= 90 %, the held in <= 10 %."""
    return np.mean(free) >= SHARE and np.mean(np.logical_not(held)) >= SHARE


def proportional(interval: tuple[float, float]) -> bool:
    """The 95 % interval of the exponent over seeds lies inside [0.85, 1.15]."""
    return SLOPE[0] <= interval[0] and interval[1] <= SLOPE[1]


def as_long_as_decay_takes(ratios: Sequence[float]) -> bool:
    """At least 90 % of the periods: steps of phase B over ln(ρ_high / ρ_low) / (ηλ) in [1, 1.3]."""
    ratios = np.asarray(ratios)
    return np.mean((ratios >= LENGTH[0]) & (ratios <= LENGTH[1])) >= SHARE


def consistent(
    lengths: Sequence[float],
    highs: Sequence[float],
    lows: Sequence[float],
    cv: float,
    inside: Sequence[float],
    runs: int,
) -> bool:
    """One run: no trend in lengths and in the extremes of ρ, regular, ρ where theory puts it.

    A trend is one at a level of 5 % for the three tests of all runs together (Bonferroni).

    Parameters
    ----------
    lengths, highs, lows : lengths of its periods after one e-fold, ρ at its maxima and minima.
    cv : coefficient of variation of the lengths.
    inside : of each period, from turn to turn, the share of its steps with ρ between the
        equilibrium norms of the smallest and the largest effective gradient of the period.
    runs : how many there are.
    """
    steady = all(has_no_trend(values, 3 * runs) for values in (lengths, highs, lows))
    return steady and cv < 0.5 and min(inside) == 1


def bounded(below: Sequence[bool], above: Sequence[bool]) -> bool:
    """Of branches below the rate at which a δ-jump is possible <= 10 % jump, and >= 90 % of those
    above the rate at which it is guaranteed; there are both."""
    if not len(below) or not len(above):
        return False
    return np.mean(np.logical_not(below)) >= SHARE and np.mean(above) >= SHARE


def forecast(ratios: Sequence[float]) -> bool:
    """Every ρ is within 10 % of its forecast."""
    return all(abs(ratio - 1) <= CLOSE for ratio in ratios)


def different_functions(gain_of_periods: Sequence[float], gain_within: Sequence[float]) -> bool:
    """Later periods add more to an ensemble than checkpoints of the same period, every seed."""
    return all(a > b for a, b in zip(gain_of_periods, gain_within, strict=True))


def turning_is_near(shares: Sequence[Sequence[float]]) -> bool:
    """In the mean of the seeds at least 70 % of the turning of the weights is within 3 epochs of
    destabilisations, with every data set."""
    return all(np.mean(seeds) >= TURNING for seeds in shares)


def improve(errors: Sequence[Sequence[float]]) -> bool:
    """Kendall's τ of the test errors at the first six minima is below 0 in 4 of 5 seeds."""
    falls = [trend(seed[:FIRST]) < 0 for seed in errors]
    return np.mean(falls) >= 0.8


def postponed(parents: Sequence[float], branches: Sequence[float]) -> bool:
    """With half the rate, the destabilisation comes later in at least 90 % of branches."""
    return np.mean(np.asarray(branches) > np.asarray(parents)) >= SHARE


# --- P2 ---


def is_equilibrium(loss: Sequence[float]) -> bool:
    """Whether the second half of a record of the loss shows no trend, and a steady level."""
    late = np.asarray(loss)[len(loss) // 2 :]
    low, high = np.percentile(late, (10, 90))
    return abs(trend(late)) < NO_TREND and bool(high / low < SWING)


def in_order(names: Sequence[str]) -> bool:
    """Whether these regimes, by rising rate, are all three in their order."""
    return {*names} == {*REGIMES} and [*names] == sorted(names, key=REGIMES.index)


def three_regimes(
    names: Sequence[Sequence[str]],
    chaotic_levels: Sequence[Sequence[float]],
    equilibria: Sequence[Sequence[bool]],
    walks: Sequence[Sequence[float]],
) -> bool:
    """In every seed the regimes come in order, and the levels of at least four chaotic rates too.

    In divergence the weights walk at random: cosines are within 0.1 of a random walk's.

    Parameters
    ----------
    names : of the regimes of a seed, by rising rate.
    chaotic_levels, equilibria : loss levels of its chaotic rates, and whether each is_equilibrium.
    walks : of its divergent rates, the largest difference from the cosines of a random walk.
    """
    levels = all(
        len(seed) >= CHAOTIC_RATES and list(seed) == sorted(seed) for seed in chaotic_levels
    )
    wandering = all(gap <= WANDERS for seed in walks for gap in seed)
    return all(map(in_order, names)) and levels and all(map(all, equilibria)) and wandering


def alike_at_the_same_rate(loss: Sequence[float], gradient: Sequence[float]) -> bool:
    """Ordinary chaos over the sphere at the same η̃: both ratios within a factor 1.5, every run."""
    ratios = np.concatenate([loss, gradient])
    return bool(np.all((ratios <= ALIKE) & (ratios >= 1 / ALIKE)))


def better_with_the_rate(
    errors: Sequence[Sequence[float]], gradients: Sequence[Sequence[float]]
) -> bool:
    """At equal training loss, error and effective gradient fall with the rate, in every seed."""
    return all(list(seed) == sorted(seed, reverse=True) for seed in (*errors, *gradients))


def better_optima(dropped: Sequence[float], constant: Sequence[float]) -> bool:
    """The test error of the dropped rate is lower in every seed."""
    return all(a < b for a, b in zip(dropped, constant, strict=True))


def toy_regimes(boundary: float, bound: float, names: Sequence[str], levels: dict) -> bool:
    """The boundary within 1 % of 2/Σα, the regimes in order, the levels at ELR 1 and 1000."""
    near = abs(levels[1] / 1.27 - 1) < 0.02 and abs(levels[1000] / 1.75 - 1) < 0.02
    return abs(boundary / bound - 1) < 0.01 and in_order(names) and near
