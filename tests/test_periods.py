"""Periods are found where they are, rarely where there is only noise; the next turn is forecast."""

import csv
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import lfilter

from theory.forecast import Course, time_to_turn
from theory.periods import Detector, Period, Periods, chance_cv, find_periods

N = 400  # records of a synthetic run
TIME = np.arange(N)


def share_periodic(draw, arguments, draws):
    """In how many of the draws of (loss, ρ) a run is called periodic."""
    rng = np.random.RandomState(0)
    columns = [draw(rng, *arguments) for _ in range(draws)]
    return np.mean([find_periods(range(len(loss)), loss, rho).is_periodic for loss, rho in columns])


def noise(rng, memory):
    """An autoregressive process of unit variance: (N,)."""
    start = lfilter([1], [1, -memory], rng.normal(size=N), zi=[memory * rng.normal()])[0]
    return start * math.sqrt(1 - memory**2)


def poisson_spikes(rng, count, kick):
    """Spikes at random times, each of which multiplies ρ, that decays as much in between."""
    hits = rng.uniform(size=N) < count / N
    since = TIME - np.maximum.accumulate(np.where(hits, TIME, -N))
    loss = np.maximum(0.5**since, 1e-3) * np.exp(rng.normal(0, 0.1, N))
    return loss, np.exp(np.cumsum(math.log(kick) * (hits - count / N)))


def autoregressive(rng, memory, width, lag):
    """Noise in the loss, and in ρ: its own (no lag), or the loss's, later."""
    x = noise(rng, memory)
    return np.exp(x), np.exp(width * (np.roll(x, lag) if lag else noise(rng, memory)))


def random_walk(rng, width, skewed):
    step = rng.exponential(size=N) - 1 if skewed else rng.normal(size=N)
    other = step if skewed else rng.normal(size=N)
    return np.exp(np.cumsum(0.3 * step)), np.exp(np.cumsum(width * other))


def heavy_tails(rng, degrees, width):
    """Student's t, around a slow decay of ρ."""
    loss, log_rho = np.clip(rng.standard_t(degrees, (2, N)), -100, 100)
    return np.exp(0.5 * loss), np.exp(width * log_rho - TIME / 300)


@pytest.mark.parametrize("draw, arguments", [
    *product([poisson_spikes], product((4, 8, 20), (1.0, 1.4, 2.0))),
    *product([autoregressive], product((0, 0.8, 0.95), (0.05, 0.3), (0, 1))),
    *product([random_walk], product((0.01, 0.1), (False, True))),
    *product([heavy_tails], product((1, 2, 3), (0.003, 0.03))),
])  # fmt: skip
def test_no_periods_in(draw, arguments):
    assert share_periodic(draw, arguments, draws=60) < 0.05


# By the shape of a period: the position in it, and ln ρ and ln loss there, from 0 (lowest) to 1.
KNOTS = {
    "sawtooth": ((0, 0.85, 0.9, 1), (1, 0, 0.5, 1), (0.7, 0, 1, 0.7)),
    "creeping": ((0, 0.2, 0.85, 0.9, 1), (1, 0.8, 0, 0.5, 1), (0.7, 0, 0.2, 1, 0.7)),
    "smooth": ((0, 0.55, 0.65, 0.8, 1), (1, 0.03, 0, 0.6, 1), (0.4, 0, 0.3, 1, 0.4)),
}


def swings(rng, shape, depth, width, records, periods=6):
    """Periods of random lengths: ρ swings by the factor `depth`, the loss by 30; both noisy.

    A loss that creeps is lowest early, as that of ResNet-18 with weight decay on all weights.
    """
    at, rho_at, loss_at = map(np.array, KNOTS[shape])
    ends = np.cumsum(records * (1 + 0.1 * rng.normal(size=periods + 1)))
    time = np.arange(ends[-1])
    phase = np.interp(time, [0, *ends], range(periods + 2)) % 1
    if shape == "smooth":
        k = np.searchsorted(at, phase, side="right")
        left, length = at[k - 1], (at[k] - at[k - 1])
        phase = left + length * (1 - np.cos(np.pi * (phase - left) / length)) / 2
    log_rho, log_loss = np.interp(phase, at, rho_at), np.interp(phase, at, loss_at)
    noise = rng.normal(0, width, len(time))
    return 30**log_loss * np.exp(noise), depth**log_rho * np.exp(0.002 * noise)


