"""The regime of training at a fixed effective learning rate (P2), named from metrics alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau

RANDOM = 0.9  # above this fraction of random guessing's error, a run is at its level
LEARNT = 0.02  # below this fraction, it has found a minimum
REGIMES = ("convergence", "chaotic equilibrium", "divergence")  # by rising rate
FALLING = -0.4  # Kendall's rank correlation of loss and time below which the loss still falls


@dataclass(frozen=True)
class Regime:
    """The regime of training at a fixed effective learning rate (P2).

    Attributes
    ----------
    name : one of `REGIMES`.
    level : median loss of the second half of the record.
    low, high : its 10th and 90th percentile there.
    """

    name: str
    level: float
    low: float
    high: float


def find_regime(loss: ArrayLike, disorder: ArrayLike) -> Regime:
    """Name the regime of a run on the sphere from its metrics alone.

    Judged by the second half of the record, in this order:

    - divergence: the median disorder is at least 0.9, the level of random guessing;
    - convergence: it is at most 0.02, or the loss still falls (Kendall's rank correlation of
      loss and time is below -0.4);
    - chaotic equilibrium: neither; the loss hovers between a minimum and random guessing.

    Parameters
    ----------
    loss : (n,) training loss, n >= 4, in order of time.
    disorder : (n,) how far from learnt, as a fraction of random guessing: for a classifier its
        training error over 1 - 1/classes; for the toy function F over its mean on the sphere.

    Raises
    ------
    ValueError : fewer than four records, or lengths that differ.
    """
    loss, disorder = np.asarray(loss, dtype=float), np.asarray(disorder, dtype=float)
    if loss.shape != disorder.shape or len(loss) < 4:
        raise ValueError("loss and disorder need the same length, at least 4")
    loss = np.where(np.isfinite(loss), loss, np.inf)
    late, median = loss[len(loss) // 2 :], np.median(disorder[len(loss) // 2 :])
    low, level, high = np.percentile(late, (10, 50, 90), method="nearest")
    if median >= RANDOM:
        name = "divergence"
    elif median <= LEARNT or kendalltau(np.arange(len(late)), late).statistic < FALLING:
        name = "convergence"
    else:
        name = "chaotic equilibrium"
    return Regime(name, float(level), float(low), float(high))
