"""Minima of different periods, and what comes of dropping the rate on the sphere."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.style import COLOURS, colours, describe


def minima(named: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Cosine with an anchor's weights, and test errors alone and as an ensemble (P1, claim 5).

    Parameters
    ----------
    named : by the title of a row of panels: the "report_epochs" of the minima of successive
        periods, their "acc", "ensemble_acc" and "cosine" with the anchor (`diversity.compare`),
        and the epoch of the "anchor", one of them.
    """
    size = (12, 4.2 * len(named))
    figure, rows = plt.subplots(len(named), 2, figsize=size, layout="constrained", squeeze=False)
    for (title, found), axes in zip(named.items(), rows, strict=True):
        epochs, errors = found["report_epochs"], 100 - 100 * found["acc"]
        others, ensemble = epochs != found["anchor"], 100 - 100 * found["ensemble_acc"]
        axes[0].plot(epochs, found["cosine"], "o-", color=COLOURS[0])
        axes[1].plot(epochs, errors, "o-", color=COLOURS[1], label="alone")
        words = "as an ensemble with the anchor"
        axes[1].plot(epochs[others], ensemble[others], "s-", color=COLOURS[2], label=words)
        axes[1].plot(epochs[~others], errors[~others], "*", color="black", ms=12, label="anchor")
        words = f"{title}: cosine with the weights of epoch {found['anchor']}"
        describe(axes[0], words, "epoch of the minimum", "cosine of the SI weights")
        describe(axes[1], "Test error of the minima", "epoch of the minimum", "error, %")
        axes[1].legend(fontsize=9)
    return figure


def turning(shares: Mapping[str, Sequence[Mapping[str, Any]]], asked: float) -> Figure:
    """Share of the turning of the weights near destabilisations against that of the time.

    `shares` has the rows of each data set, a row a seed with "turning" and "time"; `asked` is the
    share that the mean of the seeds is to have.
    """
    figure, axis = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
    axis.plot([0, 100], [0, 100], color="grey", linewidth=0.8, label="no more than elsewhere")
    dashed = {"color": "black", "linestyle": "--", "linewidth": 0.8}
    axis.axhline(100 * asked, label="asked for, in the mean", **dashed)
    for (name, rows), colour, marker in zip(shares.items(), COLOURS, "os", strict=False):
        x, y = (100 * np.array([row[key] for row in rows]) for key in ("time", "turning"))
        axis.plot(x, y, marker, color=colour, alpha=0.7, label=name)
    describe(axis, "Within 3 epochs of destabilisations", "% of the time", "% of the turning")
    axis.legend(fontsize=9)
    return figure


def improvement(named: Mapping[str, Sequence[float]], judged: int, worst: str) -> Figure:
    """Test error in % of the minima of successive periods, by the name of a seed; one is marked.

    Their mean is drawn as far as all have periods; a band marks the first ones, which are judged.
    """
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.axvspan(0.5, judged + 0.5, color="grey", alpha=0.12, label="judged")
    for name, errors in named.items():
        style = {"color": "grey", "alpha": 0.5}
        if name == worst:
            style = {"color": COLOURS[3], "label": f"{name} (worst)"}
        axis.plot(1 + np.arange(len(errors)), errors, "o-", linewidth=0.8, markersize=4, **style)
    shared = min(map(len, named.values()))
    mean = np.mean([errors[:shared] for errors in named.values()], axis=0)
    axis.plot(1 + np.arange(shared), mean, "o-", color=COLOURS[0], label="mean of the seeds")
    describe(axis, "Minima of successive periods", "period", "test error, %")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=9)
    return figure


def optima(rows: Sequence[Mapping[str, Any]], high: float, low: float) -> Figure:
    """Test errors at the end of constant rates, a line a seed, and of a dropped rate, a star.

    `rows` have, of each seed, "elrs" and "errors" in % of the constant rates, the one chosen,
    "constant_elr" and its error "constant", and "dropped", the error of `high` dropped to `low`.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    axis.axvline(low, color="grey", linestyle="--", linewidth=0.8, label=f"target rate {low:g}")
    for colour, row in zip(colours(rows), rows, strict=True):
        axis.plot(row["elrs"], row["errors"], "o-", color=colour, linewidth=1, markersize=4,
                  label=f"trial {row['trial']}")  # fmt: skip
        axis.plot(row["constant_elr"], row["constant"], "o", color=colour, markersize=9, mfc="none")
        axis.plot(low, row["dropped"], "*", color=colour, markersize=12, markeredgecolor="black")
    axis.plot(
        [], [], "o", color="black", markersize=9, mfc="none", label="chosen on held-out images"
    )
    words = f"{high:g}, then {low:g}"
    axis.plot([], [], "*", color="white", markersize=12, markeredgecolor="black", label=words)
    title = "Optima by effective learning rate"
    describe(axis, title, "constant effective learning rate", "test error at the end, %", "log")
    axis.legend(fontsize=8)
    return figure


def at_equal_loss(rows: Sequence[Mapping], level: float) -> Figure:
    """Test error and effective gradient by rate where the training loss comes to a level.

    `rows`, one for each seed, have "elrs", "errors" in %, "gradients" and the "trial".
    """
    figure, (errors, gradients) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for colour, row in zip(colours(rows), rows, strict=True):
        style = {"color": colour, "linewidth": 1, "markersize": 4}
        errors.plot(row["elrs"], row["errors"], "o-", label=f"trial {row['trial']}", **style)
        gradients.plot(row["elrs"], row["gradients"], "o-", **style)
    x = "effective learning rate"
    describe(errors, f"At a training loss of {level:g}", x, "test error, %", "log")
    describe(gradients, "", x, "effective gradient norm", "log", "log")
    errors.legend(fontsize=8)
    return figure
