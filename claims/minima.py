"""P1: the minima of successive periods, and whether they are different functions."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

import figures
import runs
from claims.finding import Finding, NotMeasurable, spread
from measuring import diversity
from runs import Run

FIRST_PERIODS = 3  # whose minima are to improve


def minima_of_periods(run: Run, at: Sequence[int]) -> list[int]:
    """Of these epochs the one with the lowest training loss of every period that a jump ends."""
    log = run.log()
    there = np.isin(log["epoch"], at)
    return [
        *map(int, figures.periods_of(run).minima(log["epoch"][there], log["train_loss"][there]))
    ]


def different_minima(minima: list[Run]) -> Finding:
    trials = sorted(minima, key=lambda run: run.config["trial"])
    rows, drawn = [], None
    for run, other in zip(trials, [*trials[1:], trials[0]], strict=True):
        saved = [epoch for epoch, step in runs.checkpoints_in(run.folder) if not step]
        lows = minima_of_periods(run, saved)
        if len(lows) < 3:
            continue
        anchor = lows[0]
        found = diversity.compare(run.folder, anchor, other.folder)
        index = {epoch: i for i, epoch in enumerate(found["report_epochs"].tolist())}
        partners = set(minima_of_periods(other, found["independent_report_epochs"].tolist()))
        at = [i for i, e in enumerate(found["independent_report_epochs"]) if e in partners]
        alone = found["acc"][0]

        def gain(acc: np.ndarray, ensemble: np.ndarray, alone: float = alone) -> np.ndarray:
            """Of the ensemble over the mean of its two members, in % of the images."""
            return 100 * (ensemble - (acc + alone) / 2)

        later = [index[epoch] for epoch in lows[1:]]
        gains = gain(found["acc"], found["ensemble_acc"])
        independent = gain(found["independent_acc"], found["independent_ensemble_acc"])[at]
        rows.append({
            "anchor": anchor,
            "cosine": found["cosine"][later].tolist(),
            "gain": gains[later].tolist(),
            "independent_cosine": float(found["independent_cosine"].mean()),
            "independent_gain": float(independent.mean()),
        })  # fmt: skip
        drawn = drawn or figures.minima(found, figures.periods_of(run).jumps, anchor)
    if not rows:
        raise NotMeasurable("no run has three periods")
    first, last = ([r["cosine"][i] for r in rows] for i in (0, -1))
    falls = [spearmanr(range(len(r["cosine"])), r["cosine"]).statistic for r in rows]
    gains, alone = ([np.mean(r["gain"]) for r in rows], [r["independent_gain"] for r in rows])
    measured = (
        f"cosine with the first minimum: {spread(first, '.2f')} at the second, "
        f"{spread(last, '.2f')} at the last; ensembles of two minima gain {spread(gains, '.2g')} "
        f"points of accuracy over their members, with an independent network "
        f"{spread(alone, '.2g')}"
    )
    holds = np.nanmean(falls) < 0 and np.mean(last) < 0.9 and np.mean(gains) > 0
    return Finding(measured, holds, {"trials": rows}, drawn)


def first_minima_improve(minima: list[Run]) -> Finding:
    errors = []
    for run in minima:
        log = run.log()
        error = dict(zip(log["epoch"].astype(int), 100 * (1 - log["test_acc"]), strict=True))
        tested = [epoch for epoch, value in error.items() if np.isfinite(value)]
        errors.append([error[epoch] for epoch in minima_of_periods(run, tested)])
    periods = max(map(len, errors))
    if min(map(len, errors)) < 2:
        raise NotMeasurable("a run has fewer than two periods")
    table = np.array([e + [np.nan] * (periods - len(e)) for e in errors])
    gains = table[:, 0] - np.nanmean(table[:, 1:FIRST_PERIODS], axis=1)
    means = ", ".join(f"{e:.1f}" for e in np.nanmean(table, axis=0))
    measured = (
        f"test error of the minima, mean over the trials: {means} %; from the first to the mean of "
        f"the next {FIRST_PERIODS - 1} it falls by {spread(gains, '.2g')} points"
    )
    holds = np.mean(gains) > 0 and np.mean(gains > 0) > 0.5
    return Finding(measured, holds, {"errors": errors}, figures.improvement(table))
