"""Paths between checkpoints, as `measuring.paths` evaluates them (P2)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, describe, name_below
from runs.arrays import read_arrays
from utils import UserError

RELATIONS = (
    "one run, two epochs",
    "one rate, two seeds",
    "two rates, one seed",
    "two rates, two seeds",
    "an end in chaotic equilibrium",
    "an end in divergence",
    "two settings",
    "one rate, one seed",
)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays that `measuring.paths` wrote. Raises UserError if there is no such file, or it
    holds something else."""
    try:
        arrays, _ = read_arrays(path)
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    if not {"checkpoint", "pair", "angle", "train_loss_barrier"} <= arrays.keys():
        raise UserError(f"{path} does not hold paths between checkpoints")
    return arrays


def relation(arrays: Mapping[str, np.ndarray], first: int, last: int) -> str:
    """What two checkpoints have in common: one of `RELATIONS`. For two checkpoints of one run it is
    the run, whatever its regime."""
    folders = [name.rpartition("/")[0] for name in arrays["checkpoint"]]
    rates = np.where(np.isnan(arrays["elr"]), arrays["lr"], arrays["elr"])

    def alike(values: Sequence) -> bool:
        return values[first] == values[last]

    # Older files lack the numbers of runs, settings and seeds
    if alike(arrays.get("run", folders)):
        return RELATIONS[0]
    regimes = {str(arrays["regime"][i]) for i in (first, last)}
    for regime in ("divergence", "chaotic equilibrium"):
        if regime in regimes:
            return f"an end in {regime}"
    if not alike(arrays.get("setting", 0 * rates)):
        return RELATIONS[6]
    if alike(rates):  # in older files of two seeds
        return RELATIONS[7 if "seed" in arrays and alike(arrays["seed"]) else 1]
    return RELATIONS[2 if alike(arrays.get("seed", arrays["trial"])) else 3]


def path_barriers(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Train loss and test error along the paths of `measuring.paths.connect`, and their barriers by
    the angle between the ends."""
    figure, axes = plt.subplots(2, 2, figsize=(7.6, 5.8), layout="constrained")
    relations = np.array([relation(arrays, i, j) for i, j in arrays["pair"]])
    named = {}
    for name, colour, marker in zip(RELATIONS, COLOURS, "osDvP^X*", strict=False):
        chosen = relations == name
        if not chosen.any():
            continue
        degrees = np.degrees(arrays["angle"][chosen])
        for (path_axis, barrier_axis), key, unit in zip(
            axes.T, ("train_loss", "test_error"), (1, 100), strict=True
        ):
            values, barriers = unit * arrays[key][chosen], unit * arrays[f"{key}_barrier"][chosen]
            path_axis.plot(arrays["t"], values.T, color=colour, linewidth=0.8)
            style = {"color": colour, "alpha": 0.8}
            (named[name],) = barrier_axis.plot(degrees, barriers, marker, **style)
    way = "arc" if arrays.get("arc") else "line"  # files of before may be of arcs
    share = f"position t on the {way}"
    describe(axes[0, 0], f"Train loss along the {way}", share, "loss", yscale="log")
    describe(axes[0, 1], f"Test error along the {way}", share, "error, %")
    angle = "angle between the SI weights, degrees"
    describe(axes[1, 0], "Barrier in train loss", angle, "loss")
    describe(axes[1, 1], "Barrier in test error", angle, "points of error, %")
    name_below(figure, named)
    return figure
