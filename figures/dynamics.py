"""What the monitor saved of somebody's training: loss, ρ, η̃ and the angle of a step."""

import csv
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, describe, plt
from theory.periods import Periods, find_periods
from utils import UserError

WANTED = ("step", "loss", "si_norm", "effective_lr", "angle", "equilibrium_angle")


def read(path: Path) -> dict[str, np.ndarray]:
    """The columns for all weights together, an array over the records each; NaN where empty. Where
    steps go back, training was resumed or started again, and later records replace those of the
    same and later steps. Raises UserError if the file is missing, damaged, or not the monitor's."""
    try:
        text = path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    whole = text[: text.rfind("\n") + 1].splitlines()  # a crash may have cut the last row
    table = csv.DictReader(whole)
    if not {"group", *WANTED} <= set(table.fieldnames or ()):
        raise UserError(f"{path} is not a table that the monitor wrote")
    rows: list[list[float]] = []
    try:
        for row in table:
            if row["group"] != "all":
                continue
            if None in row or None in row.values():
                raise ValueError("a row of another length")
            values = [float(row[key] or "nan") for key in WANTED]
            if not math.isfinite(values[0]):
                raise ValueError(f"step {row['step']}")
            while rows and rows[-1][0] >= values[0]:
                rows.pop()
            rows.append(values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged, line {table.line_num}: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no records yet")
    return dict(zip(WANTED, np.array(rows).T, strict=True))


def dynamics(columns: dict[str, np.ndarray]) -> tuple[Figure, Periods]:
    """Four panels over the steps with the turns of ρ marked, and the periods."""
    steps = columns["step"]
    periods = find_periods(steps, columns["loss"], columns["si_norm"])
    figure, axes = plt.subplots(2, 2, figsize=(9, 5.5), sharex=True, layout="constrained")
    panels = {
        "loss": "train loss",
        "si_norm": "norm ρ",
        "effective_lr": "effective rate η̃",
        "angle": "angle of a step, radians",
    }
    for axis, (key, name) in zip(axes.flat, panels.items(), strict=True):
        axis.plot(steps, columns[key], color=COLOURS[0], linewidth=1)
        for turn in periods.turns:
            axis.axvline(turn, color=COLOURS[3], linewidth=0.6, linestyle=":")
        if key == "angle" and np.isfinite(columns["equilibrium_angle"]).any():
            axis.plot(steps, columns["equilibrium_angle"], color=COLOURS[1], label="equilibrium")
            axis.legend()
        describe(axis, "", "step" if axis in axes[1] else "", name, yscale="log")
    return figure, periods
