"""Periods of training: cycles of the norm ρ and of the loss (P1, section 3). NumPy only.

A period is a cycle of ρ: it falls, turns, and rises by at least 10 %, while the loss rises at least
fourfold from its minimum in the fall to its maximum in the rise. The same turning points give the
phases: in B weight decay dominates and ρ falls; in C, from the turn to the maximum of the loss, the
network destabilises; in A the gradients dominate, until ρ is largest. A jump, where the loss rises
at once, is the sharp special case: with momentum, augmentation or small steps periods are smooth.

`Detector` is fed one record after the other, in anybody's training loop; `find_periods` takes the
records of a whole run.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

RISE = 1.1  # ρ turns where it changes direction by this factor
LOSS_RISE = 4.0  # of the loss, from its minimum while ρ falls to its maximum while ρ rises
SHARP = 0.1  # of phase B: a shorter phase C is a jump
# What tells a period from the swings of noise, in an orderly one:
RESOLVED = 5  # records in the fall of ρ
WAVERING = 0.3  # of the fall of ln ρ, which the rises within it may add up to
ORDERLY = 3 / 4  # of the periods of a periodic run
ENOUGH = 4  # periods, for a run to be periodic
LARGEST_CV = 0.5  # of the lengths of periods


@dataclass(frozen=True)
class Period:
    """One cycle of ρ: when it turns (in the records' unit of time), and the values there.

    Attributes
    ----------
    start, rho_start : ρ at its maximum; phase B begins.
    low, loss_low : the loss at its minimum while ρ falls.
    turn, rho_turn : ρ at its minimum; phase C begins. A period is said to be at its `turn`.
    high, loss_high : the loss at its maximum while ρ rises; phase A begins.
    end, rho_end : ρ at its next maximum; as long as it rises, the latest record.
    records : in the fall, after `start` and up to `turn`.
    wavering : sum of all rises of ln ρ within the fall, as a fraction of the fall.
    """

    start: float
    rho_start: float
    low: float
    loss_low: float
    turn: float
    rho_turn: float
    high: float
    loss_high: float
    end: float
    rho_end: float
    records: int
    wavering: float

    @property
    def is_orderly(self) -> bool:
        """Whether weight decay dominates while ρ falls: it wavers by at most 0.3 of its fall.

        The fall is resolved, too. Swings of noise are seldom so, whatever their size.
        """
        return self.records >= RESOLVED and self.wavering <= WAVERING

    @property
    def is_jump(self) -> bool:
        """Whether the network destabilises at once: phase C takes less than a tenth of B's time."""
        return self.high - self.turn < SHARP * (self.turn - self.start)


class Detector:
    """Finds periods while a run goes on: one pass, no memory of the records.

    Attributes
    ----------
    periods : list of Period, those confirmed so far. The last one grows as long as ρ rises.
    """

    def __init__(self, rise: float = RISE, loss_rise: float = LOSS_RISE):
        self.rise, self.loss_rise = rise, loss_rise
        self.periods: list[Period] = []
        self._direction = 0  # of ρ: 1 rises, -1 falls, 0 has not changed enough to tell
        self._start: tuple[float, float] | None = None  # (time, ρ) where the latest fall began
        self._top: tuple[float, float] | None = None  # (time, ρ), highest since ρ turned up
        self._bottom = (math.nan, math.nan)  # lowest since ρ turned down
        self._lowest = self._highest = (math.nan, math.nan)  # (time, loss) since top, since bottom
        self._low = self._high = (math.nan, math.nan)  # the same, up to the bottom, up to the top
        self._latest = math.nan  # ρ of the latest record
        self._since = self._fall = (0, 0.0)  # records, rises of ln ρ since the top; to the bottom
        self._confirmed = False  # whether this rise is that of the last period

    def add(self, time: float, loss: float, rho: float) -> Period | None:
        """Take the next record; the period that it confirms, or None.

        A record whose ρ is not a positive number is passed over; a loss that is not finite counts
        as infinitely high.
        """
        if not 0 < rho < math.inf:
            return None
        now = (time, loss if math.isfinite(loss) else math.inf)
        if self._top is None:
            self._top = self._bottom = (time, rho)
            self._lowest = self._highest = self._low = self._high = now
            self._latest = rho
            return None
        rose = max(math.log(rho / self._latest), 0.0)
        self._since, self._latest = (self._since[0] + 1, self._since[1] + rose), rho
        if now[1] < self._lowest[1]:
            self._lowest = now
        if now[1] > self._highest[1]:
            self._highest = now
        if self._direction >= 0 and rho * self.rise <= self._top[1]:
            self._direction, self._start, self._confirmed = -1, self._top, False
            self._set_bottom(time, rho, now)
        elif self._direction <= 0 and rho >= self.rise * self._bottom[1]:
            self._direction = 1
            self._set_top(time, rho, now)
            return self._confirm()
        elif self._direction >= 0 and rho > self._top[1]:
            self._set_top(time, rho, now)
            return self._confirm() if self._direction else None
        if self._direction <= 0 and rho < self._bottom[1]:
            self._set_bottom(time, rho, now)
        return None

    def _set_top(self, time: float, rho: float, now: tuple[float, float]) -> None:
        self._top, self._high, self._lowest, self._since = (time, rho), self._highest, now, (0, 0.0)

    def _set_bottom(self, time: float, rho: float, now: tuple[float, float]) -> None:
        self._bottom, self._low, self._highest = (time, rho), self._lowest, now
        self._fall = self._since

    def _confirm(self) -> Period | None:
        """The present rise as a period if it is a new one, or the last period, longer."""
        low, high = self._low[1], self._high[1]
        if self._start is None or math.isinf(low) or not high >= self.loss_rise * low or high == 0:
            return None
        records, rises = self._fall
        wavering = rises / math.log(self._start[1] / self._bottom[1])
        turning_points = *self._start, *self._low, *self._bottom, *self._high, *self._top
        period = Period(*turning_points, records, wavering)
        if self._confirmed:
            self.periods[-1] = period
            return None
        self._confirmed = True
        self.periods.append(period)
        return period


@dataclass(frozen=True)
class Periods:
    """The periods of one run, in order.

    Attributes
    ----------
    cycles : the periods, each with its turning points.
    """

    cycles: tuple[Period, ...] = ()

    def __len__(self) -> int:
        return len(self.cycles)

    def __str__(self) -> str:
        """How many and how regular: "5 periods, CV 0.08"."""
        number = f"{len(self)} period" + "s" * (len(self) != 1)
        return number + (f", CV {self.cv:.2f}" if len(self) > 2 else "")

    def each(self, name: str) -> np.ndarray:
        """One attribute of every period: (n,)."""
        return np.array([getattr(period, name) for period in self.cycles], dtype=float)

    @property
    def turns(self) -> np.ndarray:
        """When ρ turns, the times of the periods: (n,)."""
        return self.each("turn")

    @property
    def lengths(self) -> np.ndarray:
        """(n - 1,) times from one turn to the next."""
        return np.diff(self.turns)

    @property
    def mean(self) -> float:
        """Mean length; NaN with fewer than two periods."""
        return float(self.lengths.mean()) if len(self) > 1 else math.nan

    @property
    def frequency(self) -> float:
        """Periods in a unit of time; NaN with fewer than two."""
        return 1 / self.mean

    @property
    def cv(self) -> float:
        """Coefficient of variation of the lengths, σ / mean; NaN with fewer than three periods."""
        return float(self.lengths.std() / self.mean) if len(self) > 2 else math.nan

    def after(self, time: float) -> "Periods":
        """Those that turn after this time: where training has had time to forget its start."""
        return Periods(tuple(period for period in self.cycles if period.turn > time))

    @property
    def orderly(self) -> float:
        """Share of the periods that are `is_orderly`; NaN without any."""
        return float(np.mean([p.is_orderly for p in self.cycles])) if self.cycles else math.nan

    @property
    def cv_limit(self) -> float:
        """What the CV of periodic ones is below: 0.5, and `chance_cv`; NaN with fewer than two."""
        if len(self) < 2:
            return math.nan
        fall = np.mean(np.log(self.each("rho_start") / self.each("rho_turn")))
        return min(LARGEST_CV, chance_cv(len(self) - 1, fall))

    @property
    def is_periodic(self) -> bool:
        """Whether there are at least four, three in four of them orderly, and `cv` < `cv_limit`.

        To be asked of the periods `after` one e-fold of weight decay, 1 / (ηλ) steps.
        """
        regular = self.orderly >= ORDERLY and self.cv < self.cv_limit
        return len(self) >= ENOUGH and bool(regular)

    def minima(self, times: ArrayLike, loss: ArrayLike) -> np.ndarray:
        """The time of the lowest loss in every period that has turned, the first one included.

        A period is the time from one maximum of the loss to the turn of ρ.

        Parameters
        ----------
        times, loss : (n,), in order, of any records, such as checkpoints; a period without one is
            left out.
        """
        times, loss = np.asarray(times, dtype=float), np.asarray(loss, dtype=float)
        found, begin = [], -math.inf
        for period in self.cycles:
            inside = np.flatnonzero((times > begin) & (times <= period.turn) & np.isfinite(loss))
            if len(inside):
                found.append(times[inside[np.argmin(loss[inside])]])
            begin = period.high
        return np.array(found)

    def phases(self, times: ArrayLike) -> np.ndarray:
        """The phase, "A", "B" or "C", of each of these times: (n,).

        B until ρ turns, C until the maximum of the loss, A until the maximum of ρ, and so on; the
        time before the first period counts as its B, except where ρ rises at first: A.
        """
        bounds, names = [], []
        for period in self.cycles:
            bounds += [period.start, period.turn, period.high]
            names += ["A", "B", "C"]
        at = np.searchsorted(bounds, np.asarray(times, dtype=float))
        return np.array([*names, "A"])[at]


def chance_cv(lengths: int, fall: float) -> float:
    """What the CV of so many lengths between independent events falls below in 5 % of draws.

    1 - 1.38 / √n for a Poisson process (fitted to draws of 3 to 20 lengths, within 0.01), times the
    share of the time in which an event would be seen, 0.6 to 0.8: not while ρ falls by the factor
    `RISE` that it has to before it can turn again, nor while it rises by that.

    Parameters
    ----------
    lengths : their number n.
    fall : mean of ln(ρ_start / ρ_turn), what ρ falls in a period.
    """
    seen = min(max(1 - 2 * math.log(RISE) / fall, 0.6), 0.8)
    return seen * (1 - 1.38 / math.sqrt(lengths))


def find_periods(times: ArrayLike, loss: ArrayLike, rho: ArrayLike) -> Periods:
    """The periods in the records of a run.

    Parameters
    ----------
    times, loss, rho : (n,) in order of time, evenly spaced or not; `Detector.add` says what becomes
        of values that are not finite.

    Raises
    ------
    ValueError : lengths that differ.
    """
    detector = Detector()
    columns = (np.asarray(a, dtype=float).tolist() for a in (times, loss, rho))
    for record in zip(*columns, strict=True):
        detector.add(*record)
    return Periods(tuple(detector.periods))
