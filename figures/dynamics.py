"""What the monitor saved of somebody's training: loss, ρ, η̃ and the angle of a step."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, describe, plt
from theory.periods import Periods, find_periods
from utils import UserError

WANTED = ("step", "loss", "si_norm", "effective_lr", "angle", "equilibrium_angle")


def read(path: Path) -> dict[str, np.ndarray]:
    """The columns of all weights together, an array over the records each; NaN where empty.

    Raises
    ------
    UserError : the file was not written by the monitor.
    """
    text = path.read_text(errors="replace")
    whole = text[: text.rfind("\n") + 1].splitlines()  # a crash may have cut the last row
    table = csv.DictReader(whole)
    if not {"group", *WANTED} <= set(table.fieldnames or ()):
        raise UserError(f"{path} is not a table that the monitor wrote")
    rows = [row for row in table if row["group"] == "all"]
    try:
        return {key: np.array([float(row[key] or "nan") for row in rows]) for key in WANTED}
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def dynamics(columns: dict[str, np.ndarray]) -> tuple[Figure, Periods]:
    """Four panels over the steps, the turns of ρ marked; and the periods."""
    steps = columns["step"]
    periods = find_periods(steps, columns["loss"], columns["si_norm"])
    figure, axes = plt.subplots(2, 2, figsize=(9, 5.5), sharex=True, layout="constrained")
    panels = {
        "loss": "train loss",
        "si_norm": "norm ρ",
        "effective_lr": "effective rate η̃ = η / ρ²",
        "angle": "angle of a step, radians",
    }
    for axis, (key, name) in zip(axes.flat, panels.items(), strict=True):
        axis.plot(steps, columns[key], color=COLOURS[0], linewidth=1)
        for turn in periods.turns:
            axis.axvline(turn, color=COLOURS[3], linewidth=0.6, linestyle=":")
        describe(axis, "", "step" if axis in axes[1] else "", name, yscale="log")
    if np.isfinite(columns["equilibrium_angle"]).any():
        axes[1, 1].plot(steps, columns["equilibrium_angle"], color=COLOURS[1], label="equilibrium")
        axes[1, 1].legend()
    return figure, periods
