"""Periods of training: cycles of the norm ρ and of the loss (P1, section 3). NumPy only.

In a period ρ falls, turns, and rises by at least 10 %, while the loss rises at least fourfold from
its minimum in the fall to its maximum in the rise. The turning points also bound the phases: in B
weight decay dominates and ρ falls; in C, from the turn to the maximum of the loss, training
destabilises; in A the gradients dominate, until ρ reaches its maximum. A jump, where the loss rises
at once, is the sharp special case: with momentum, augmentation or small steps periods are smooth.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

RISE = 1.1  # ρ turns where it changes direction by this factor
LOSS_RISE = 4.0  # of the loss, from its minimum while ρ falls to its maximum while ρ rises
# A period is orderly (not a swing of noise) with
RESOLVED = 5  # or more records in the fall
WAVERING = 0.3  # of the fall of ln ρ, or less, as the sum of all rises within it
# A run is periodic (`Periods.is_periodic`) with
ENOUGH = 4  # or more periods
ORDERLY = 3 / 4  # or more of them orderly
DISPERSION = 0.4  # of their lengths: less than this
TO_THE_END = 2  # mean lengths, or less, from the last turn to the end of the run
CHANCE = 0.05  # share of sequences of random events whose CV is below `chance_cv`
DRAWS = 20_000  # sequences from which that limit is computed


@dataclass(frozen=True)
class Period:
    """One cycle of ρ: the times of its turning points, in the records' unit, and the values there.

    Attributes
    ----------
    start, rho_start : the maximum of ρ; phase B begins.
    low, loss_low : the minimum of the loss while ρ falls.
    turn, rho_turn : the minimum of ρ; phase C begins. This is the time of the period.
    high, loss_high : the maximum of the loss while ρ rises; phase A begins.
    end, rho_end : the next maximum of ρ; while ρ still rises, the latest record.
    records : number of records in the fall, after `start` and up to `turn`.
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
        """Whether ρ falls over 5 records or more, with rises of at most 0.3 of the fall, as swings
        of noise seldom do, whatever their size."""
        return self.records >= RESOLVED and self.wavering <= WAVERING


class Detector:
    """Finds periods while a run goes on, in one pass, without keeping the records. `rise` is the
    factor by which ρ has to change direction. `periods` are those confirmed so far; the last one
    grows as long as ρ rises."""

    def __init__(self, rise: float = RISE):
        self.rise = rise
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

    def add(self, time: float, loss: float, rho: float) -> None:
        """Take the next record, unless ρ is not a positive number. A loss that is not finite counts
        as infinitely high."""
        if not 0 < rho < math.inf:
            return
        now = (time, loss if math.isfinite(loss) else math.inf)
        if self._top is None:
            self._top = self._bottom = (time, rho)
            self._lowest = self._highest = self._low = self._high = now
            self._latest = rho
            return
        rose = max(math.log(rho / self._latest), 0.0)
        self._since, self._latest = (self._since[0] + 1, self._since[1] + rose), rho
        if now[1] < self._lowest[1]:
            self._lowest = now
        if now[1] > self._highest[1]:
            self._highest = now
        turned_down = self._direction >= 0 and rho * self.rise <= self._top[1]
        turned_up = not turned_down and self._direction <= 0 and rho >= self.rise * self._bottom[1]
        if turned_down:
            self._direction, self._start, self._confirmed = -1, self._top, False
        elif turned_up:
            self._direction = 1
        if turned_down or (self._direction <= 0 and rho < self._bottom[1]):
            self._bottom, self._low, self._highest = (time, rho), self._lowest, now
            self._fall = self._since
        elif turned_up or (self._direction >= 0 and rho > self._top[1]):
            self._top, self._high, self._lowest = (time, rho), self._highest, now
            self._since = (0, 0.0)
            self._confirm()

    def _confirm(self) -> None:
        """Add the present rise as a period, or replace the last one if it is the same rise."""
        low, high = self._low[1], self._high[1]
        if self._start is None or math.isinf(low) or not high >= LOSS_RISE * low or high == 0:
            return
        records, rises = self._fall
        wavering = rises / math.log(self._start[1] / self._bottom[1])
        turning_points = *self._start, *self._low, *self._bottom, *self._high, *self._top
        if self._confirmed:
            self.periods.pop()
        self._confirmed = True
        self.periods.append(Period(*turning_points, records, wavering))


