"""Runs and their periods as text."""

from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from figures.labels import labels, on_sphere
from runs import Run

PERIOD_HEADERS = ("periods", "mean length, epochs", "CV", "best test error, %")
REGIME_HEADERS = ("regime", "loss level", "10 % to 90 %", "last error, %", "best, %")


def best_test_error(run: Run) -> float:
    """The lowest test error of the checkpoints, in %; NaN where none was measured."""
    errors = run.curves["test_error"].values if "test_error" in run.curves else np.array([np.nan])
    return float(np.nanmin(errors)) if np.isfinite(errors).any() else np.nan


def table(runs: Sequence[Run]) -> str:
    """The runs as text: periods and best test error, or on the sphere the regime and its level. The
    first columns are the rates if these tell the runs apart, else names."""
    sphere = on_sphere(runs)
    keys = ("elr",) if sphere else ("lr_init", "wd")
    rates = {tuple(run.config[key] for key in keys) for run in runs}
    alike = sphere or not any(run.on_sphere for run in runs)
    if alike and len(rates) == len(runs) and not any("name" in run.config for run in runs):
        first = [[f"{run.config[key]:g}" for key in keys] for run in runs]
        headers = ["ELR"] if sphere else ["learning rate", "weight decay"]
    else:
        first, headers = [[name] for name in labels(runs)], ["run"]
    cells = _regime_cells if sphere else _period_cells
    rows = [[*names, *cells(run)] for names, run in zip(first, runs, strict=True)]
    widths = None
    if headers == ["run"]:  # with names a table fits in 100 columns
        widths = [20, 22, *[None] * 4] if sphere else [32, *[None] * 4]
    headers += REGIME_HEADERS if sphere else PERIOD_HEADERS
    return tabulate(rows, headers, disable_numparse=True, stralign="right", maxcolwidths=widths)


def _period_cells(run: Run) -> list[str]:
    n, error = len(run.periods), best_test_error(run)
    length = f"{run.periods.mean:.1f}" if n > 1 else "needs 2" if n else "none"
    cv = f"{run.periods.cv:.2f}" if n > 2 else "needs 3" if n else "none"
    return [str(n), length, cv, f"{error:.2f}" if np.isfinite(error) else "not measured"]


def _regime_cells(run: Run) -> list[str]:
    regime, errors = run.regime, []
    level = f"{regime.level:.3g}", f"{regime.low:.3g} to {regime.high:.3g}"
    if "train_loss" not in run.history:
        regime, level = "not measured", ("", "")
    if "test_error" in run.curves:
        values = run.curves["test_error"].values
        errors = [f"{values[-1]:.2f}", f"{np.nanmin(values):.2f}"]
    return [str(regime), *level, *(errors or ["", ""])]


def period_table(run: Run) -> str:
    """The periods of a run as text, empty if it has none: when ρ turns, and the lowest training
    loss of the checkpoints before that turn, with the test error and the norm there."""
    if "train_loss" not in run.curves:
        return ""
    loss, error, norm = (
        dict(zip(*run.curves.get(name, ((), ())), strict=True))
        for name in ("train_loss", "test_error", "si_norm")
    )
    turns, rows = run.periods.turns, []
    for low in run.periods.minima(*run.curves["train_loss"]):
        turn = turns[np.searchsorted(turns, low)]
        numbers = f"{loss[low]:.2g}", _short(error.get(low)), _short(norm.get(low))
        rows.append([f"{turn:g}", f"{low:g}", *numbers])
    if not rows:
        return ""
    headers = ("ρ turns at epoch", "lowest loss at epoch", "train loss", "test error, %", "ρ")
    return tabulate(rows, headers, disable_numparse=True, stralign="right")


def _short(value: float | None) -> str:
    """A number with two decimals or, far from 1, with two significant digits."""
    if value is None or not np.isfinite(value):
        return "not measured" if value is None else f"{value}"
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e4 else f"{value:.2g}"
