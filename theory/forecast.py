"""When training will destabilise next, from the norm ρ and the periods so far. NumPy only."""

import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from theory.periods import Detector, Period

RECENT = 5  # periods whose median depth is the usual one
OVERDUE = 0.25  # of the usual depth: the least that is expected to be left
LONGEST = 2000  # records of a fall that are kept; of more, every second one
LATE = 1 / 2  # the end of the fall, from which its present rate is estimated


def time_to_turn(
    times: ArrayLike,
    rho: ArrayLike,
    periods: Sequence[Period],
    lr_ratio: float = 1.0,
    power: int = 2,
) -> float | None:
    """How much longer ρ will fall, in phase B: the time until the next destabilisation.

    It is the time that the last fall took from the present effective rate η̃ = η / ρ^p to the one
    at which it turned. If the last fall began at a higher η̃ than the present one, ln ρ is
    extrapolated at the rate of the later half of this fall. A fall that is close to the η̃ of the
    last turn, or beyond, is expected to go on for a quarter of the usual depth (the median fall of
    ln ρ in the last five periods): how much deeper it goes hardly depends on how deep it is. None
    without a period so far, while ρ does not fall, or if the rates are not positive numbers.

    Parameters
    ----------
    times, rho : (n,) records up to now, from the beginning of the last period's fall on. Records
        whose ρ is not a positive number are ignored.
    periods : the periods so far.
    lr_ratio : the learning rate now over that of the last fall.
    power : p (`theory.dynamics.norm_power`).
    """
    if not periods or not 0 < lr_ratio < math.inf:
        return None
    last = periods[-1]
    times, rho = np.asarray(times, dtype=float), np.asarray(rho, dtype=float)
    known = (rho > 0) & (rho < math.inf)
    times, level = times[known], np.log(rho[known])
    begin = int(np.searchsorted(times, last.end))
    if len(times) - begin < 3:
        return None
    begin += int(np.argmax(level[begin:]))
    late = min(begin + int((1 - LATE) * (len(times) - begin)), len(times) - 3)
    rate = -np.polyfit(times[late:], level[late:], 1)[0]
    if late < begin or rate <= 0:
        return None
    same = level[-1] - math.log(lr_ratio) / power  # ln ρ of the last fall at the present η̃
    left = same - math.log(last.rho_turn)
    usual = float(np.median([math.log(p.rho_start / p.rho_turn) for p in periods[-RECENT:]]))
    if left < OVERDUE * usual:
        return float(OVERDUE * usual / rate)
    fall = (times >= last.start) & (times <= last.turn)
    higher = np.flatnonzero(level[fall] >= same)
    if len(higher) == 0:
        return float(left / rate)
    return float((last.turn - times[fall][higher[-1]]) / lr_ratio)


class Course:
    """Follows the periods of a training run while it goes on, one record after the other. `phase`
    is "A", "B" or "C"; it stays B until ρ has risen by a tenth, when a turn is known."""

    def __init__(self):
        self._detector = Detector()
        self.periods = self._detector.periods
        self.phase = "A"
        self._history: list[tuple] = []  # (time, ρ, η) since the last period began

    def state_dict(self) -> dict[str, Any]:
        """The whole state, in plain numbers, lists and dictionaries."""
        detector = {**vars(self._detector), "periods": [astuple(p) for p in self.periods]}
        return {"detector": detector, "phase": self.phase, "history": list(self._history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`. Raises KeyError, TypeError or ValueError if it is none."""
        if vars(self._detector).keys() != state["detector"].keys():
            raise ValueError("the periods are described in another way")
        vars(self._detector).update(state["detector"])
        self._detector.periods = [Period(*values) for values in state["detector"]["periods"]]
        self.periods, self.phase = self._detector.periods, state["phase"]
        self._history = [(time, rho, lr) for time, rho, lr in state["history"]]

    def interrupt(self) -> None:
        """From now on ρ is the norm of other weights: what was seen of it cannot be compared."""
        detector = Detector()
        detector.periods[:] = self.periods
        self._detector, self.periods, self._history = detector, detector.periods, []

    def add(
        self, time: float, loss: float, rho: float, lr: float, power: int | None = 2
    ) -> float | None:
        """Take the next record, if its ρ is a positive number; in phase B, return `time_to_turn`.
        None if rates are not positive, or have changed under an optimiser of unknown `power`."""
        if not 0 < rho < math.inf:
            return None
        self._detector.add(time, loss, rho)
        last = self.periods[-1] if self.periods else None
        if last and self._history and self._history[0][0] < last.start:
            self._history = [record for record in self._history if record[0] >= last.start]
        elif not last and self._history and rho >= self._history[0][1]:
            self._history.clear()
        self._history.append((time, rho, lr))
        if len(self._history) > LONGEST:
            del self._history[1:-1:2]
        if last is None:
            self.phase = "B" if len(self._history) > 1 else "A"
            return None
        falls = time > last.end and rho < max(before for _, before, _ in self._history)
        self.phase = "B" if falls else "C" if time == last.high else "A"
        if self.phase != "B":
            return None
        times, norms, rates = map(np.array, zip(*self._history, strict=True))
        before = rates[(times <= last.turn) & ~np.isnan(rates)]
        at_turn = before[-1] if len(before) else math.nan
        if not (0 < at_turn < math.inf and 0 < lr < math.inf):
            return None
        if power is None and not math.isclose(lr / at_turn, 1):
            return None
        return time_to_turn(times, norms, self.periods, lr / at_turn, power or 2)
