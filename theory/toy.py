"""The three regimes of training on a sphere in a function that takes milliseconds (P2).

    F(x, y) = 1/2 sum_i alpha_i x_i^2 / (x_i^2 + y_i^2)

is minimised over the unit sphere of all (x_i, y_i) by projected gradient descent,

    w' = (w - ELR g) / ||w - ELR g||,    g = grad F(w).

Like a network's loss in front of normalisation layers, F does not change when a pair (x_i, y_i) is
scaled, so g is orthogonal to w and grows as a pair shrinks.

The boundary of the first regime: F is 0 where all x_i = 0. There, to first order in x,

    dF/dx_i = alpha_i x_i y_i^2 / (x_i^2 + y_i^2)^2 = alpha_i x_i / y_i^2,    dF/dy_i = O(x^2),

so a step multiplies x_i by 1 - ELR alpha_i / y_i^2, and the minimum is stable if and only if
ELR max_i alpha_i / y_i^2 < 2. The y_i^2 sum to 1, so the flattest minimum is the one with
y_i^2 proportional to alpha_i, where every alpha_i / y_i^2 is sum(alpha). Hence some minima are
stable below ELR = 2 / sum(alpha) (`stability_bound`), and none is above it.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

ALPHA = (1, 2, 4)
CONVERGED = 1e-12  # of F, relative to sum(alpha)


def loss(w: np.ndarray, alpha: ArrayLike) -> np.ndarray:
    """F at points w of shape (..., 2, n), x above y: shape (...)."""
    x, y = w[..., 0, :], w[..., 1, :]
    return 0.5 * (np.asarray(alpha) * x**2 / (x**2 + y**2)).sum(-1)


def gradient(w: np.ndarray, alpha: ArrayLike) -> np.ndarray:
    """The exact gradient of F, of the shape (..., 2, n) of w."""
    x, y = w[..., 0, :], w[..., 1, :]
    common = np.asarray(alpha) * x * y / (x**2 + y**2) ** 2
    return np.stack([common * y, -common * x], axis=-2)


def random_points(count: int, pairs: int) -> np.ndarray:
    """Uniformly random points of the sphere: (count, 2, pairs)."""
    w = np.random.RandomState(0).standard_normal((count, 2, pairs))
    return w / np.linalg.norm(w, axis=(-2, -1), keepdims=True)


def random_level(alpha: ArrayLike = ALPHA) -> float:
    """The mean of F over the sphere, sum(alpha) / 4, as x_i^2 / (x_i^2 + y_i^2) averages 1/2."""
    return float(np.sum(alpha) / 4)


def descend(elr: float, steps: int, alpha: Sequence[float] = ALPHA, runs: int = 1) -> np.ndarray:
    """Losses along projected gradient descent from random points: (runs, steps + 1). Raises
    ValueError for a rate or an alpha that is not positive."""
    if not (elr > 0 and np.all(np.asarray(alpha) > 0)):
        raise ValueError("the effective learning rate and every alpha must be positive")
    w = random_points(runs, len(alpha))
    losses = [loss(w, alpha)]
    for _ in range(steps):
        w = w - elr * gradient(w, alpha)
        w /= np.linalg.norm(w, axis=(-2, -1), keepdims=True)
        losses.append(loss(w, alpha))
    return np.stack(losses, axis=-1)


def stability_bound(alpha: ArrayLike = ALPHA) -> float:
    """The largest ELR at which some minimum is stable, 2 / sum(alpha); derived above."""
    return float(2 / np.sum(alpha))


def convergence_boundary(alpha: Sequence[float] = ALPHA, steps: int = 20_000) -> float:
    """The ELR up to which descent from random points converges, by bisection to a thousandth. It
    converges if most of eight runs end at a loss of 0, to 1e-12 of sum(alpha)."""
    low, high = 0.25 * stability_bound(alpha), 4 * stability_bound(alpha)
    while high / low > 1 + 1e-3:
        middle = np.sqrt(low * high)
        final = descend(middle, steps, alpha, runs=8)[:, -1]
        converges = np.median(final) < CONVERGED * np.sum(alpha)
        low, high = (middle, high) if converges else (low, middle)
    return float(np.sqrt(low * high))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()  # no options
    for pairs in ((1, 2, 4), (1,), (1, 1), (0.5, 3), (1, 2, 3, 4, 5)):
        found, bound = convergence_boundary(pairs), stability_bound(pairs)
        print(f"alpha {pairs}: converges up to ELR {found:.5f}, bound 2 / sum(alpha) {bound:.5f}")
