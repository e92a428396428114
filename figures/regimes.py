"""Regime diagrams: the final loss by effective learning rate, of runs and of the toy function."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, describe, name_below
from runs import Run
from theory import toy
from theory.regimes import REGIMES, Regime, find_regime


def regime_diagram(
    elrs: Sequence[float],
    regimes: Sequence[Regime],
    random_level: float | None = None,
    bound: float | None = None,
) -> Figure:
    """Final loss level by ELR, with bars from its 10th to its 90th percentile, the regimes marked.
    An infinite level is drawn at ten times the highest finite one. `random_level`, the loss of
    random guessing, and `bound`, the ELR above which no minimum is stable, are drawn if given."""
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    levels = [r.level for r in regimes if np.isfinite(r.level)]
    floor, top = 1e-6 * max(levels, default=1), 10 * max(levels, default=1)
    named = {}
    for name, shape, colour in zip((*REGIMES, None), "os^x", (*COLOURS[:3], "grey"), strict=True):
        group = [
            (elr, *np.clip([r.low, r.level, r.high], floor, top))
            for elr, r in zip(elrs, regimes, strict=True)
            if r.name == name and not np.isnan(r.level)
        ]
        if group:
            x, low, level, high = np.array(group).T
            bars = np.array([level - low, high - level])
            named[name or "none yet"] = axis.errorbar(x, level, bars, fmt=shape, color=colour)
    if random_level is not None:
        named["random guessing"] = axis.axhline(random_level, color="grey", linestyle="--")
    if bound is not None:
        named["linear stability bound"] = axis.axvline(bound, color="black", linestyle=":")
    if any(r.level < floor for r in regimes):
        note = "lowest points: at or below this level"
        axis.text(0.02, 0.12, note, transform=axis.transAxes, fontsize=8)
    title = "Final loss by effective learning rate"
    describe(axis, title, "effective learning rate", "loss, second half", "log", "log")
    name_below(figure, named)
    return figure


def diagram_of_runs(runs: Sequence[Run]) -> Figure | None:
    """The regime diagram of runs on the sphere, runs of the same rate side by side. Runs without a
    training loss are left out; None if no run is left."""
    runs = [run for run in runs if "train_loss" in run.history]
    rates = [run.config["elr"] for run in runs]
    places = [rates[:i].count(rate) - (rates.count(rate) - 1) / 2 for i, rate in enumerate(rates)]
    beside = [rate * 1.04**place for rate, place in zip(rates, places, strict=True)]
    return regime_diagram(beside, [run.regime for run in runs]) if runs else None


def diagram_of_toy(elrs: Sequence[float]) -> Figure:
    """The regime diagram of the toy function: 10,000 steps from 256 random points at each ELR. The
    loss is the mean over the points: at large rates a single one wanders slowly."""
    random_level = toy.random_level()
    losses = [toy.descend(elr, 10_000, runs=256).mean(0) for elr in elrs]
    regimes = [find_regime(loss, loss / random_level) for loss in losses]
    return regime_diagram(elrs, regimes, random_level, toy.stability_bound())
