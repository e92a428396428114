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
    return [*map(int, run.periods.minima(epochs, loss))]


def gain(
    found: dict[str, np.ndarray], anchor: int, epochs: Sequence[int], prefix: str = ""
) -> float:
    """What ensembles with the anchor gain over their better members: the mean, in % of the images.

    `found` is of `diversity.compare`; of the checkpoints of these epochs, or with the prefix
    "independent_" of those of the independent run.
    """
    own = found["acc"][found["report_epochs"] == anchor]
    at = np.isin(found[f"{prefix}report_epochs"], epochs)
    better = np.maximum(found[f"{prefix}acc"], own)
    return float(100 * (found[f"{prefix}ensemble_acc"] - better)[at].mean())


def different_minima(minima: list[Run]) -> Finding:
    rows, drawn = [], {}
    lows_of = [minima_of_periods(run) for run in minima]
    if min(map(len, lows_of)) < 3:
        raise NotMeasurable("a run has fewer than three periods")
    for i, (run, lows) in enumerate(zip(minima, lows_of, strict=True)):
        # Of the second period: three quarters of the way to its minimum, and what comes up to it.
        start = run.periods.cycles[1].start
        saved = [epoch for epoch, step in runs.checkpoints_in(run.folder) if not step]
        before = [epoch for epoch in saved if epoch < lows[1]]
        late = start + 0.75 * (lows[1] - start)
        anchor = min([epoch for epoch in before if epoch >= late], default=before[-1])
        same = [epoch for epoch in saved if anchor < epoch <= lows[1]]
        other = (i + 1) % len(minima)
        independent = minima[other].folder if other != i else None
        epochs = {anchor, *same, *lows, *lows_of[other]}
        found = diversity.compare(run.folder, anchor, independent, epochs)
        at_lows = np.isin(found["report_epochs"], [anchor, *lows])
        rows.append({
            "run": run.folder.as_posix(), "anchor": anchor, "minima": lows, "same_period": same,
            "gain_of_periods": gain(found, anchor, lows[2:]),
            "gain_within": gain(found, anchor, same),
            "gain_of_another_seed": gain(found, anchor, lows_of[other][2:], "independent_")
            if independent else np.nan,
            "cosine": found["cosine"][at_lows].tolist(),
        })  # fmt: skip
        drawn[f"trial {run.config['trial']}"] = {
            key: found[key][at_lows] for key in ("report_epochs", "acc", "ensemble_acc", "cosine")
        } | {"anchor": anchor}
    others, same, another = (
        np.array([row[key] for row in rows])
        for key in ("gain_of_periods", "gain_within", "gain_of_another_seed")
    )
    measured = (
        f"ensembles with the minima of later periods gain {spread(others, '.2g')} points of "
        f"accuracy over the better member, with later checkpoints of the same period "
        f"{spread(same, '.2g')}, with minima of another seed {spread(another, '.2g')}"
    )
    holds = rules.different_functions(others, same)
    worst = int(np.argmin(others - same))
    titles = [*drawn]
    shown = {titles[0]: drawn[titles[0]]} if worst else {}
    shown[f"{titles[worst]} (worst)"] = drawn[titles[worst]]
    return Finding(measured, holds, {"trials": rows}, figures.minima(shown))


def turning_at_destabilisations(base: list[Run], minima: list[Run]) -> Finding:
    """How much of the way that the SI weights turn is near destabilisations, and of the time."""
    numbers, words = {}, []
    for name, found in (("digits", base), ("images", minima)):
        rows = []
        for run in found:
            cycles = run.periods.cycles
            if not cycles:
                raise NotMeasurable(f"trial {run.config['trial']} has no period")
            turned = diversity.turning(run.folder)
            settled = turned["from"] >= cycles[0].turn - NEAR
            near = np.zeros(len(settled), dtype=bool)
            for period in cycles:
                near |= (turned["from"] >= period.turn - NEAR) & (
                    turned["to"] <= period.turn + NEAR
                )
            rows.append({
                "run": run.folder.as_posix(),
                "turning": float(turned["angle"][near].sum() / turned["angle"][settled].sum()),
                "time": float(near[settled].mean()),
            })  # fmt: skip
        turning, time = (
            spread([100 * row[key] for row in rows], ".2g") for key in ("turning", "time")
        )
        words.append(f"{name}: {turning} % of the turning, {time} % of the time")
        numbers[name] = rows
    holds = rules.turning_is_near([[row["turning"] for row in rows] for rows in numbers.values()])
    figure = figures.turning(numbers, rules.TURNING)
    return Finding("; ".join(words), holds, numbers, figure)


def first_minima_improve(minima: list[Run]) -> Finding:
    rows, lows_of = [], [minima_of_periods(run) for run in minima]
    if min(map(len, lows_of)) < rules.FIRST:
        raise NotMeasurable(f"a run has fewer than {rules.FIRST} periods")
    for run, lows in zip(minima, lows_of, strict=True):
        paths = [runs.checkpoint_path(run.folder, epoch) for epoch in lows]
        errors = [100 * measure(run.folder, path)["error"] for path in paths]
        rows.append({
            "run": run.folder.as_posix(), "minima": lows, "errors": errors,
            "trend": rules.trend(errors[: rules.FIRST]),
        })  # fmt: skip
    errors, trends = ([row[key] for row in rows] for key in ("errors", "trend"))
    first, last = ([seed[i] for seed in errors] for i in (0, rules.FIRST - 1))
    measured = (
        f"Kendall's τ of the test error over the first {rules.FIRST} minima "
        f"{spread(trends, '.2f')}; from {spread(first, '.1f')} % to {spread(last, '.1f')} %"
    )
    names = [f"trial {run.config['trial']}" for run in minima]
    named = dict(zip(names, errors, strict=True))
    figure = figures.improvement(named, rules.FIRST, names[int(np.argmax(trends))])
    return Finding(measured, rules.improve(errors), {"trials": rows}, figure)
