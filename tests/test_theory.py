"""The papers' formulas, against direct simulations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import toy
from theory.dynamics import (
    effective_gradient_norm,
    effective_lr,
    effective_step,
    equilibrium_angle,
    equilibrium_norm,
    jump_threshold,
    next_norm,
    step_cosine,
    steps_between,
)
from theory.periods import find_periods


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
    for delta in (0, 1, -0.1, [0.1, 1.5]):
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
        loss, rho = model_of_a_period(lr, wd)
        found = find_periods(np.arange(len(loss)), loss, rho).after(1 / (lr * wd))
        assert len(found) > 2 and found.cv < 0.1
        x.append(lr * wd)
        y.append(found.frequency)
    assert np.polyfit(np.log(x), np.log(y), 1)[0] == pytest.approx(1, abs=0.1)


def test_phases_of_the_model():
    loss, rho = model_of_a_period(0.1, 0.1)
    epochs = np.arange(len(loss))
    found = find_periods(epochs, loss, rho)
    phases = found.phases(epochs)
    rises = np.diff(rho, append=rho[-1]) > 0  # in the step after the record
    middle = np.arange(found.cycles[0].turn, found.cycles[-1].turn).astype(int)
    assert rises[middle][phases[middle] == "A"].mean() > 0.6
    assert rises[middle][phases[middle] == "B"].mean() < 0.1  # only right at its ends


def test_effective_step_is_the_angle_that_a_gradient_turns_by():
    assert effective_step(0.5, [2.0, 4.0], [3.0, 3.0]).tolist() == [0.75, 0.375]
    assert steps_between(4, 4, 0.1, 0.1) == 0
    assert steps_between(np.e, 1, 0.1, 0.1) == pytest.approx(1 / -np.log(0.99))


# What the optimisers do to a weight by gradients orthogonal to it, at rate 0.05, decay 0.05.
ANGLES = {
    "sgd": (torch.optim.SGD, {}, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.8}, {"momentum": 0.8}),
    "nesterov": (
        torch.optim.SGD, {"momentum": 0.8, "nesterov": True}, {"momentum": 0.8, "nesterov": True}
    ),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.999)}, {"momentum": 0.8, "decoupled": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", ANGLES)
def test_equilibrium_angle_is_that_of_random_gradients(name):
    """Within 3 %: of random directions in 3,000 dimensions, when the norm is steady."""
    optimiser, options, theory = ANGLES[name]
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3000, dtype=torch.float64))
    steps, squares = optimiser([weight], lr=0.05, weight_decay=0.05, **options), []
    for step in range(4000):
        old = weight.detach().clone()
        gradient = torch.randn_like(old)
        gradient -= (gradient @ old) / (old @ old) * old
        weight.grad = gradient / old.norm()
        steps.step()
        if step >= 2500:
            new = weight.detach()
            cosine = (old @ new / old.norm() / new.norm()).item()
            squares.append(math.acos(min(cosine, 1)) ** 2)
    expected = equilibrium_angle(0.05 * 0.05, **theory)
    assert math.sqrt(np.mean(squares)) == pytest.approx(expected, rel=0.03)


# --- the toy function ---

ALPHA = (1.0, 2.0, 4.0)


def test_toy_gradient():
    w = toy.random_points(5, 3)
    leaf = torch.tensor(w, requires_grad=True)
    x, y = leaf[:, 0], leaf[:, 1]
    (0.5 * (torch.tensor(ALPHA) * x**2 / (x**2 + y**2)).sum()).backward()
    np.testing.assert_allclose(toy.gradient(w, ALPHA), leaf.grad.numpy(), rtol=1e-12)
    assert np.abs((w * toy.gradient(w, ALPHA)).sum((-1, -2))).max() < 1e-14


@pytest.mark.parametrize("alpha", [(1, 2, 4), (3,), (0.5, 0.5, 5)])
def test_toy_boundary_is_the_stability_bound(alpha):
    found = toy.convergence_boundary(alpha, steps=3000, runs=4, tolerance=0.01)
    assert found == pytest.approx(toy.stability_bound(alpha), rel=0.03)


def test_toy_points_are_uniform_on_the_sphere_and_runs_begin_apart():
    points = toy.random_points(2000, 3)
    assert np.linalg.norm(points, axis=(1, 2)) == pytest.approx(np.ones(2000))
    assert np.abs(points.mean(0)).max() < 0.05
    assert (points**2).mean(0) == pytest.approx(np.full((2, 3), 1 / 6), rel=0.1)
    assert (points**4).mean() == pytest.approx(3 / 48, rel=0.03)  # a sphere's, not a cube's
    assert toy.loss(points, ALPHA).mean() == pytest.approx(toy.random_level(ALPHA), rel=0.05)
    assert len({*toy.descend(0.1, 0, ALPHA, runs=4)[:, 0]}) == 4


def test_toy_boundary_is_where_most_runs_converge(monkeypatch):
    def descend(elr, steps, alpha, runs, seed):
        last = [elr > bound for bound in (0.2, 0.3, 0.4, 0.5)]
        return np.array([[1.0, end] for end in last])

    monkeypatch.setattr(toy, "descend", descend)
    assert toy.convergence_boundary() == pytest.approx(0.3, rel=2e-3)


def test_toy_refuses_what_it_cannot_mean():
    for elr, alpha in ((0, (1, 2)), (-1, (1,)), (0.1, (1, -2))):
        with pytest.raises(ValueError, match="positive"):
            toy.descend(elr, 1, alpha)
