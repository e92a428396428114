"""Runs, their periods and claims as text."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from figures.summaries import curves, on_sphere, periods_of, regime, summary_row
from runs import Run
from theory.jumps import Periods
from utils import plural


def regime_table(runs: Sequence[Run]) -> str:
    """Regime, final loss level and spread, and test errors of runs on the sphere, as text."""
    rows = []
    for run in runs:
        found, errors = regime(run), curves(run)["test error"]
        spread = f"{found.low:.3g} to {found.high:.3g}"
        last, best = f"{errors[-1]:.2f}", f"{errors.min():.2f}"
        rows.append(
            [f"{run.config['elr']:g}", found.name, f"{found.level:.3g}", spread, last, best]
        )
    headers = ("ELR", "regime", "loss level", "10 % to 90 %", "last test error, %", "best, %")
    return tabulate(rows, headers, disable_numparse=True, colalign=("right",) * len(headers))


def period_table(run: Run) -> str:
    """Every period of a run as text: the jump that ends it, and its lowest training loss among the
    measured checkpoints, with the test error and the norm there."""
    found, jumps = curves(run), periods_of(run).jumps
    loss, error, norm = (
        dict(zip(found.get(f"{kind}epochs", ()), found.get(name, ()), strict=True))
        for kind, name in (("", "train loss"), ("test ", "test error"), ("si ", "si norm"))
    )
    rows = []
    for low in Periods(np.append(jumps, np.inf)).minima([*loss], [*loss.values()]):
        end = [f"{jump:g}" for jump in jumps if jump > low]
        at = (loss[low], error.get(low, np.nan), norm.get(low, np.nan))
        rows.append([(end or ["no jump yet"])[0], low, *at])
    headers = ("ends with the jump at", "lowest at epoch", "train loss", "test error, %", "ρ")
    forms = ("", "g", ".2g", ".2f", ".2f")
    return tabulate(rows, headers, floatfmt=forms, stralign="right")


def table(runs: Sequence[Run]) -> str:
    """The summaries of several runs as text."""
    if on_sphere(runs):
        return regime_table(runs)
    formats = {"lr": "g", "wd": "g", "jumps": "d", "mean period": ".1f", "best test error": ".2f"}
    rows = [
        ["none" if value != value else format(value, formats[key]) for key, value in row.items()]
        for row in map(summary_row, runs)
    ]  # a value that is not itself is NaN
    headers = (
        "learning rate",
        "weight decay",
        "jumps",
        "mean period, epochs",
        "best test error, %",
    )
    return tabulate(rows, headers, disable_numparse=True, colalign=("right",) * len(headers))


def claim(key: str, folder: str | Path = "results/claims") -> str:
    """What claims.py found for one claim, from the claims.json in a folder, as text."""
    path = Path(folder) / "claims.json"
    if not path.exists():
        return f"There is no {path} yet: `make claims` measures all claims in a quick setting."
    record = json.loads(path.read_text())
    found = record["claims"][key]
    verdict = "holds" if found["holds"] else "does not hold"
    trials = plural(record["trials"], "trial")
    return f"{found['measured']}\n\n{verdict} ({record['scale']} setting, {trials})"
