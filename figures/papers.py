"""The figures of the papers: the runs of one experiment side by side."""

from collections.abc import Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.curves import (
    GRADIENT,
    draw_by_epoch,
    draw_panels,
    draw_phases,
    effective_lr_label,
    name_lines,
)
from figures.labels import SEEDS, Line, by_setting, differ, labels, lines_of
from figures.panels import mark_periods
from figures.style import colours, describe, name_below, sample
from figures.tables import best_test_error
from runs import Run

# P1, Figure 2, read off the published plot, by learning rate: jumps (fraction of the run), test
# errors in % at their minima or at the end, final or lowest training losses.
PUBLISHED = {
    0.001: {"jumps": (), "errors": {1.0: 29}, "losses": {1.0: 7e-3}},
    0.01: {
        "jumps": (0.20, 0.40, 0.55, 0.86),
        "errors": {0.2: 27, 0.4: 25, 0.55: 21, 0.86: 18, 1.0: 17},
        "losses": {0.2: 3e-3, 0.86: 1.5e-4},
    },
    0.03: {"jumps": (), "errors": {1.0: 16}, "losses": {}},
    1.0: {"jumps": (), "errors": {0.99: 25, 1.0: 65}, "losses": {1.0: 0.4}},
}
FEW = 6  # lines that are legible in one row of panels


def loss_and_error(runs: Sequence[Run]) -> Figure | None:
    """P1, Figure 1: train loss of every epoch and test error, a row for each network; triangles
    mark the lowest loss before each turn of ρ. None if the runs share both network and held
    norm."""
    if not any(differ(runs, key) for key in ("model", "fix_si_pnorm", "fix_si_pnorm_value")):
        return None
    models = list(dict.fromkeys(map(_network, runs)))
    size = (10, 3.6 * len(models) + 0.6)
    figure, rows = plt.subplots(len(models), 2, figsize=size, layout="constrained", squeeze=False)
    every, notes = [], []
    for model, axes in zip(models, rows, strict=True):
        lines, note = lines_of([run for run in runs if _network(run) == model])
        draw_panels(axes, lines, ("train_loss", "test_error"), logged=True)
        for line in lines:
            if len(line.runs) == 1:
                mark_periods(line.runs[0], line.colour, axes[0])
        if len(models) > 1:
            for axis in axes:
                axis.set_title(f"{model} {axis.get_title()}")
            lines = [line._replace(label=f"{model}: {line.label}") for line in lines]
        every += lines
        notes.append(note)
    marks = {"lowest loss before ρ turns": sample(marker="v")}
    name_lines(figure, every, "; ".join(filter(None, notes)), marks)
    return figure


def _network(run: Run) -> str:
    return run.config.get("model", "unknown network")  # results of the official code


def figure2(runs: Sequence[Run], published: bool = False) -> Figure:
    """P1, Figure 2: train loss, test error, SI norm ρ and phase diagram, a colour for each setting.

    Loss and ρ are those of every epoch if there is a log. Triangles mark where ρ turns, and the
    lowest loss before. With `published` the published values are drawn too. The phase diagram has ρ
    times the norm of the full gradient, as the published one, or else of the SI weights' gradient.
    """
    lines, note = lines_of(runs)
    parents = [Line("before the branch", "grey", [parent]) for parent in _parents(lines)]
    rows, columns, size, width, mark = 1, 4, (18, 4.2), 1.2, 5
    if len(lines) > FEW:
        rows, columns, size, width, mark = 2, 2, (14, 10), 0.7, 3
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    loss_axis, error_axis, norm_axis, phase_axis = axes.flat
    stars = [_draw_published(loss_axis, error_axis, line) for line in lines if published]
    names = ("train_loss", "test_error", "si_norm")
    for axis, name in zip(axes.flat, names, strict=False):
        draw_by_epoch(axis, parents, name, linewidth=width)
    draw_panels(axes.flat[:3], lines, names, logged=True, linewidth=width)
    for line in lines:
        if len(line.runs) == 1:
            mark_periods(line.runs[0], line.colour, loss_axis, norm_axis, mark)
    full = all("full_gradient_norm" in run.curves for run in runs)
    gradient = "full_gradient_norm" if full else "effective_gradient_norm"
    draw_phases(phase_axis, [*parents, *lines], "effective_lr", gradient)
    y = "mean full gradient norm × ρ" if full else GRADIENT
    describe(phase_axis, "Phase diagram", effective_lr_label(runs), y, "log", "log")
    marks = {"start": sample(marker="o"), "ρ turns; lowest loss before": sample(marker="v")}
    if any(stars):
        marks["published"] = sample(marker="*", markersize=11)
    marks |= {line.label: sample(color=line.colour) for line in parents}
    name_lines(figure, lines, note, marks)
    return figure


