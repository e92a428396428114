"""Regime diagrams: the final loss by effective learning rate, of runs and of the toy function."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, describe
from runs import Run
from theory import toy
from theory.regimes import REGIMES, Regime, find_regime


def regime_diagram(
    elrs: Sequence[float],
    regimes: Sequence[Regime],
    random_level: float | None = None,
    bound: float | None = None,
) -> Figure:
    """Final loss level and its spread (10th to 90th percentile) by ELR, the regimes marked.

    `random_level` is the loss of random guessing, `bound` the ELR above which no minimum is
    stable; both are drawn if they are known.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    floor = 1e-6 * max(r.level for r in regimes)  # a logarithmic axis has no 0
    for name, marker, colour in zip(REGIMES, "os^", COLOURS, strict=False):
        group = [(e, r) for e, r in zip(elrs, regimes, strict=True) if r.name == name]
        if not group:
            continue
        level = np.array([max(r.level, floor) for _, r in group])
        low = level - np.array([max(r.low, floor) for _, r in group])
        high = np.array([max(r.high, floor) for _, r in group]) - level
        spread = np.maximum([low, high], 0)
        axis.errorbar([e for e, _ in group], level, spread, fmt=marker, color=colour, label=name)
    if random_level is not None:
        axis.axhline(random_level, color="grey", linestyle="--", label="random guessing")
    if bound is not None:
        axis.axvline(bound, color="black", linestyle=":", label="linear stability bound")
    if any(r.level < floor for r in regimes):
        note = "lowest points: at or below this level"
        axis.text(0.02, 0.12, note, transform=axis.transAxes, fontsize=8)
    title = "Final loss by effective learning rate"
    describe(axis, title, "effective learning rate", "loss, second half", "log", "log")
    axis.legend(fontsize=9)
    return figure


def diagram_of_runs(runs: Sequence[Run]) -> Figure | None:
    """The regime diagram of runs on the sphere, those of the same rate side by side.

    Of those whose training loss was measured; None without any.
    """
    seen: dict[float, list[Run]] = {}
    for run in (run for run in runs if "train_loss" in run.curves):
        seen.setdefault(run.config["elr"], []).append(run)
    named = [
        (elr * 1.04 ** (i - (len(same) - 1) / 2), run.regime)
        for elr, same in seen.items()
        for i, run in enumerate(same)
    ]
    return regime_diagram(*zip(*named, strict=True)) if named else None


def diagram_of_toy(elrs: Sequence[float], alpha: Sequence[float] = (1, 2, 4)) -> Figure:
    """The regime diagram of the toy function: 10,000 steps from 256 random points at each ELR.

    The loss is the mean over the points: at large rates a single one wanders slowly.
    """
    random_level = toy.random_level(alpha)
    losses = [toy.descend(elr, 10_000, alpha, runs=256).mean(0) for elr in elrs]
    regimes = [find_regime(loss, loss / random_level) for loss in losses]
    return regime_diagram(elrs, regimes, random_level, toy.stability_bound(alpha))
