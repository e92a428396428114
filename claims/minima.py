"""P1: the minima of successive periods, and whether they are different functions."""

from collections.abc import Sequence

import numpy as np

import figures
import runs
from claims import rules
from claims.finding import Finding, NotMeasurable, spread
from measuring import diversity
from measuring.minima import measure
from runs import Run

NEAR = 3  # epochs around a destabilisation


def minima_of_periods(run: Run) -> list[int]:
    """The checkpoint with the lowest training loss of every period that has turned.

    By the loss of the checkpoint itself (train-tm): log.csv has the mean during the epoch, and an
    epoch that begins at a minimum may end after the destabilisation.
    """
    found = run.metrics("train-tm")
    saved = {epoch for epoch, step in runs.checkpoints_in(run.folder) if not step}
    there = np.isin(found["report_epochs"], list(saved))
    epochs, loss = found["report_epochs"][there], found["loss"][there]
    return [*map(int, figures.periods_of(run).minima(epochs, loss))]


def gains(found: dict[str, np.ndarray], epochs: Sequence[int]) -> np.ndarray:
    """What the ensemble with the anchor gains over the mean of its members, in % of the images."""
    at = np.isin(found["report_epochs"], epochs)
    return 100 * (found["ensemble_acc"] - (found["acc"] + found["acc"][0]) / 2)[at]


def different_minima(base: list[Run]) -> Finding:
    rows, drawn = [], {}
    for run in base:
        periods, lows = figures.periods_of(run), minima_of_periods(run)
        if len(lows) < 3:
            raise NotMeasurable(f"trial {run.config['trial']} has fewer than three periods")
        second = periods.cycles[1]
        anchor = round((second.start + second.turn) / 2)  # half way in phase B of the second
        found = diversity.compare(run.folder, anchor)
        within = [e for e in found["report_epochs"] if anchor < e <= lows[1]]
        turned = diversity.turning(run.folder)
        near = np.zeros(len(turned["angle"]), dtype=bool)
        for period in periods.cycles:
            near |= (turned["from"] >= period.turn - NEAR) & (turned["to"] <= period.turn + NEAR)
        settled = turned["from"] >= periods.cycles[0].turn - NEAR
        rows.append({
            "run": run.folder.as_posix(), "anchor": anchor, "minima": lows,
            "gain_of_periods": float(gains(found, lows[2:]).mean()),
            "gain_within": float(gains(found, within).mean()),
            "cosine": found["cosine"][np.isin(found["report_epochs"], lows)].tolist(),
            "turning": float(turned["angle"][near].sum() / turned["angle"][settled].sum()),
        })  # fmt: skip
        drawn[f"trial {run.config['trial']}"] = found, periods.turns, anchor
    others, same, turning = (
        [row[key] for row in rows] for key in ("gain_of_periods", "gain_within", "turning")
    )
    measured = (
        f"ensembles with the minima of later periods gain {spread(others, '.2g')} points of "
        f"accuracy over their members, with later checkpoints of the same period "
        f"{spread(same, '.2g')}; {spread(100 * np.array(turning), '.2g')} % of the turning is "
        f"within {NEAR} epochs of destabilisations"
    )
    holds = rules.different_functions(others, same, turning)
    worst = int(np.argmin(np.array(others) - same))
    titles = [*drawn]
    shown = {titles[0]: drawn[titles[0]]} if worst else {}
    shown[f"{titles[worst]} (worst)"] = drawn[titles[worst]]
    return Finding(measured, holds, {"trials": rows}, figures.minima(shown))


def first_minima_improve(minima: list[Run]) -> Finding:
    errors = [
        [
            100 * measure(run.folder, runs.checkpoint_path(run.folder, epoch))["error"]
            for epoch in minima_of_periods(run)
        ]
        for run in minima
    ]
    if min(map(len, errors)) < 6:
        raise NotMeasurable("a run has fewer than six periods")
    trends = [rules.trend(seed[:6]) for seed in errors]
    first, last = ([seed[i] for seed in errors] for i in (0, 5))
    measured = (
        f"Kendall's τ of the test error over the first 6 minima {spread(trends, '.2f')}; from "
        f"{spread(first, '.1f')} % to {spread(last, '.1f')} %"
    )
    table = np.full((len(errors), max(map(len, errors))), np.nan)
    for row, seed in zip(table, errors, strict=True):
        row[: len(seed)] = seed
    figure = figures.improvement(table)
    return Finding(measured, rules.improve(errors), {"errors": errors, "trends": trends}, figure)
