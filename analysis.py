"""Theory of the papers as functions, and periods found in a run's metrics. NumPy and SciPy only.

Symbols: η learning rate, λ weight decay, ρ norm of the scale-invariant (SI) weights.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import find_peaks
from scipy.stats import kendalltau, skew

JUMP_RISE = 4.0  # a jump multiplies the training loss by at least this
JUMP_TO_NOISE = 4.0  # its logarithm rises by at least this many typical steps of the record
SAWTOOTH_SKEWNESS = 1.0  # of the changes of log(loss), where the loss jumps up and glides down
START = 0.1  # the part of the record in which the loss first falls
RANDOM = 0.9  # above this fraction of random guessing's error, a run is at its level
LEARNT = 0.02  # below this fraction, it has found a minimum
FALLING = -0.4  # Kendall's rank correlation of loss and time below which the loss still falls


def effective_lr(lr: ArrayLike, si_norm: ArrayLike) -> np.ndarray:
    """Effective learning rate η̃ = η / ρ² (P1, section 2), elementwise."""
    return np.asarray(lr) / np.asarray(si_norm) ** 2


def effective_gradient_norm(gradient_norm: ArrayLike, si_norm: ArrayLike) -> np.ndarray:
    """Norm of the effective gradient, ‖g̃‖ = ρ ‖g‖: the gradient at w / ρ (P1, section 2)."""
    return np.asarray(gradient_norm) * np.asarray(si_norm)


def find_jumps(epochs: ArrayLike, loss: ArrayLike, rise: float = JUMP_RISE) -> np.ndarray:
    """The epochs at which the training loss jumps.

    A jump is a peak of the loss whose logarithm has a prominence of log(rise): the loss was
    `rise` times lower before, and is so again before it next exceeds the peak (a jump at the
    end of the record need not have fallen yet). Its epoch is that of the steepest rise.

    Chaotic equilibrium has high peaks too, but no jumps. What tells periods from it is time's
    arrow: in periods the loss leaps up and glides down, so the changes of log(loss) from record
    to record are skewed upwards, while in equilibrium ups and downs are alike. A record whose
    changes (after its first tenth, the initial fall) are not skewed has no jumps; and a jump must
    exceed four times their median absolute deviation.

    Parameters
    ----------
    epochs, loss : (n,), in order; a loss that is not finite counts as the largest finite one.

    Returns
    -------
    epochs of the jumps : (number of jumps,), ascending.
    """
    epochs, loss = np.asarray(epochs), np.asarray(loss, dtype=float)
    finite = np.isfinite(loss) & (loss > 0)
    if finite.sum() < 3:
        return epochs[:0]
    level = np.log(np.where(finite, loss, loss[finite].max()))
    change = np.diff(level)
    later = change[int(START * len(change)) :]
    if skew(later) < SAWTOOTH_SKEWNESS:
        return epochs[:0]
    noise = np.median(np.abs(later - np.median(later)))
    padded = np.append(level, level.min())
    peaks, _ = find_peaks(padded, prominence=max(np.log(rise), JUMP_TO_NOISE * noise))
    jumps, last = [], 0
    for peak in peaks:
        low = last + np.argmin(level[last:peak])  # from here the loss rose to this peak
        jumps.append(epochs[low + 1 + np.argmax(change[low:peak])])
        last = peak
    return np.array(jumps, dtype=epochs.dtype)


@dataclass(frozen=True)
class Periods:
    """Jumps of one run and the time between them.

    Attributes
    ----------
    jumps : epochs of the jumps.
    mean : mean time between jumps in epochs; NaN with fewer than two jumps.
    """

    jumps: np.ndarray
    mean: float


def find_periods(epochs: ArrayLike, loss: ArrayLike) -> Periods:
    """Jumps and mean period of one run; arguments as for `find_jumps`."""
    jumps = find_jumps(epochs, loss)
    return Periods(jumps, float(np.diff(jumps).mean()) if len(jumps) > 1 else float("nan"))


@dataclass(frozen=True)
class Regime:
    """The regime of training at a fixed effective learning rate (P2).

    Attributes
    ----------
    name : "convergence", "chaotic equilibrium" or "divergence".
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
