"""How good the monitor's forecast of the next destabilisation is, against the simplest rule.

    python -m claims.forecast                                        # the runs of results/
    python -m claims.forecast Experiments/demo results/practice_cpu  # those below some folders

Asked at a quarter, half and three quarters of the fall of ρ in every period but a run's first. An
error is the distance from the real turn over the length of the fall. The simplest rule: ln ρ falls
on at its present rate to where the last period turned.
"""

import math
import sys
from pathlib import Path

import numpy as np

import runs
from theory.forecast import time_to_turn
from theory.periods import find_periods
from utils import UserError, user_errors

ASKED = (0.25, 0.5, 0.75)
FOLDERS = ("results/figure2_cpu", "results/practice_cpu")


def simplest(times: np.ndarray, rho: np.ndarray, start: float, level: float) -> float:
    begin = int(np.searchsorted(times, start))
    late = min(begin + (len(times) - begin) // 2, len(times) - 3)
    rate = -np.polyfit(times[late:], np.log(rho[late:]), 1)[0]
    return max(math.log(rho[-1] / level), 0) / rate if rate > 0 else math.inf


def errors(folder: Path, asked: float) -> list[tuple[float, float]]:
    """(error of the forecast, of the simplest rule) for the periods of one run."""
    rows = runs.read_log(folder)
    times, loss, rho = (
        np.array([row[key] for row in rows]) for key in ("epoch", "train_loss", "si_norm")
    )
    cycles, found = find_periods(times, loss, rho).cycles, []
    for number, period in enumerate(cycles[1:], 1):
        fall = period.turn - period.start
        past = times <= period.start + asked * fall
        now, before = times[past], cycles[:number]
        left = period.turn - now[-1]
        forecast = time_to_turn(now, rho[past], before)
        plain = simplest(now, rho[past], period.start, before[-1].rho_turn)
        found.append((
            math.inf if forecast is None else abs(forecast - left) / fall, abs(plain - left) / fall
        ))  # fmt: skip
    return found


def main(folders: list[str]) -> None:
    for root in map(Path, folders or FOLDERS):
        if not root.is_dir():
            raise UserError(f"there is no folder {root}")
        for asked in ASKED:
            found = [e for log in sorted(root.rglob(runs.LOG)) for e in errors(log.parent, asked)]
            if not found:
                print(f"{root}: no period after a first one")
                break
            (median, simple), (high, simple_high) = np.quantile(found, (0.5, 0.9), axis=0)
            print(
                f"{root}, asked at {asked:.0%} of {len(found)} falls: median error {median:.3f}, "
                f"90 % below {high:.3f}; simplest rule {simple:.3f}, {simple_high:.3f}"
            )


if __name__ == "__main__":
    with user_errors("claims.forecast"):
        main(sys.argv[1:])
