"""The papers' formulas, against direct simulations."""

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
    equilibrium_norm,
    jump_threshold,
    next_norm,
)
from theory.periods import find_periods


def test_effective_quantities():
    assert effective_lr(0.5, [1, 2]).tolist() == [0.5, 0.125]
    assert effective_lr(0.5, [1, 2], "AdamW").tolist() == [0.5, 0.25]
    assert np.isnan([*effective_lr(0.5, [0, -1]), effective_lr(0.5, 1, "unknown")]).all()
    assert effective_gradient_norm([3.0], [2.0]).tolist() == [6.0]
    assert effective_step(0.5, [2.0, 4.0], [3.0, 3.0]).tolist() == [0.75, 0.375]


def sgd_step(rng, w, effective_norm, lr, wd):
    """A step with a gradient orthogonal to w whose effective norm ρ‖g‖ is given."""
    g = rng.standard_normal(len(w))
    g -= w * (g @ w) / (w @ w)
    g *= effective_norm / np.linalg.norm(g) / np.linalg.norm(w)
    return (1 - lr * wd) * w - lr * g


@settings(deadline=None, max_examples=50)
@given(
    lr=st.floats(1e-3, 2), wd=st.floats(1e-4, 0.3), rho=st.floats(0.1, 10),
    effective=st.floats(1e-3, 100), delta=st.floats(1e-4, 0.9), seed=st.integers(0, 99),
)  # fmt: skip
def test_one_step(lr, wd, rho, effective, delta, seed):
    rng = np.random.RandomState(seed)
    w = rng.standard_normal(20)
    w *= rho / np.linalg.norm(w)
    after = sgd_step(rng, w, effective, lr, wd)
    assert next_norm(rho, effective, lr, wd) == pytest.approx(np.linalg.norm(after))
    cosine = w @ after / rho / np.linalg.norm(after)
    if abs(1 - cosine - delta) > 1e-9:
        is_jump = effective_lr(lr, rho) * effective > jump_threshold(delta, lr, wd)
        assert is_jump == (1 - cosine > delta)


@pytest.mark.parametrize("lr, wd", [(0.5, 0.01), (1.0, 0.3), (0.01, 0.5)])
def test_equilibrium_is_where_constant_gradients_lead(lr, wd):
    rng = np.random.RandomState(0)
    w = 3 * rng.standard_normal(30)
    for _ in range(round(20 / (lr * wd))):
        w = sgd_step(rng, w, 2.5, lr, wd)
    assert np.linalg.norm(w) == pytest.approx(equilibrium_norm(2.5, lr, wd), rel=1e-3)


def test_frequency_of_a_model_is_proportional_to_rate_times_decay():
    """The recursion with the gradient of a falling loss, which explodes at η̃ = 0.02."""
    rates, frequencies = [(0.1, 0.01), (0.1, 0.03), (0.1, 0.1), (0.3, 0.01), (0.5, 0.02)], []
    for lr, wd in rates:
        rho, loss, record = 3 * (lr / 0.02) ** 0.5, 1.0, []
        for _ in range(4000):
            if lr / rho**2 > 0.02:
                loss, gradient = 2.0, 30.0
            else:
                loss, gradient = max(loss * 0.9, 1e-4), 6 * loss
            rho = float(next_norm(rho, gradient, lr, wd))
            record.append((loss, rho))
        found = find_periods(range(4000), *np.transpose(record)).after(1 / (lr * wd))
        assert len(found) > 2 and found.cv < 0.1
        frequencies.append(found.frequency)
    slope = np.polyfit(np.log(np.prod(rates, axis=1)), np.log(frequencies), 1)[0]
    assert slope == pytest.approx(1, abs=0.1)


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
    found = toy.convergence_boundary(alpha, steps=1500)
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
    def descend(elr, steps, alpha, runs):
        return np.array([[1.0, elr > bound] for bound in (0.2, 0.3, 0.4, 0.5)])

    monkeypatch.setattr(toy, "descend", descend)
    assert toy.convergence_boundary() == pytest.approx(0.3, rel=2e-3)


def test_what_has_no_meaning_is_refused():
    for delta in (0, 1, -0.1, [0.1, 1.5]):
        with pytest.raises(ValueError, match="delta"):
            jump_threshold(delta, 0.1, 0.1)
    for elr, alpha in ((0, (1, 2)), (-1, (1,)), (0.1, (1, -2))):
        with pytest.raises(ValueError, match="positive"):
            toy.descend(elr, 1, alpha)