def _parents(lines: Sequence[Line]) -> list[Run]:
    """The parents of the branches among these, up to the branch point, unless drawn themselves."""
    runs = [run for line in lines for run in line.runs]
    drawn, found = {run.folder for run in runs}, {}
    branches = [run for run in runs if run.is_branch]
    for run in sorted(branches, key=lambda run: run.config["resume_epoch"]):
        parent = run.parent()
        if parent and parent.folder not in drawn:
            window = parent.window[0], run.config["resume_epoch"]
            found[parent.folder] = replace(parent, window=window)
    return list(found.values())


def _draw_published(loss_axis: Axes, error_axis: Axes, line: Line) -> bool:
    """Draw published values as stars at the same fraction of the run, jumps as dotted lines, within
    the run's window; none for a branch or an unknown length. Returns whether any was drawn."""
    run = line.runs[0]
    known, epochs = PUBLISHED.get(run.config["lr_init"]), run.config.get("epochs")
    if not known or not epochs or run.is_branch:
        return False
    first, last = run.window
    star = {"marker": "*", "linestyle": "", "markersize": 11, "color": line.colour,
            "markeredgecolor": "black", "zorder": 3}  # fmt: skip
    drawn = False
    for axis, values in ((error_axis, known["errors"]), (loss_axis, known["losses"])):
        within = {epochs * share: value for share, value in values.items()}
        within = {at: value for at, value in within.items() if first <= at <= last}
        axis.plot([*within], [*within.values()], **star)
        drawn |= bool(within)
    for at in (epochs * share for share in known["jumps"]):
        if first <= at <= last:
            loss_axis.axvline(at, color=line.colour, linestyle=":", linewidth=1)
    return drawn


def three_regimes(runs: Sequence[Run]) -> Figure | None:
    """P2, Figure 1: train loss, test error, gradient norm by epoch; norm and error by loss. Runs
    for which one of the three was not measured are left out; None if no run is left."""
    loss, error, gradient = names = ("train_loss", "test_error", "effective_gradient_norm")
    runs = [run for run in runs if run.curves.keys() >= {*names}]
    if not runs:
        return None
    lines, note = lines_of(runs)
    figure, axes = plt.subplots(1, 5, figsize=(22, 4.2), layout="constrained")
    draw_panels(axes[:3], lines, names)
    for axis, name in zip(axes[3:], (gradient, error), strict=True):
        draw_phases(axis, lines, loss, name)
    describe(axes[3], "Gradient norm by loss", "train loss", GRADIENT, "log", "log")
    describe(axes[4], "Test error by loss", "train loss", "error, %", "log")
    name_lines(figure, lines, note, {"start": sample(marker="o")})
    return figure


def comparison(runs: Sequence[Run], key: str) -> Figure:
    """Mean period and best test error against one rate, "lr_init" or "wd", a colour for each
    setting of the other options. Points are means over seeds, bars their range; there is no mean
    period of fewer than two periods."""
    name = {"lr_init": "learning rate η", "wd": "weight decay λ"}[key]
    settings = by_setting(runs)
    others = labels([group[0] for group in settings], without=(*SEEDS, key), unique=False)
    kinds: dict[str, list[list[Run]]] = {}
    for other, group in zip(others, settings, strict=True):
        kinds.setdefault(other, []).append(group)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, number in zip(axes, (lambda run: run.periods.mean, best_test_error), strict=True):
        for colour, groups in zip(colours(kinds), kinds.values(), strict=True):
            points = []
            for group in sorted(groups, key=lambda group: group[0].config[key]):
                values = [value for value in map(number, group) if np.isfinite(value)]
                if values:
                    mean = np.mean(values)
                    spread = mean - min(values), max(values) - mean
                    points.append((group[0].config[key], mean, *spread))
            if points:
                x, mean, *spread = np.array(points).T
                style = {"color": colour, "capsize": 3, "linewidth": 1.2}
                axis.errorbar(x, mean, np.array(spread), fmt="o-", **style)
    if not axes[0].lines:
        axes[0].text(0.5, 0.5, "no run has two periods", ha="center", transform=axes[0].transAxes)
    describe(axes[0], "Mean period", name, "epochs from turn to turn", "log", "log")
    describe(axes[1], "Best test error", name, "error, %", "log")
    if any(kinds):
        handles = [plt.Line2D([], [], color=colour, marker="o") for colour in colours(kinds)]
        name_below(figure, dict(zip(kinds, handles, strict=True)))
    return figure
