"""Theory of the papers as functions, and periods found in a run's metrics. NumPy and SciPy only.

Symbols: η learning rate, λ weight decay, ρ norm of the scale-invariant (SI) weights.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import find_peaks
from scipy.stats import skew

JUMP_RISE = 4.0  # a jump multiplies the training loss by at least this
JUMP_TO_NOISE = 4.0  # its logarithm rises by at least this many typical steps of the record
SAWTOOTH_SKEWNESS = 1.0  # of the changes of log(loss), where the loss jumps up and glides down
START = 0.1  # the part of the record in which the loss first falls


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