@pytest.mark.parametrize("arguments", [*product(KNOTS, (1.2, 2.5), (0.03, 0.3), (12, 100))])
def test_periods_in(arguments):
    assert share_periodic(swings, arguments, draws=24) > 0.95


# --- the record of a run ---

FIGURE2 = Path(__file__).parents[1] / "results" / "figure2_cpu"
# Turns of ρ as they were found before this detector was written, with scipy.signal.find_peaks.
TURNS = {
    "0.001": [],
    "0.01": [299, 403, 511, 621, 739, 900],
    "0.03": [103, 129, 157, 198, 241, 307, 345, 390, 438, 490, 541, 581, 627, 688, 727, 755, 785,
             829, 877, 918, 977],
    "1": [],
}  # fmt: skip


def record(lr):
    """Columns epoch, train_loss, si_norm of a line of Figure 2 on a CPU: (3, 1000)."""
    with (FIGURE2 / f"lr_{lr}_wd_0.02" / "trial_0" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[c]) for row in rows] for c in ("epoch", "train_loss", "si_norm")])


@pytest.mark.parametrize("lr, cv", [("0.001", None), ("0.01", 0.17), ("0.03", 0.24), ("1", None)])
def test_figure2(lr, cv):
    columns = record(lr)
    found = find_periods(*columns)
    assert found.turns.tolist() == TURNS[lr]
    assert found.after(1 / (float(lr) * 0.02 * 20)).is_periodic == bool(cv)  # 20 steps an epoch
    if cv:
        assert found.cv == pytest.approx(cv, abs=0.005)
        # Half of the epochs, unevenly: the same periods. Units of time, loss and ρ do not matter.
        kept = np.sort(np.random.RandomState(0).choice(1000, 500, replace=False))
        assert len(find_periods(*columns[:, kept])) >= len(found) - 1
        other = find_periods(*(columns.T * [20, 3, 7]).T)
        assert (*other.turns, other.cv) == pytest.approx((*(20 * found.turns), found.cv))


def test_turning_points_are_in_order_and_extremes():
    epochs, loss, rho = record("0.03")
    rho_at, loss_at = (dict(zip(epochs, column, strict=True)) for column in (rho, loss))
    for p in find_periods(epochs, loss, rho).cycles:
        assert p.start <= p.low <= p.turn <= p.high <= p.end
        assert (rho_at[p.start], rho_at[p.turn]) == (p.rho_start, p.rho_turn)
        assert (loss_at[p.low], loss_at[p.high]) == (p.loss_low, p.loss_high)
        assert min(p.rho_start, p.rho_end) >= 1.1 * p.rho_turn and p.loss_high >= 4 * p.loss_low
        assert p.rho_turn == rho[(epochs >= p.start) & (epochs <= p.end)].min()


def test_one_record_after_the_other():
    detector, known, columns = Detector(), [], record("0.01")
    for k, (time, loss, rho) in enumerate(columns.T, 1):
        detector.add(time, loss, rho)
        if len(detector.periods) > len(known):
            known.append(detector.periods[-1].turn)
            assert known[-1] < time <= known[-1] + 10  # known soon
            assert find_periods(*columns[:, :k]).cycles == tuple(detector.periods)
    assert known == TURNS["0.01"]


def test_what_is_not_finite():
    epochs, loss, rho = record("0.01")
    for where, value in ((20, math.nan), (403, math.inf), (405, math.nan)):
        loss[where] = value
    rho[[30, 300, 500]] = math.nan, math.inf, 0
    assert find_periods(epochs, loss, rho).turns.tolist() == TURNS["0.01"]
    assert len(find_periods(epochs, np.full(1000, math.nan), rho)) == 0


