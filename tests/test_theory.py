"""Jumps are found where they are, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.dynamics import (
    effective_gradient_norm,
    effective_lr,
    equilibrium_norm,
    jump_threshold,
    next_norm,
    step_cosine,
    steps_between,
)
from theory.fits import fit_power_law
from theory.jumps import Periods, find_jumps, find_periods, find_phases


def saw(jumps, length=200, seed=0):
    """A loss that falls a decade in 20 epochs and jumps back to 1 at the given epochs."""
    noise = np.random.RandomState(seed).normal(0, 0.05, length)
    starts = np.zeros(length, dtype=int)
    for jump in jumps:
        starts[jump:] = jump
    return 10 ** (-(np.arange(length) - starts) / 20 + noise)


@pytest.mark.parametrize("jumps", [[], [50], [40, 90, 130, 170], [60, 198]])
def test_jumps(jumps):
    assert find_jumps(np.arange(200), saw(jumps)).tolist() == jumps


def test_periods():
    found = find_periods(np.arange(200), saw([40, 90, 130, 170]))
    assert found.mean == pytest.approx(130 / 3)
    assert np.isnan(find_periods(np.arange(200), saw([50])).mean)


def test_minima_of_periods():
    jumps = [40, 90, 130, 170]
    epochs = np.arange(0, 200, 5)
    found = Periods(np.array(jumps)).minima(epochs, np.where(epochs == 20, 0, 1 / (1 + epochs)))
    assert found.tolist() == [20, 85, 125, 165]  # a record at a jump belongs to what it begins
    few = [60, 65, 180]  # nothing before 40, between 90 and 130, or in a period that goes on
    assert Periods(np.array(jumps)).minima(few, [3.0, 4.0, 1.0]).tolist() == [60]
    assert Periods(np.array([])).minima(epochs, epochs).tolist() == []


def test_no_jumps_in_chaos_or_in_too_short_a_record():
    chaos = 0.4 * np.exp(np.random.RandomState(0).normal(0, 0.5, 300))
    assert len(find_jumps(np.arange(300), chaos)) == 0
    assert len(find_jumps([], [])) == 0
    assert len(find_jumps([1, 2], [1.0, 5.0])) == 0


def test_infinite_loss_counts_as_high():
    loss = saw([50, 120])
    loss[50] = np.inf
    assert find_jumps(np.arange(200), loss).tolist() == [50, 120]


def test_effective_quantities():
    assert effective_lr(0.5, [1, 2]).tolist() == [0.5, 0.125]
    assert effective_gradient_norm([3.0], [2.0]).tolist() == [6.0]


# --- the theory against a direct simulation of the recursion, with real vectors ---

RATES = st.floats(1e-3, 2), st.floats(1e-4, 0.3)  # η, λ
NORMS = st.floats(0.1, 10)


def sgd_step(w, gradient, lr, wd):
    return (1 - lr * wd) * w - lr * gradient


def orthogonal(rng, w, effective_norm):
    """A gradient orthogonal to w whose effective norm ρ‖g‖ is given."""
    g = rng.standard_normal(len(w))
    g -= w * (g @ w) / (w @ w)
    return g * effective_norm / np.linalg.norm(g) / np.linalg.norm(w)


@settings(deadline=None, max_examples=50)
@given(*RATES, NORMS, st.floats(1e-3, 100), st.floats(1e-4, 0.9), st.integers(0, 99))
def test_one_step(lr, wd, rho, effective, delta, seed):
    rng = np.random.RandomState(seed)
    w = rng.standard_normal(20)
    w *= rho / np.linalg.norm(w)
    after = sgd_step(w, orthogonal(rng, w, effective), lr, wd)
    assert next_norm(rho, effective, lr, wd) == pytest.approx(np.linalg.norm(after))
    cosine = w @ after / rho / np.linalg.norm(after)
    step = effective_lr(lr, rho) * effective
    assert step_cosine(step, lr, wd) == pytest.approx(cosine, abs=1e-12)
    if abs(1 - cosine - delta) > 1e-9:
        assert (step > jump_threshold(delta, lr, wd)) == (1 - cosine > delta)


@pytest.mark.parametrize("lr, wd", [(0.5, 0.01), (1.0, 0.3), (0.01, 0.5)])
def test_equilibrium_is_where_constant_gradients_lead(lr, wd):
    rng = np.random.RandomState(0)
    w = 3 * rng.standard_normal(30)
    for _ in range(round(20 / (lr * wd))):
        w = sgd_step(w, orthogonal(rng, w, 2.5), lr, wd)
    assert np.linalg.norm(w) == pytest.approx(equilibrium_norm(2.5, lr, wd), rel=1e-3)


@pytest.mark.parametrize("lr, wd, largest", [(0.5, 0.01, 0.5), (1.0, 0.001, 0.2), (2, 0.1, 1)])
def test_bounds_on_the_steps_of_a_period(lr, wd, largest):
    high, low = 10.0, 3.0
    at_least = steps_between(high, low, lr, wd)
    at_most = steps_between(high, low, lr, wd, largest)
    for seed in range(5):
        rng, steps = np.random.RandomState(seed), 0
        w = rng.standard_normal(10)
        w *= high / np.linalg.norm(w)
        while np.linalg.norm(w) > low:
            w = sgd_step(w, orthogonal(rng, w, largest * rng.uniform()), lr, wd)
            steps += 1
        assert at_least <= steps <= np.ceil(at_most)
    # Both are attained: by no gradient, and the upper one up to its own inequality.
    rho, steps = high, 0
    while rho > low:
        rho, steps = float(next_norm(rho, 0, lr, wd)), steps + 1
    assert steps == np.ceil(at_least)
    assert np.isfinite(at_most)
    assert steps_between(high, low, lr, wd, 1e3) == float("inf")


def test_what_theory_refuses():
    for bad in ((1, 2, 0.1, 0.1), (2, 0, 0.1, 0.1), (2, 1, 1, 1)):
        with pytest.raises(ValueError, match="needs high"):
            steps_between(*bad)
    for delta in (0, 1, -0.1):
        with pytest.raises(ValueError, match="delta"):
            jump_threshold(delta, 0.1, 0.1)


def model_of_a_period(lr, wd, epochs=4000, boundary=0.02):
    """The recursion with the gradient of a falling loss, which explodes at η̃ = boundary."""
    rho, loss, record = 3 * (lr / boundary) ** 0.5, 1.0, []
    for _ in range(epochs):
        if lr / rho**2 > boundary:
            loss, gradient = 2.0, 30.0
        else:
            loss, gradient = max(loss * 0.9, 1e-4), 6 * loss
        rho = float(next_norm(rho, gradient, lr, wd))
        record.append((loss, rho))
    return np.array(record).T


def test_frequency_of_the_model_is_proportional_to_rate_times_decay():
    x, y = [], []
    for lr, wd in [(0.1, 0.01), (0.1, 0.03), (0.1, 0.1), (0.3, 0.01), (0.5, 0.02)]:
        loss, _ = model_of_a_period(lr, wd)
        periods = find_periods(np.arange(len(loss)), loss)
        assert len(periods.lengths) > 1
        x.append(lr * wd)
        y.append(periods.frequency)
    fit = fit_power_law(x, y)
    assert fit.exponent == pytest.approx(1, abs=0.1) and fit.low < fit.exponent < fit.high
    assert fit(x) == pytest.approx(y, rel=0.2)


def test_power_law():
    rng = np.random.RandomState(0)
    covered = 0
    for _ in range(200):
        x = np.logspace(-3, -2, 6)
        fit = fit_power_law(x, 7 * x**0.8 * np.exp(rng.normal(0, 0.1, 6)))
        covered += fit.low < 0.8 < fit.high
    assert 180 <= covered <= 198  # of 200 intervals of 95 %
    with pytest.raises(ValueError, match="three pairs"):
        fit_power_law([1, 2, 3], [1, np.nan, 2])


def test_phases():
    loss, rho = model_of_a_period(0.1, 0.1)
    epochs = np.arange(len(loss))
    jumps = find_jumps(epochs, loss)
    phases = find_phases(epochs, loss, rho, jumps)
    rises = np.diff(rho, append=rho[-1]) > 0  # in the step after the record
    middle = np.arange(jumps[0], jumps[-1])
    assert set(phases) == {"A", "B", "C"}
    assert rises[middle][phases[middle] == "A"].mean() > 0.6
    assert rises[middle][phases[middle] == "B"].mean() < 0.1  # only right before the jump
    assert all(phases[jump] == "C" for jump in jumps)
    assert "C" not in find_phases(epochs, loss, rho, [])
