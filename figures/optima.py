"""Minima of different periods, and what the second regime is good for."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, describe


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


def second_regime(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Test errors of constant rates, of dropping the rate and of averaging weights, by ELR.

    `rows` are those of second_regime.py: "how", "elr" and "test error" in %.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    styles = zip(("constant", "drop", "average"), COLOURS, "os^", strict=False)
    for how, colour, marker in styles:
        x, y = ([row[key] for row in rows if row["how"] == how] for key in ("elr", "test error"))
        axis.plot(x, y, marker, color=colour, alpha=0.6, label=how)
    title = "Constant rates, and what the second regime gives"
    describe(axis, title, "effective learning rate at first", "test error, %", "log")
    axis.legend(fontsize=9)
    return figure