def test_short_records():
    assert len(find_periods([], [], [])) == 0
    assert math.isnan(find_periods([1, 2], [1, 9], [2, 1]).mean)
    assert find_periods([1, 2, 3], [1, 0.1, 1], [2, 1, 2]).turns.tolist() == [2]
    assert find_periods([1, 2], [0.1, 1], [1, 2]).turns.tolist() == []  # no fall before the rise
    for highest, number in ((4.0, 1), (3.99, 0)):  # the loss has to rise fourfold
        assert len(find_periods([1, 2, 3], [9, 1, highest], [2, 1, 2])) == number
    with pytest.raises(ValueError):
        find_periods([1, 2], [1], [1, 2])


@pytest.mark.parametrize("lengths, dead", [*product((3, 10, 60), (0.2, 0.4))])
def test_one_in_twenty_draws_of_random_events_is_below_the_limit(lengths, dead):
    """Exponential lengths after a dead time; the limit is found from other draws."""
    draws = np.random.default_rng(1).exponential(size=(20_000, lengths))
    draws = dead + (1 - dead) * draws
    cv = draws.std(1) / draws.mean(1)
    fall = 2 * math.log(1.1) / dead  # in which ρ has to fall and rise by a tenth each
    assert np.mean(cv < chance_cv(lengths, fall)) == pytest.approx(0.05, abs=0.006)


def test_the_limit_of_chance_grows_with_lengths_and_depth():
    assert chance_cv(5, 1.0) < chance_cv(10, 1.0) < chance_cv(200, 1.0) == chance_cv(999, 1.0)
    assert chance_cv(9, 0.1) == chance_cv(9, 0.4) < chance_cv(9, 0.6) < chance_cv(9, 9)


# --- periods that are given ---


def cycle(turn, start=None, low=None, high=None, end=None, records=9, wavering=0.0, rho_start=9.0):
    """A period of ten times at most, orderly unless it is said otherwise."""
    start, low = (turn - 9 if start is None else start), (turn if low is None else low)
    return Period(start, rho_start, low, 0.1, turn, 1.0, high or turn + 0.5, 1.0, end or turn + 1,
                  9.0, records, wavering)  # fmt: skip


@pytest.mark.parametrize("change, orderly", [
    ({}, True), ({"low": 1}, True), ({"records": 5}, True),
    ({"records": 4}, False), ({"wavering": 0.3}, True), ({"wavering": 0.31}, False),
])  # fmt: skip
def test_what_is_orderly(change, orderly):
    assert cycle(100, 0, **change).is_orderly == orderly


def of_lengths(lengths, disorderly=0):
    turns = np.cumsum([10, *lengths])
    return Periods(tuple(cycle(t, records=4 + 5 * (i >= disorderly)) for i, t in enumerate(turns)))


LIMIT = chance_cv(8, math.log(9))  # of the falls of `cycle`


@pytest.mark.parametrize("found, periodic", [
    (Periods(), False), (of_lengths([10] * 2), False), (of_lengths([10] * 3), True),
    (of_lengths([10] * 3, 1), True), (of_lengths([10] * 3, 2), False),
    # 1.48 MAD / median of two alternating lengths is 1.48 CV, with CVs of 0.26 and 0.28
    (of_lengths([14.8, 25.2] * 100), True), (of_lengths([14.4, 25.6] * 100), False),
    # Most are alike: nothing is dispersed, but the CV is chance's
    (of_lengths([20] * 7 + [20 * (1 + 3 * LIMIT)]), True),
    (of_lengths([20] * 7 + [20 * (1 + 6 * LIMIT)]), False),
    (of_lengths([19, 21, 20, 18, 22, 20, 19, 21, 40, 20, 21, 19]), True),  # one swing missed
])  # fmt: skip
def test_what_is_periodic(found, periodic):
    assert found.is_periodic is periodic  # and no NumPy type: it is written as JSON


