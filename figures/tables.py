"""Runs, their periods and the claims as text."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

from figures.summaries import label, on_sphere, summary_row
from runs import Run


def regime_table(runs: Sequence[Run]) -> str:
    """Regime, final loss level and spread, and test errors of runs on the sphere, as text."""
    rows = []
    for run in runs:
        row = [f"{run.config['elr']:g}"]
        if "train_loss" in run.curves:
            regime = run.regime
            row += [str(regime), f"{regime.level:.3g}", f"{regime.low:.3g} to {regime.high:.3g}"]
        else:
            row += ["not measured", "", ""]
        errors = run.curves["test_error"].values if "test_error" in run.curves else ()
        row += [f"{errors[-1]:.2f}", f"{min(errors):.2f}"] if len(errors) else ["", ""]
        rows.append(row)
    headers = ("ELR", "regime", "loss level", "10 % to 90 %", "last test error, %", "best, %")
    return tabulate(rows, headers, disable_numparse=True, colalign=("right",) * len(headers))


def period_table(run: Run) -> str:
    """Every period of a run as text: when ρ turns, and the lowest training loss among the measured
    checkpoints before, with the test error and the norm there."""
    loss, error, norm = (
        dict(zip(*run.curves[name], strict=True)) if name in run.curves else {}
        for name in ("train_loss", "test_error", "si_norm")
    )
    rows, begin = [], -np.inf
    for period in run.periods.cycles:
        inside = [epoch for epoch in loss if begin < epoch <= period.turn]
        if inside:
            low = min(inside, key=loss.get)
            at = (low, loss[low], error.get(low, np.nan), norm.get(low, np.nan))
            rows.append([f"{period.turn:g}", "jump" if period.is_jump else "smooth", *at])
        begin = period.high
    headers = ("turns at", "rise", "lowest at epoch", "train loss", "test error, %", "ρ")
    forms = ("", "", "g", ".2g", ".2f", ".2f")
    return tabulate(rows, headers, floatfmt=forms, stralign="right")


def unknown(key: str, periods: int) -> str:
    """Why a run with so many periods has no such number."""
    if key == "best test error":
        return "not measured"
    if not periods:
        return "none"
    return {"mean period": "needs 2 periods", "cv": "needs 3 periods"}[key]


def table(runs: Sequence[Run]) -> str:
    """The summaries of several runs as text."""
    if on_sphere(runs):
        return regime_table(runs)
    formats = {"lr": "g", "wd": "g", "periods": "d", "mean period": ".1f", "cv": ".2f",
               "best test error": ".2f"}  # fmt: skip
    rows = [
        [
            format(value, formats[key]) if np.isfinite(value) else unknown(key, row["periods"])
            for key, value in row.items()
        ]
        for row in map(summary_row, runs)
    ]
    headers = (
        "learning rate",
        "weight decay",
        "periods",
        "mean length, epochs",
        "CV",
        "best test error, %",
    )
    rates = {(run.config["lr_init"], run.config["wd"]) for run in runs}
    named = any("name" in run.config for run in runs)
    if named or len(rates) < len(runs):  # then the rates do not tell the runs apart
        headers = ("line", *headers)
        rows = [[label(run, runs), *row] for run, row in zip(runs, rows, strict=True)]
    return tabulate(rows, headers, disable_numparse=True, colalign=("right",) * len(headers))


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
