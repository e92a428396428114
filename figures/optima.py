"""Minima of different periods, and what comes of dropping the rate on the sphere."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, colours, describe


def minima(found: Mapping[str, np.ndarray], turns: np.ndarray, anchor: int) -> Figure:
    """Cosine with the anchor's weights, and test errors alone and as an ensemble (P1, claim 5).

    Parameters
    ----------
    found : arrays of `diversity.compare`.
    turns : epochs at which ρ turns.
    anchor : epoch of the anchor checkpoint.
    """
    figure, (cosines, errors) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    epochs = found["report_epochs"]
    later = epochs > anchor
    cosines.plot(epochs, found["cosine"], color=COLOURS[0], label="later checkpoints")
    errors.plot(epochs, 100 - 100 * found["acc"], color=COLOURS[1], label="alone")
    ensemble = 100 - 100 * found["ensemble_acc"]
    errors.plot(epochs[later], ensemble[later], color=COLOURS[2], label="ensemble with the anchor")
    for axis in (cosines, errors):
        for turn in turns[turns > anchor]:
            axis.axvline(turn, color="grey", linestyle="--", linewidth=0.6)
    title = f"Cosine with the weights of epoch {anchor}"
    describe(cosines, title, "epoch", "cosine of the SI weights")
    describe(errors, "Test error", "epoch", "error, %")
    for axis in (cosines, errors):
        axis.legend(fontsize=9)
    return figure


def improvement(errors: np.ndarray) -> Figure:
    """Test error of the minima of successive periods, (trials, periods) in %, NaN where none."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    number = 1 + np.arange(errors.shape[1])
    axis.plot(number, errors.T, "o-", color="grey", alpha=0.4, linewidth=0.8, markersize=4)
    axis.plot(
        number, np.nanmean(errors, axis=0), "o-", color=COLOURS[0], label="mean of the trials"
    )
    describe(axis, "Minima of successive periods", "period", "test error, %")
    axis.set_xticks(number)
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
