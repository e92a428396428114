"""Theory of the papers as functions, and periods found in a run's metrics. NumPy and SciPy only.

Symbols: η learning rate, λ weight decay, ρ norm of the scale-invariant (SI) weights.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import find_peaks, lfilter
from scipy.stats import kendalltau, linregress, skew, t

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


def effective_step(lr: ArrayLike, si_norm: ArrayLike, gradient_norm: ArrayLike) -> np.ndarray:
    """Effective step η̃ ‖g̃‖ = η ‖g‖ / ρ of a gradient of norm ‖g‖ (P1, section 2), elementwise."""
    return np.asarray(lr) * gradient_norm / np.asarray(si_norm)


def next_norm(
    si_norm: ArrayLike, gradient_norm: ArrayLike, lr: ArrayLike, wd: ArrayLike
) -> np.ndarray:
    """Norm ρ' of the SI weights after a step of SGD (P1, section 2), elementwise.

    ρ'² = (1 - ηλ)² ρ² + η² ‖g̃‖² / ρ², exact since the gradient is orthogonal to the weights.

    Parameters
    ----------
    si_norm : ρ > 0 before the step.
    gradient_norm : norm ‖g̃‖ of the effective gradient.
    lr, wd : η and λ.
    """
    rho, kept = np.asarray(si_norm), 1 - np.asarray(lr) * wd
    return np.sqrt((kept * rho) ** 2 + (np.asarray(lr) * gradient_norm / rho) ** 2)


def step_cosine(effective_step: ArrayLike, lr: ArrayLike, wd: ArrayLike) -> np.ndarray:
    """Cosine of the angle between the SI weights before and after a step (P1, section 2).

    cos(w, w') = (1 - ηλ) / sqrt((1 - ηλ)² + s²) for the effective step s = η̃ ‖g̃‖, elementwise.
    """
    kept = 1 - np.asarray(lr) * wd
    return kept / np.hypot(kept, effective_step)


def jump_threshold(delta: ArrayLike, lr: ArrayLike, wd: ArrayLike) -> np.ndarray:
    """The effective step η̃ ‖g̃‖ above which a step is a δ-jump, 1 - cos(w, w') > δ.

    (1 - ηλ) sqrt(2δ - δ²) / (1 - δ), for 0 < δ < 1 (P1, section 2); elementwise.

    Raises
    ------
    ValueError : a δ that is not between 0 and 1.
    """
    delta = np.asarray(delta, dtype=float)
    if not np.all((delta > 0) & (delta < 1)):
        raise ValueError("delta must lie between 0 and 1")
    return (1 - np.asarray(lr) * wd) * np.sqrt(2 * delta - delta**2) / (1 - delta)


def equilibrium_norm(gradient_norm: ArrayLike, lr: ArrayLike, wd: ArrayLike) -> np.ndarray:
    """The norm ρ* that steps with effective gradients of a constant norm ‖g̃‖ lead to.

    ρ*⁴ = η ‖g̃‖² / (λ (2 - ηλ)), the fixed point of `next_norm` (P1, section 2); elementwise.
    """
    lr, wd = np.asarray(lr), np.asarray(wd)
    return (lr * np.asarray(gradient_norm) ** 2 / (wd * (2 - lr * wd))) ** 0.25


def moving_equilibrium(gradient_norm: ArrayLike, lr: float, wd: float) -> np.ndarray:
    """The equilibrium norm of every step's past gradients: (n,).

    ‖g̃‖² is averaged over the past with exponentially falling weights and a memory of 1 / (ηλ)
    steps, the time that weight decay takes; the first steps average over what there is.

    Parameters
    ----------
    gradient_norm : (n,) norms of the effective gradients of successive steps.
    """
    squares = np.asarray(gradient_norm, dtype=float) ** 2
    kept = 1 - lr * wd
    weighted = lfilter([1], [1, -kept], squares)
    weights = lfilter([1], [1, -kept], np.ones(len(squares)))
    return equilibrium_norm(np.sqrt(weighted / weights), lr, wd)


def steps_between(
    high: float, low: float, lr: float, wd: float, gradient_norm: float = 0.0
) -> float:
    """Steps that the norm ρ takes to fall from `high` to `low`: a bound on the steps of a period.

    With negligible gradients ρ decays by 1 - ηλ a step and takes
    ln(high / low) / -ln(1 - ηλ) steps (P1, section 2). Gradients only slow it down, so no fall is
    faster: this is the lower bound, and the frequency of periods is proportional to ηλ.

    Given the largest norm ‖g̃‖ of an effective gradient on the way, the result is an upper bound:
    above `low`, x = ρ² obeys x' <= a x + b with a = (1 - ηλ)² and b = (η ‖g̃‖ / low)², which falls
    below low² after ln((high² - c) / (low² - c)) / -ln(a) steps, c = b / (1 - a). Infinite where
    low² <= c, that is where `low` is not above the `equilibrium_norm` of ‖g̃‖.

    Raises
    ------
    ValueError : not high >= low > 0, or ηλ not between 0 and 1.
    """
    if not (high >= low > 0 and 0 < lr * wd < 1):
        raise ValueError("needs high >= low > 0 and 0 < lr * wd < 1")
    kept = (1 - lr * wd) ** 2
    floor = (lr * gradient_norm / low) ** 2 / (1 - kept)
    if low**2 <= floor:
        return float("inf")
    return float(np.log((high**2 - floor) / (low**2 - floor)) / -np.log(kept))


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


@dataclass(frozen=True)
class PowerLaw:
    """y = factor * x**exponent, fitted to logarithms by least squares.

    Attributes
    ----------
    exponent, factor : of the fit.
    low, high : confidence interval of the exponent (Student's t).
    """

    exponent: float
    factor: float
    low: float
    high: float

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.factor * np.asarray(x, dtype=float) ** self.exponent


def fit_power_law(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> PowerLaw:
    """Fit log y against log x, for the frequency of periods against ηλ (P1, section 4).

    Parameters
    ----------
    x, y : (n,) positive numbers, n >= 3; pairs with a NaN are left out.

    Raises
    ------
    ValueError : fewer than three pairs are left, or all x are the same.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 3 or np.ptp(x[known]) == 0:
        raise ValueError("a power law needs three pairs with different x")
    fit = linregress(np.log(x[known]), np.log(y[known]))
    width = t.ppf((1 + confidence) / 2, known.sum() - 2) * fit.stderr
    slope = float(fit.slope)
    return PowerLaw(slope, float(np.exp(fit.intercept)), slope - width, slope + width)


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
