"""Jumps of the training loss: the sharp ends of periods, and the phases between them (P1)."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import find_peaks
from scipy.stats import skew

JUMP_RISE = 4.0  # a jump multiplies the training loss by at least this
JUMP_TO_NOISE = 4.0  # its logarithm rises by at least this many typical steps of the record
SAWTOOTH_SKEWNESS = 1.0  # of the changes of log(loss), where the loss jumps up and glides down
START = 0.1  # the part of the record in which the loss first falls


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
    lengths : (number of jumps - 1,) epochs from each to the next.
    """

    jumps: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.jumps)

    @property
    def mean(self) -> float:
        """Mean length of a period in epochs; NaN with fewer than two jumps."""
        return float(self.lengths.mean()) if len(self.lengths) else float("nan")

    @property
    def frequency(self) -> float:
        """Periods an epoch; NaN with fewer than two jumps."""
        return 1 / self.mean

    def minima(self, epochs: ArrayLike, loss: ArrayLike) -> np.ndarray:
        """The epoch of the lowest loss in each period that a jump ends, the first one included.

        Parameters
        ----------
        epochs, loss : (n,), in order, of any records; a period without one is left out.
        """
        epochs, loss = np.asarray(epochs, dtype=float), np.asarray(loss, dtype=float)
        bounds = np.searchsorted(epochs, [-np.inf, *self.jumps])
        pairs = [(start, end) for start, end in itertools.pairwise(bounds) if start < end]
        return np.array([epochs[start + np.argmin(loss[start:end])] for start, end in pairs])


def find_periods(epochs: ArrayLike, loss: ArrayLike) -> Periods:
    """Jumps and periods of one run; arguments as for `find_jumps`."""
    return Periods(find_jumps(epochs, loss))


def find_phases(
    epochs: ArrayLike, loss: ArrayLike, si_norm: ArrayLike, jumps: ArrayLike
) -> np.ndarray:
    """The phase of its period that each record is in (P1, section 3): (n,) of "A", "B", "C".

    A: from the peak of the loss to the peak of ρ, where the loss term dominates; B: down to the
    lowest loss, where weight decay does; C: from there up to the peak of the loss, the
    destabilisation. The first period starts and the last one ends with the record.

    Parameters
    ----------
    epochs, loss, si_norm : (n,), in order.
    jumps : their epochs, from `find_jumps`.
    """
    epochs, loss, rho = (np.asarray(a, dtype=float) for a in (epochs, loss, si_norm))
    loss = np.where(np.isfinite(loss), loss, np.inf)
    starts = np.searchsorted(epochs, jumps)
    ends = [*starts[1:], len(loss)][: len(starts)]
    peaks = [start + np.argmax(loss[start:end]) for start, end in zip(starts, ends, strict=True)]
    phases = np.full(len(loss), "B")
    for first, peak in zip([0, *(p + 1 for p in peaks)], [*peaks, len(loss)], strict=True):
        low = peak  # of the loss, the last such record before it rises
        if first < peak < len(loss):
            low = peak - 1 - np.argmin(loss[first:peak][::-1])
            phases[low + 1 : peak] = "C"
        phases[peak : peak + 1] = "C"
        if low > first:
            phases[first : first + np.argmax(rho[first:low]) + 1] = "A"
    return phases