@pytest.mark.parametrize("end, goes_on", [(40, True), (60, True), (60.1, False)])
def test_periods_go_on_to_the_end_of_the_run(end, goes_on):
    found = Periods(of_lengths([10] * 3).cycles, end)  # the last turn is at 40
    assert found.goes_on == found.is_periodic == goes_on
    assert found.after(15).goes_on == goes_on and not Periods((), 9).goes_on
    assert find_periods([1, 2, 9], [1, 1, 1], [1, 1, 1]).end == 9


def test_mean_frequency_and_variation_of_lengths():
    found = of_lengths([10, 20])
    assert (found.mean, found.frequency, found.cv) == pytest.approx((15, 1 / 15, 1 / 3))
    assert found.dispersion == pytest.approx(1.4826 / 3)
    assert math.isnan(of_lengths([10]).cv) and of_lengths([10]).mean == 10
    assert len(found.after(10)) == 2 and found.after(9.9) == found


def test_minima_lie_between_a_maximum_of_the_loss_and_the_next_turn():
    found = Periods((cycle(10, 0, high=12, end=20), cycle(30, 20, high=38, end=45)))
    times = [-5, 5, 9, 11, 15, 25, 35, 40, 50]
    loss = [9, 0.1, 0.2, 0.01, 2, 1, 0.02, 0.01, 0.01]
    assert found.minima(times, loss).tolist() == [5, 25]
    assert found.minima([15, 50], [1, 1]).tolist() == [15]  # nothing is recorded in the first


def test_a_period_grows_until_the_norm_falls_and_counts_its_own_fall():
    """ρ wavers by 2 % on its way down, and rises slowly after its turn."""
    rho = [2, 1.5, 1.53, 1.2, 1.0, 1.15, 1.3, 1.6, 1.4, 1.2, 1.0, 0.9, 1.1]
    loss = [1, 0.5, 0.4, 0.3, 0.1, 1, 2, 3, 0.9, 0.5, 0.3, 0.2, 2]
    first, second = find_periods(range(13), loss, rho).cycles
    assert (first.start, first.turn, first.high, first.end) == (0, 4, 7, 7)
    assert (first.rho_end, first.loss_high) == (1.6, 3)
    assert first.records == 4 and first.wavering == pytest.approx(math.log(1.02) / math.log(2))
    assert (second.start, second.low, second.turn) == (7, 11, 11)
    assert (second.records, second.wavering) == (4, 0)
    # A loss that is not finite is infinitely high: never a minimum.
    broken = find_periods(range(13), [math.nan if x == 0.1 else x for x in loss], rho).cycles
    assert broken[0].low == 3


# --- the forecast of the next turn ---


def of_depths(*depths):
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
    found = of_depths(*depths)
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
    found = of_depths(0.5)
    known = after(found, 1.3 + RISING[::-1])
    later = time_to_turn(*known, found)
    sooner = time_to_turn(*known, found, lr_ratio=math.e, power=power)
    assert later - sooner == pytest.approx(expected)


@pytest.mark.parametrize("bad", [0.0, math.inf, math.nan, -1.0])
def test_rates_and_norms_that_are_no_numbers(bad):
    found = of_depths(0.5)
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


def test_a_long_fall_is_thinned_out(monkeypatch):
    """A run goes on for weeks after its last period, under a schedule of the rate."""
    ends = []
    for longest in (50, 10**6):
        monkeypatch.setattr("theory.forecast.LONGEST", longest)
        course = Course()
        fall = 4 * np.exp(-np.arange(400) / 300)
        rho = np.concatenate([fall, np.geomspace(fall[-1], 4, 20), fall])
        loss = np.where(np.arange(len(rho)) % 420 < 400, 0.1, 1.0)
        left = [course.add(t, *record, lr=1 - t / 1e6) for t, record in
                enumerate(zip(loss, rho, strict=True))]  # fmt: skip
        ends.append((left[-100], len(course.state_dict()["history"])))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=0.1) and 50 < ends[1][0] < 150
    assert ends[0][1] <= 50 < ends[1][1]
