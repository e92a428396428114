"""The forecast of the next turn, from periods and falls that are given."""

import math

import numpy as np
import pytest
from test_periods import cycle

from theory.forecast import Course, time_to_turn
from theory.periods import find_periods


def periods(*depths):
    """Periods of these depths of ln ρ, each down to ρ = 1."""
    return [cycle(10 * k, rho_start=math.exp(d)) for k, d in enumerate(depths, 1)]


def after(found, level):
    """Times from the end of the last period on, and ρ of these logarithms."""
    return found[-1].end + np.arange(len(level)), np.exp(level)


def test_a_fall_takes_as_long_as_the_last_one_from_the_same_effective_rate():
    """ρ falls by 2 % in each unit of time to one level, then rises: like clockwork."""
    fall = np.exp(-0.02 * np.arange(60))
    rho = np.tile([*fall, *np.linspace(fall[-1], 1, 5)[1:]], 3)
    loss = np.tile([*np.geomspace(1, 0.01, 60), 1, 1, 1, 1], 3)
    times, now = np.arange(len(rho)), 2 * 64 + 30
    found = find_periods(times, loss, rho).cycles
    expected, seen = found[2].turn - now, slice(0, now + 1)
    assert time_to_turn(times[seen], rho[seen], found[:2]) == pytest.approx(expected, abs=1)
    # At 1.3 times the rate the same η̃ is at a norm √1.3 as large, and ρ falls 1.3 times as fast.
    sooner = time_to_turn(times[seen], rho[seen], found[:2], lr_ratio=1.3)
    assert sooner == pytest.approx((expected - math.log(1.3) / 2 / 0.02) / 1.3, abs=1)


RISING = 0.01 * np.arange(10)


@pytest.mark.parametrize("depths, level, left", [
    # Overdue: a quarter of the usual depth, the median over the last five periods
    ((3, 3, 3, 1, 1, 1, 2, 9), -0.5 - RISING, 0.25 * 1 / 0.01),
    # From higher up than the last one: as in its own later half
    ((0.5,), 0.3 + np.append(0.3 + RISING[::-1], 3 * RISING[::-1]), 0.3 / 0.03),
    ((0.5,), np.append([2.0, 1.0], 0.5 + RISING), None),  # while the norm rises
    ((0.5,), [1.0, 0.9], None),  # too few records
])  # fmt: skip
def test_what_is_left_of_a_fall(depths, level, left):
    found = periods(*depths)
    assert time_to_turn(*after(found, level), found) == pytest.approx(left)
    assert time_to_turn(*after(found, level), []) is None


def test_phases_as_a_run_goes_on():
    """ρ turns at 4, which is known at 5; the loss is highest at 6, ρ at 8."""
    rho = [2, 1.6, 1.4, 1.2, 1.0, 1.15, 1.3, 1.6, 1.8, 1.7, 1.6, 1.4, 1.2, 1.1]
    loss = [1, 0.5, 0.4, 0.3, 0.1, 1, 3, 2, 1, 0.9, 0.5, 0.4, 0.3, 0.2]
    course, phases, left = Course(), [], []
    for time, record in enumerate(zip(loss, rho, strict=True)):
        left.append(course.add(time, *record, lr=0.2 if time < 2 else 0.1))  # 0.1 at the turn
        phases.append(course.phase)
    assert "".join(phases) == "ABBBBCCAABBBBB"
    assert left[:10] == [None] * 10  # before, and with too few records of the fall
    # From 1.6, 1.4 and 1.2 the last fall took 3, 2 and 1 to its turn.
    assert left[10:13] == [3, 2, 1]


@pytest.mark.parametrize(("power", "expected"), [(2, 50.0), (1, 100.0)])
def test_a_changed_rate_moves_the_turn_by_the_power_of_the_norm(power, expected):
    """The last fall tells nothing here; at e times the rate, the same η̃ is at ρ × e^(1/p)."""
    found = periods(0.5)
    known = after(found, 1.3 + RISING[::-1])
    later = time_to_turn(*known, found)
    sooner = time_to_turn(*known, found, lr_ratio=math.e, power=power)
    assert later - sooner == pytest.approx(expected)


@pytest.mark.parametrize("bad", [0.0, math.inf, math.nan, -1.0])
def test_rates_and_norms_that_are_no_numbers(bad):
    found = periods(0.5)
    times, rho = after(found, 0.3 - RISING)
    assert time_to_turn(times, rho, found, lr_ratio=bad) is None
    expected = time_to_turn(np.delete(times, 5), np.delete(rho, 5), found)
    rho[5] = bad
    assert time_to_turn(times, rho, found) == expected
    course = Course()
    for time, value in enumerate([2, 1.6, 1.2, 1.0, 1.5, 2, 1.6, 1.4, 1.2]):
        course.add(time, 1.0 if value > 1.3 else 0.1, value, lr=bad)
    assert course.add(9, bad, 1.1, lr=bad) is None
    assert course.add(10, bad, bad, lr=bad) is None
    assert len(course.periods) == 1
