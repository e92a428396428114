"""When training will destabilise next, from the norm ρ and the periods so far. NumPy only."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from theory.periods import Period

RECENT = 5  # periods whose depth is the usual one
OVERDUE = 0.25  # of the usual depth, which is expected to be left at the least
LATE = 1 / 2  # of the fall, from which its present rate is read


def time_to_turn(
    times: ArrayLike, rho: ArrayLike, periods: Sequence[Period], lr_ratio: float = 1.0
) -> float | None:
    """How much longer ρ will fall, in phase B: the time until the next destabilisation.

    ln ρ falls on at the rate of the later half of this fall, until η̃ = η / ρ² stands where the
    last period turned. A fall that has come close to that level, or passed it, has a quarter of the
    usual depth (the median over the last five periods, of ln ρ) before it yet: how much deeper a
    period goes does not depend on how deep it is already.

    Parameters
    ----------
    times, rho : (n,) records up to now, at the least those since ρ was largest.
    periods : those that have turned.
    lr_ratio : the learning rate now over that at the last turn.

    Returns
    -------
    In the unit of `times`; None without a period behind, or while ρ does not fall.
    """
    if not periods:
        return None
    times, level = np.asarray(times, dtype=float), np.log(np.asarray(rho, dtype=float))
    begin = int(np.searchsorted(times, periods[-1].end))
    if begin == len(times):
        return None
    begin += int(np.argmax(level[begin:]))
    late = begin + int((1 - LATE) * (len(times) - begin))
    late = min(late, len(times) - 3)  # three points at the least
    if late < begin:
        return None
    rate = -np.polyfit(times[late:], level[late:], 1)[0]
    if rate <= 0:
        return None
    usual = np.median([math.log(p.rho_start / p.rho_turn) for p in periods[-RECENT:]])
    target = math.log(periods[-1].rho_turn) + math.log(lr_ratio) / 2
    left = max(level[-1] - target, OVERDUE * usual)
    return float(left / rate)
