"""Intervals cover what they say, and verdicts follow from interval and margin alone."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from claims import statistics
from claims.statistics import ABOVE, BELOW, Estimate, mean, median, ratio, share


def coverage(truth, draws, estimate):
    """In which share of the draws the interval of its seeds holds the truth."""
    found = [estimate("", seeds) for seeds in draws]
    return np.mean([e.low <= truth <= e.high for e in found])


def of_count(successes, seeds):
    return share("", [i < successes for i in range(seeds)])


def test_intervals_of_shares_cover_at_least_90_percent():
    intervals = [of_count(k, 12) for k in range(13)]
    for truth in (0.5, 0.8, 0.95):
        covered = [e.low <= truth <= e.high for e in intervals]
        assert 0.9 <= binom.pmf(range(13), 12, truth)[covered].sum() < 1


@pytest.mark.parametrize("seeds", [5, 12])
def test_intervals_of_means_cover_the_truth_in_95_percent(seeds):
    draws = np.random.default_rng(0).normal(3, 2, (1500, seeds))
    assert coverage(3, draws, mean) == pytest.approx(0.95, abs=0.015)
    assert coverage(math.exp(3), np.exp(draws), ratio) == pytest.approx(0.95, abs=0.015)


def test_a_bootstrap_of_few_whole_seeds_covers_less_and_its_docstring_says_so():
    """The values of a seed share its level: one by one they would cover far less."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(40, 5, 1)) + 0.3 * rng.normal(size=(40, 5, 4))
    assert 0.75 < coverage(0, [[*draw] for draw in draws], median) < 0.94


def test_shares_are_clopper_pearsons():
    found = of_count(10, 12)
    assert found.value == 10 / 12
    assert (found.low, found.high) == pytest.approx(beta.ppf([0.05, 0.95], [10, 11], [3, 2]))
    # What the designs say: 10 of 12 and 7 of 8 are more than half; 2 of 12 and 1 of 8 are not.
    for count, seeds, expected in ((10, 12, "supported"), (9, 12, "undecided"), (7, 8, "supported"),
                                   (6, 8, "undecided"), (3, 12, "undecided"),
                                   (2, 12, "contradicted"), (1, 8, "contradicted")):  # fmt: skip
        assert of_count(count, seeds).verdict == expected


def test_seeds_that_are_all_alike_leave_doubt():
    """Of a bounded number: as if the seeds not seen were at the far bound."""
    found = mean("", [1.0] * 8, bounds=(0, 1))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025 ** (1 / 8))  # exact binomial limit of 8 of 8
    # Of a difference of shares, where the others may be as far on the other side
    fewest = [mean("", [1.0] * n, ABOVE(0.5), bounds=(-1, 1)) for n in (12, 13)]
    assert fewest[0].low == pytest.approx(2 * 0.025 ** (1 / 12) - 1)
    assert [found.verdict for found in fewest] == ["undecided", "supported"]
    negative = mean("", [-1.0] * 8, bounds=(-1, 1))
    assert negative.low == negative.value == -1 < negative.high < 0
    assert mean("", [1.0] * 8).low == 1  # nothing is known of an unbounded one
    assert mean("", [0.8, 0.9, 1.0], bounds=(0, 1)).low == mean("", [0.8, 0.9, 1.0]).low


@pytest.mark.parametrize("seeds", [[], [1.0], [1.0, math.nan]])
def test_without_enough_seeds_nothing_is_decided(seeds):
    found = mean("", seeds, ABOVE(0))
    assert math.isnan(found.low) and found.verdict == "undecided"
    assert math.isnan(median("", [seeds[:1]]).low)


def test_the_median_is_of_all_values_and_a_seed_is_a_point():
    found = median("", [[1, 2, 9], [], [4, 4]], (1, 5))
    assert (found.value, found.seeds, found.inside) == (4, [2, 4], (1, 5))
    assert found.low == 2 and found.high == 4


@pytest.mark.parametrize("low, high, inside, expected", [
    (0.6, 0.9, ABOVE(0.5), "supported"), (0.4, 0.9, ABOVE(0.5), "undecided"),
    (0.5, 0.9, ABOVE(0.5), "undecided"), (0.1, 0.5, ABOVE(0.5), "contradicted"),
    (-2, -1, BELOW(0), "supported"), (-2, 1, BELOW(0), "undecided"),
    (0.8, 1.2, (0.75, 1.25), "supported"), (0.8, 1.25, (0.75, 1.25), "undecided"),
    (1.3, 1.4, (0.75, 1.25), "contradicted"), (0.5, 0.7, (0.75, 1.25), "contradicted"),
    (0.5, 2, (0.75, 1.25), "undecided"), (0.5, 0.7, None, None),
])  # fmt: skip
def test_verdicts_at_inside_and_outside_the_margin(low, high, inside, expected):
    assert Estimate("", [], (low + high) / 2, low, high, inside).verdict == expected


@pytest.mark.parametrize("intervals, expected", [
    ([(1, 2)] * 3, "supported"), ([(1, 2), (-1, 2)], "undecided"),
    ([(-1, 2), (-2, -1), (1, 2)], "contradicted"), ([], "undecided"),
])  # fmt: skip
def test_a_claim_needs_every_estimate_that_is_judged(intervals, expected):
    estimates = [Estimate("", [], 0, *limits, ABOVE(0)) for limits in intervals]
    beside = [Estimate("", [], -1, -2, -1)]
    assert statistics.verdict_of(estimates + beside) == expected


def test_power_is_the_share_of_supported_verdicts():
    draws = np.random.default_rng(2).normal(0.2, 0.4, (1500, 8))
    shown = np.mean([mean("", seeds, ABOVE(0)).verdict == "supported" for seeds in draws])
    assert statistics.power_of_mean(8, 0.2, 0.4, ABOVE(0)) == pytest.approx(shown, abs=0.04)
    assert statistics.power_of_mean(8, 0, 0.4, ABOVE(0)) == pytest.approx(0.025, abs=0.005)
    ten_of_twelve = binom.sf(9, 12, 0.9)  # the fewest that are supported, see above
    assert statistics.power_of_share(12, 0.9) == pytest.approx(ten_of_twelve)


def test_slope_of_what_is_known():
    assert statistics.slope([1, 2, 3, 4], [2, 4, math.nan, 8]) == pytest.approx(2)
    assert math.isnan(statistics.slope([1, 2], [1, math.nan]))
