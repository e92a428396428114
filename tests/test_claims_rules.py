"""A rule says yes just inside its bounds and no just outside."""

import math

import numpy as np
import pytest

from claims import rules

YES = [[True] * 5] * 3


RANGE = {"values": (1, 3, 10), "periodic": YES, "at_smallest": [0] * 5, "at_largest": [False] * 5,
         "error": [0.05, 0.8], "trends": [0.19, -0.19]}  # fmt: skip


@pytest.mark.parametrize(
    "change, holds",
    [
        ({}, True),
        ({"values": (1, 3, 9.9)}, False),
        ({"periodic": [[True] * 5, [True] * 4 + [False]]}, False),
        ({"periodic": [[]]}, False),
        ({"at_smallest": [0, 1]}, False),
        ({"at_largest": [False, True]}, False),
        ({"error": [0.04]}, False),
        ({"error": [0.81]}, False),
        ({"trends": [0.21]}, False),
        ({"trends": [-0.21]}, False),
    ],
)
def test_range(change, holds):
    assert rules.wide_range(**{**RANGE, **change}) == holds


def share(yes, of=100):
    return [True] * yes + [False] * (of - yes)


RATIOS = [1.0] * 45 + [1.3] * 45


LEVELS = [[1, 2, 3, 4]] * 2


NAMES = [["convergence", *["chaotic equilibrium"] * 4, "divergence"]] * 2


THREE = (NAMES, LEVELS, [[True]], [[0.09]])


STEADY = np.exp(0.1 * np.random.RandomState(0).normal(size=(3, 12)))


@pytest.mark.parametrize(
    "rule, inside, outside",
    [
        (rules.the_norm_is_the_cause, (share(90), share(10)), (share(89), share(10))),
        (rules.the_norm_is_the_cause, (share(100), share(0)), (share(100), share(11))),
        (rules.proportional, ((0.86, 1.14),), ((0.84, 1.0),)),
        (rules.proportional, ((0.86, 1.14),), ((1.0, 1.16),)),
        (rules.proportional, ((0.86, 1.14),), ((math.nan, math.nan),)),
        (rules.as_long_as_decay_takes, (RATIOS + [1.4] * 10,), (RATIOS + [1.4] * 11,)),
        (rules.as_long_as_decay_takes, (RATIOS + [1.4] * 10,), (RATIOS + [0.99] * 11,)),
        (rules.consistent, (*STEADY, 0.49, [1, 1], 5), (*STEADY, 0.51, [1, 1], 5)),
        (rules.consistent, (*STEADY, 0.49, [1, 1], 5), (*STEADY, 0.49, [1, 0.99], 5)),
        (rules.consistent, (*STEADY, 0.1, [1], 5), (np.arange(7), *STEADY[1:], 0.1, [1], 5)),
        (rules.consistent, (*STEADY, 0.1, [1], 5), (*STEADY[:2], np.arange(7), 0.1, [1], 5)),
        (rules.bounded, (share(10), share(90)), (share(11), share(90))),
        (rules.bounded, (share(10), share(90)), (share(10), share(89))),
        (rules.bounded, (share(0), share(100)), ([], share(100))),
        (rules.forecast, ([0.91, 1.09],), ([0.91, 1.11],)),
        (rules.different_functions, ([2, 3], [1, 2]), ([2, 2], [1, 2])),
        (rules.turning_is_near, ([[0.6, 0.81]] * 2,), ([[0.6, 0.81], [0.6, 0.79]],)),
        (rules.improve, ([[3, 2, 1]] * 4 + [[1, 2, 3]],), ([[3, 2, 1]] * 3 + [[1, 2, 3]] * 2,)),
        (rules.improve, ([[6, 5, 4, 3, 2, 1, *range(7, 15)]],), ([[*range(6), *range(-9, 0)]],)),
        (rules.postponed, ([1] * 10, [2] * 9 + [1]), ([1] * 10, [2] * 8 + [1] * 2)),
        (rules.three_regimes, THREE, (*THREE[:2], [[True, False]], [[0.09]])),
        (rules.three_regimes, THREE, (*THREE[:3], [[0.09, 0.11]])),
        (rules.three_regimes, THREE, (NAMES, [[1, 2, 4, 3]], *THREE[2:])),
        (rules.three_regimes, THREE, (NAMES, [[1, 2, 3]], *THREE[2:])),
        (rules.three_regimes, THREE, ([NAMES[0][1:]], *THREE[1:])),
        (rules.three_regimes, THREE, ([NAMES[0][::-1]], *THREE[1:])),
        (rules.alike_at_the_same_rate, ([1.49], [0.68]), ([1.51], [0.68])),
        (rules.alike_at_the_same_rate, ([1.49], [0.68]), ([1.49], [0.66])),
        (rules.better_with_the_rate, ([[3, 2, 1]], [[3, 2, 1]]), ([[3, 1, 2]], [[3, 2, 1]])),
        (rules.better_with_the_rate, ([[3, 2, 1]], [[3, 2, 1]]), ([[3, 2, 1]], [[1, 2, 3]])),
        (rules.better_optima, ([1, 2], [2, 3]), ([1, 3], [2, 3])),
        (rules.toy_regimes, (2 / 7, 0.285, NAMES[0], {1: 1.27, 1000: 1.75}),
         (0.28, 0.285, NAMES[0], {1: 1.27, 1000: 1.75})),
        (rules.toy_regimes, (2 / 7, 2 / 7, NAMES[0], {1: 1.28, 1000: 1.75}),
         (2 / 7, 2 / 7, NAMES[0], {1: 1.31, 1000: 1.75})),
    ],
)  # fmt: skip
def test_rules(rule, inside, outside):
    assert rule(*inside) and not rule(*outside)


def test_equilibria():
    rng = np.random.RandomState(0)
    assert rules.is_equilibrium(np.exp(rng.normal(0, 0.5, 400)))
    assert not rules.is_equilibrium(np.exp(rng.normal(0, 0.9, 400)))  # wider than a factor 5
    assert not rules.is_equilibrium(np.exp(rng.normal(0, 0.1, 400) - np.arange(400) / 400))


def test_intervals_cover_what_they_should():
    rng = np.random.RandomState(0)
    means = [rules.mean_interval(rng.normal(1, 0.3, 5)) for _ in range(400)]
    assert 370 <= sum(low < 1 < high for low, high in means) <= 390
    assert rules.mean_interval([1, 2, 3]) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    # Values of a seed that are alike: the interval is one over seeds.
    medians = [
        rules.median_interval(np.repeat(rng.exponential(1, (30, 1)), 6, axis=1)) for _ in range(60)
    ]
    assert 51 <= sum(low < math.log(2) < high for low, high in medians) <= 60
    assert rules.median_interval([[2.0, 2.0], [2.0]]) == (2, 2)
    assert all(math.isnan(f([[1, 2]])[0]) for f in (rules.mean_interval, rules.median_interval))


def test_a_trend_is_one_beyond_all_tests_of_an_experiment():
    rng = np.random.RandomState(0)
    failed = [
        not all(rules.consistent(*rng.normal(size=(3, 9)), 0.1, [1], 5) for _ in range(5))
        for _ in range(200)
    ]
    assert np.mean(failed) <= 0.07  # with 5 % in each test 0.5
    assert not rules.consistent(*STEADY[:2], np.sort(STEADY[2]), 0.1, [1], 5)
