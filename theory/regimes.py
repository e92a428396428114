"""The regime of training at a fixed effective learning rate (P2), named from metrics alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

REGIMES = ("convergence", "chaotic equilibrium", "divergence")  # by increasing rate
RANDOM = 0.9  # fraction of random guessing's error above which nothing is learnt
LEARNT = 0.02  # fraction of it below which a minimum is reached
ENOUGH = 20  # records
SETTLED = 2.0  # e-folds of weight decay after which ρ has forgotten its start
STEADY = 1.1  # factor by which the median of a steady quantity may change from quarter 3 to 4
CHANCE = 0.01  # p-value of Kendall's rank correlation with time, above which there is no trend
FLAT = 0.01  # relative change of the loss below which the weights may not have moved at all


@dataclass(frozen=True)
class Regime:
    """The regime of a run: one of `REGIMES`, or None with the reason why the record does not tell.
    `level` is the median loss of the second half of the record, `low` and `high` its 10th and 90th
    percentile there."""

    name: str | None
    level: float = np.nan
    low: float = np.nan
    high: float = np.nan
    reason: str = ""

    def __str__(self) -> str:
        return self.name or f"none yet: {self.reason}"


def find_regime(
    loss: ArrayLike,
    disorder: ArrayLike,
    effective_lr: ArrayLike | None = None,
    e_folds: float = np.inf,
) -> Regime:
    """Name the regime of a run by the second half of its record.

    - convergence: the median disorder is at most 0.02;
    - divergence: the loss is steady and the median disorder at least 0.9, the level of random
      guessing, or the loss is not finite at the end;
    - chaotic equilibrium: the loss is steady between a minimum and random guessing. With weight
      decay and a free norm a settled run is chaotic at any lower level, too: the norm stays where
      it is because noise balances decay.

    None if the record is short, the effective learning rate still changes, or the loss still rises
    or falls (by more than a tenth and by more than chance). Raises ValueError if lengths differ.

    Parameters
    ----------
    loss : (n,) training loss in order of time.
    disorder : (n,) how far from learnt, as a fraction of random guessing: for a classifier its
        training error over 1 - 1/classes; for the toy function F over its mean on the sphere.
    effective_lr : (n,) η̃; None if it is fixed.
    e_folds : of weight decay, 1/(ηλ) steps each; infinite if the norm is held or without decay.
    """
    loss, disorder = np.asarray(loss, dtype=float), np.asarray(disorder, dtype=float)
    n, free = len(loss), np.isfinite(e_folds)
    effective_lr = np.ones(n) if effective_lr is None else np.asarray(effective_lr, dtype=float)
    if not loss.shape == disorder.shape == effective_lr.shape:
        raise ValueError("loss, disorder and effective_lr need the same length")
    if n == 0:
        return Regime(None, reason="nothing is recorded")
    loss = np.where(np.isfinite(loss), loss, np.inf)
    low, level, high = map(float, np.percentile(loss[n // 2 :], (10, 50, 90), method="nearest"))
    median, rate, trend = np.median(disorder[n // 2 :]), _trend(effective_lr), _trend(loss)
    name, reason = None, ""
    if np.isinf(loss[-1]):
        name = "divergence"
    elif n < ENOUGH:
        reason = f"{n} records (needs {ENOUGH})"
    elif e_folds < SETTLED:
        reason = f"{e_folds:.2g} e-folds of decay (needs {SETTLED:g})"
    elif rate:
        reason = f"η̃ still {'rises' if rate > 0 else 'falls'}"
    elif median <= LEARNT and not free:
        name = "convergence"
    elif trend:
        reason = f"the loss still {'rises' if trend > 0 else 'falls'}"
    elif max(high, loss[0]) - min(low, loss[0]) < FLAT * level:
        reason = "the loss hardly changes"
    else:
        name = "divergence" if median >= RANDOM else "chaotic equilibrium"
    return Regime(name, level, low, high, reason)


def _trend(values: np.ndarray) -> int:
    """1 if the second half of these values rises, -1 if it falls, 0 if it is steady."""
    late = values[len(values) // 2 :]
    if len(late) < 2:
        return 0
    before, after = (np.median(part) for part in np.array_split(late, 2))
    if before / STEADY < after < before * STEADY or after == before:
        return 0
    from scipy.stats import kendalltau  # imported here because it is slow

    correlation = kendalltau(np.arange(len(late)), late)
    return int(np.sign(correlation.statistic)) if correlation.pvalue < CHANCE else 0