@dataclass(frozen=True)
class Periods:
    """The periods (`cycles`) of one run, in order; `end` is the time of its last record."""

    cycles: tuple[Period, ...] = ()
    end: float = -math.inf

    def __len__(self) -> int:
        return len(self.cycles)

    def __str__(self) -> str:
        """Their number and regularity: "5 periods, CV 0.08"."""
        number = f"{len(self)} period" + "s" * (len(self) != 1)
        return number + (f", CV {self.cv:.2f}" if len(self) > 2 else "")

    def each(self, name: str) -> np.ndarray:
        """One attribute of every period: (n,)."""
        return np.array([getattr(period, name) for period in self.cycles], dtype=float)

    @property
    def turns(self) -> np.ndarray:
        """The times of the periods, when ρ turns: (n,)."""
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

    @property
    def dispersion(self) -> float:
        """Robust σ / mean of the lengths, 1.48 · MAD / median; NaN with fewer than three periods. A
        swing too small for a period doubles a length: it raises the CV, but hardly this."""
        if len(self) < 3:
            return math.nan
        median = np.median(self.lengths)
        return float(1.4826 * np.median(np.abs(self.lengths - median)) / median)

    def after(self, time: float) -> "Periods":
        """Those that turn after this time, when training has forgotten its start."""
        return Periods(tuple(p for p in self.cycles if p.turn > time), self.end)

    @property
    def orderly(self) -> float:
        """Share of the periods that are orderly; NaN without any."""
        return float(np.mean([p.is_orderly for p in self.cycles])) if self.cycles else math.nan

    @property
    def cv_limit(self) -> float:
        """The `chance_cv` of as many lengths; NaN with fewer than two periods."""
        if len(self) < 2:
            return math.nan
        fall = np.mean(np.log(self.each("rho_start") / self.each("rho_turn")))
        return chance_cv(len(self) - 1, float(fall))

    @property
    def goes_on(self) -> bool:
        """Whether the last turn is within two mean lengths of the end of the run."""
        return bool(self.end - self.turns[-1] <= TO_THE_END * self.mean) if len(self) > 1 else False

    @property
    def is_regular(self) -> bool:
        """Whether there are at least four periods, up to the end of the run and alike in length:
        `dispersion` below 0.4, and `cv` below `cv_limit`, as for 5 % of random events."""
        alike = self.dispersion < DISPERSION and self.cv < self.cv_limit
        return bool(len(self) >= ENOUGH and self.goes_on and alike)

    @property
    def is_periodic(self) -> bool:
        """Whether the run is periodic: regular, with three in four periods orderly. Ask this of the
        periods `after` one e-fold of weight decay, 1 / (ηλ) steps."""
        return self.is_regular and bool(self.orderly >= ORDERLY)

    def minima(self, times: ArrayLike, loss: ArrayLike) -> np.ndarray:
        """The time of the lowest loss before every turn of ρ, since the maximum before it, in any
        records (n,) in order, such as checkpoints. A period without one is left out."""
        times, loss = np.asarray(times, dtype=float), np.asarray(loss, dtype=float)
        found, begin = [], -math.inf
        for period in self.cycles:
            inside = np.flatnonzero((times > begin) & (times <= period.turn) & np.isfinite(loss))
            if len(inside):
                found.append(times[inside[np.argmin(loss[inside])]])
            begin = period.high
        return np.array(found)


def chance_cv(lengths: int, fall: float) -> float:
    """The 5 % quantile of the CV of the lengths between random events, by simulation.

    Events come at random (exponential lengths) after a dead time, in which none would be seen: ρ
    has to fall by the factor `RISE` and to rise by it again. The dead time is 2 ln(`RISE`) / `fall`
    of the mean length, 0.2 to 0.4: a shorter one makes the limit laxer. `fall` is the mean of
    ln(ρ_start / ρ_turn), the fall of ρ in a period. Above 200 `lengths` the limit is that for 200,
    which is stricter.
    """
    dead = min(max(2 * math.log(RISE) / fall, 0.2), 0.4)
    return _chance_cv(min(lengths, 200), round(dead, 2))


@functools.cache
def _chance_cv(lengths: int, dead: float) -> float:
    draws = np.random.default_rng(0).exponential(size=(DRAWS, lengths))
    draws = dead + (1 - dead) * draws
    return float(np.quantile(draws.std(axis=1) / draws.mean(axis=1), CHANCE))


def find_periods(times: ArrayLike, loss: ArrayLike, rho: ArrayLike, rise: float = RISE) -> Periods:
    """The periods in the records of a run: times, loss, ρ, each (n,), in order of time, evenly
    spaced or not. `Detector` says what `rise` is and how values that are not finite count. Raises
    ValueError if the lengths differ."""
    detector = Detector(rise)
    columns = [np.asarray(values, dtype=float).tolist() for values in (times, loss, rho)]
    for record in zip(*columns, strict=True):
        detector.add(*record)
    return Periods(tuple(detector.periods), columns[0][-1] if columns[0] else -math.inf)
