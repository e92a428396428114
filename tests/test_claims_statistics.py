"""Intervals cover what they say, and verdicts follow from interval and margin alone."""

import math

import numpy as np
import pytest
from scipy.stats import beta

from claims import statistics
from claims.statistics import ABOVE, BELOW, Interval, verdict


def coverage(truth, draws, interval):
    """In which share of the draws the interval of its seeds holds the truth."""
    found = [interval(seeds) for seeds in draws]
    return np.mean([i.low <= truth <= i.high for i in found])


@pytest.mark.parametrize("level, low", [(0.9, 0.9), (0.95, 0.95)])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_intervals_of_shares_cover_at_least_their_level(share, level, low):
    counts = np.random.default_rng(0).binomial(12, share, 1000)
    assert coverage(share, counts, lambda k: statistics.of_share(int(k), 12, level)) >= low - 0.01


@pytest.mark.parametrize("seeds", [5, 8, 12])
def test_intervals_of_means_cover_the_truth_in_95_percent(seeds):
    draws = np.random.default_rng(0).normal(3, 2, (4000, seeds))
    assert coverage(3, draws, statistics.of_mean) == pytest.approx(0.95, abs=0.01)
    ratios = np.exp(draws)
    assert coverage(math.exp(3), ratios, statistics.of_ratio) == pytest.approx(0.95, abs=0.01)


def test_a_bootstrap_of_few_whole_seeds_covers_less_and_its_docstring_says_so():
    """The values of a seed share its level: one by one they would cover far less."""
    rng = np.random.default_rng(0)
    for seeds, least, most in ((5, 0.75, 0.94), (8, 0.8, 0.98)):
        draws = rng.normal(size=(60, seeds, 1)) + 0.3 * rng.normal(size=(60, seeds, 4))
        found = coverage(0, draws, lambda d: statistics.of_seeds(list(d), np.mean))
        assert least < found < most


def test_shares_are_clopper_pearsons():
    found = statistics.of_share(10, 12, 0.9)
    assert (found.low, found.high) == pytest.approx(beta.ppf([0.05, 0.95], [10, 11], [3, 2]))
    # What the designs say: 10 of 12 and 7 of 8 are more than half; 2 of 12 and 1 of 8 are not.
    for count, seeds, expected in ((10, 12, "supported"), (9, 12, "undecided"), (7, 8, "supported"),
                                   (6, 8, "undecided"), (3, 12, "undecided"),
                                   (2, 12, "contradicted"), (1, 8, "contradicted")):  # fmt: skip
        assert verdict(statistics.of_share(count, seeds), ABOVE(0.5)) == expected
    assert math.isnan(statistics.of_share(0, 0).low)


def test_seeds_that_are_all_alike_leave_doubt():
    """Of a bounded number: as if the seeds not seen were at the far bound."""
    found = statistics.of_mean([1.0] * 8, bounds=(0, 1))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025 ** (1 / 8))  # exact binomial limit of 8 of 8
    assert statistics.of_mean([1.0] * 8).low == 1  # nothing is known of an unbounded one
    wide = statistics.of_mean([0.8, 0.9, 1.0], bounds=(0, 1))
    assert wide == statistics.of_mean([0.8, 0.9, 1.0])


@pytest.mark.parametrize("seeds", [[], [1.0], [1.0, math.nan]])
def test_without_enough_seeds_nothing_is_decided(seeds):
    found = statistics.of_mean(seeds)
    assert math.isnan(found.low) and verdict(found, ABOVE(0)) == "undecided"
    assert math.isnan(statistics.of_seeds([seeds[:1]] if seeds else []).low)


@pytest.mark.parametrize("low, high, inside, expected", [
    (0.6, 0.9, ABOVE(0.5), "supported"), (0.4, 0.9, ABOVE(0.5), "undecided"),
    (0.1, 0.4, ABOVE(0.5), "contradicted"), (0.5, 0.9, ABOVE(0.5), "undecided"),
    (0.1, 0.5, ABOVE(0.5), "contradicted"), (-2, -1, BELOW(0), "supported"),
    (-2, 1, BELOW(0), "undecided"), (1, 2, BELOW(0), "contradicted"),
    (0.8, 1.2, (0.75, 1.25), "supported"), (0.7, 1.2, (0.75, 1.25), "undecided"),
    (0.8, 1.3, (0.75, 1.25), "undecided"), (1.3, 1.4, (0.75, 1.25), "contradicted"),
    (0.5, 0.7, (0.75, 1.25), "contradicted"), (0.5, 2, (0.75, 1.25), "undecided"),
])  # fmt: skip
def test_verdicts_at_inside_and_outside_the_margin(low, high, inside, expected):
    assert verdict(Interval((low + high) / 2, low, high), inside) == expected


def test_equivalence_is_never_shown_by_little_data():
    """Two one-sided tests: a wide interval is no evidence of no difference."""
    rng = np.random.default_rng(1)
    few, many = rng.normal(0, 0.3, 3), rng.normal(0, 0.3, 400)
    assert verdict(statistics.of_mean(few), (-0.1, 0.1)) == "undecided"
    assert verdict(statistics.of_mean(many), (-0.1, 0.1)) == "supported"
    at_the_margin = rng.normal(0.1, 0.3, (2000, 8))
    shown = [verdict(statistics.of_mean(s), (-0.1, 0.1)) == "supported" for s in at_the_margin]
    assert np.mean(shown) < 0.03


@pytest.mark.parametrize("verdicts, expected", [
    (["supported"] * 3, "supported"), (["supported", "undecided"], "undecided"),
    (["undecided", "contradicted", "supported"], "contradicted"), ([], "undecided"),
])  # fmt: skip
def test_a_claim_needs_every_estimate(verdicts, expected):
    assert statistics.together(verdicts) == expected


def test_power_is_the_share_of_supported_verdicts():
    rng = np.random.default_rng(2)
    means = rng.normal(0.2, 0.4, (1500, 8))
    shown = np.mean([verdict(statistics.of_mean(m), ABOVE(0)) == "supported" for m in means])
    assert statistics.power_of_mean(8, 0.2, 0.4, ABOVE(0)) == pytest.approx(shown, abs=0.04)
    counts = rng.binomial(12, 0.9, 1500)
    yes = [verdict(statistics.of_share(int(k), 12), ABOVE(0.5)) == "supported" for k in counts]
    assert statistics.power_of_share(12, 0.9) == pytest.approx(np.mean(yes), abs=0.03)
    assert statistics.power_of_mean(8, 0, 0.4, ABOVE(0)) == pytest.approx(0.025, abs=0.005)


def test_slope_of_what_is_known():
    assert statistics.slope([1, 2, 3, 4], [2, 4, math.nan, 8]) == pytest.approx(2)
    assert math.isnan(statistics.slope([1, 2], [1, math.nan]))
