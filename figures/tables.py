"""Runs, their periods and the claims as text."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from figures.labels import labels, on_sphere
from runs import Run


def summary_row(run: Run) -> dict[str, float]:
    """One run in a few numbers: rates, periods, their mean length in epochs, its CV, and the best
    test error in %."""
    periods = run.periods
    errors = run.curves["test_error"].values if "test_error" in run.curves else np.array([np.nan])
    return {
        "lr": run.config["lr_init"],
        "wd": run.config["wd"],
        "periods": len(periods),
        "mean period": periods.mean,
        "cv": periods.cv,
        "best test error": float(np.nanmin(errors)) if np.isfinite(errors).any() else np.nan,
    }


def table(runs: Sequence[Run]) -> str:
    """The runs as text: periods and best test error, or on the sphere the regime and its level.

    The first columns say what tells the runs apart: the rates or, where these do not, names.
    """
    sphere = on_sphere(runs)
    keys = ("elr",) if sphere else ("lr_init", "wd")
    rates = {tuple(run.config[key] for key in keys) for run in runs}
    alike = sphere or not any(run.on_sphere for run in runs)
    if alike and len(rates) == len(runs) and not any("name" in run.config for run in runs):
        first = [[f"{run.config[key]:g}" for key in keys] for run in runs]
        headers = ["ELR"] if sphere else ["learning rate", "weight decay"]
    else:
        first, headers = [[name] for name in labels(runs)], ["run"]
    cells, more = (
        _regime_cells,
        ("regime", "loss level", "10 % to 90 %", "last error, %", "best, %"),
    )
    if not sphere:
        cells = _period_cells
        more = ("periods", "mean length, epochs", "CV", "best test error, %")
    rows = [[*names, *cells(run)] for names, run in zip(first, runs, strict=True)]
    widths = None
    if headers == ["run"]:
        # of the names: a table fits in 100 columns
        widths = [20, 22, *[None] * 4] if sphere else [32, *[None] * 4]
    headers = (*headers, *more)
    return tabulate(rows, headers, disable_numparse=True, stralign="right", maxcolwidths=widths)


def _period_cells(run: Run) -> list[str]:
    row = summary_row(run)
    n = row["periods"]
    lengths = [f"{row['mean period']:.1f}" if n > 1 else "needs 2" if n else "none"]
    cv = f"{row['cv']:.2f}" if n > 2 else "needs 3" if n else "none"
    error = row["best test error"]
    return [str(n), *lengths, cv, f"{error:.2f}" if np.isfinite(error) else "not measured"]


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
    """Every period of a run as text, empty if it has none.

    When ρ turns, and the lowest training loss among the measured checkpoints before, with the test
    error and the norm there.
    """
    loss, error, norm = (
        dict(zip(*run.curves[name], strict=True)) if name in run.curves else {}
        for name in ("train_loss", "test_error", "si_norm")
    )
    rows, begin = [], -np.inf
    for period in run.periods.cycles:
        inside = [epoch for epoch in loss if begin < epoch <= period.turn]
        if inside:
            low = min(inside, key=loss.get)
            numbers = f"{loss[low]:.2g}", _short(error.get(low)), _short(norm.get(low))
            rows.append([f"{period.turn:g}", f"{low:g}", *numbers])
        begin = period.high
    if not rows:
        return ""
    headers = ("ρ turns at epoch", "lowest loss at epoch", "train loss", "test error, %", "ρ")
    return tabulate(rows, headers, disable_numparse=True, stralign="right")


def _short(value: float | None) -> str:
    """A number in two decimals or, where it is far from 1, in two digits."""
    if value is None or not np.isfinite(value):
        return "not measured" if value is None else f"{value}"
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e4 else f"{value:.2g}"


def claims(folder: str | Path = "results/claims") -> str:
    """The table of the claims in a folder and their figures, as Markdown with links into it."""
    path = Path(folder) / "claims.md"
    if not path.exists():
        return f"There is no {path} yet: `make claims` measures some of them in a quick setting."
    table = re.sub(r"\]\(([^/)]+)\)", rf"]({path.parent.as_posix()}/\1)", path.read_text())
    shown = (
        f"\n### {Path(figure).stem}\n\n![{Path(figure).stem}]({figure})\n"
        for figure in re.findall(r"\]\((\S+\.png)\)", table)
    )
    return table + "".join(shown)
