"""The figures of the papers: the runs of one experiment side by side."""

from collections.abc import Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.labels import SEEDS, Line, by_setting, labels, lines_of
from figures.panels import mark_periods
from figures.style import (
    colours,
    describe,
    draw_phases,
    draw_seeds,
    effective_lr_label,
    marker,
    name_below,
    name_lines,
)
from figures.tables import summary_row
from runs import Run, at_common_epochs

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


GREY = "grey"  # of what goes before a branch
FEW = 6  # lines that are legible in one row of panels


def _parents(lines: Sequence[Line]) -> list[Run]:
    """The runs that the branches among these go on from, up to there; none that is drawn itself."""
    runs = [run for line in lines for run in line.runs]
    until: dict = {}
    for run in runs:
        parent = run.parent()
        if parent and parent.folder not in {other.folder for other in runs}:
            _, last = until.get(parent.folder, (parent, 0))
            until[parent.folder] = parent, max(run.config["resume_epoch"], last)
    return [replace(parent, window=(parent.window[0], last)) for parent, last in until.values()]


def _draw_published(loss_axis: Axes, error_axis: Axes, run: Run, colour: str) -> None:
    """Published values as stars, at the same fraction of the run; jumps dotted."""
    known, epochs = PUBLISHED.get(run.config["lr_init"]), run.config["epochs"]
    if not known:
        return
    star = {"marker": "*", "linestyle": "", "markersize": 11, "color": colour,
            "markeredgecolor": "black"}  # fmt: skip
    for axis, values in ((error_axis, known["errors"]), (loss_axis, known["losses"])):
        axis.plot([epochs * share for share in values], [*values.values()], **star)
    for share in known["jumps"]:
        loss_axis.axvline(epochs * share, color=colour, linestyle=":", linewidth=1)


def figure2(runs: Sequence[Run], published: bool = False) -> Figure:
    """P1, Figure 2: train loss, test error, SI norm ρ, and the phase diagram, a colour a setting.

    Loss and ρ are those of every epoch where there is a log; triangles mark where ρ turns. With
    `published` the published values are drawn too. The diagram shows the norm of the full gradient
    times ρ, as the published one does, and that of the SI weights' gradient where the full one was
    not measured.
    """
    lines, note = lines_of(runs)
    parents = _parents(lines)
    full = all("full_gradient_norm" in run.curves for run in runs)
    phases = ("effective_lr", "full_gradient_norm" if full else "effective_gradient_norm")
    few = len(lines) <= FEW
    size = (
        {"ncols": 4, "figsize": (18, 4.2)} if few else {"nrows": 2, "ncols": 2, "figsize": (14, 10)}
    )
    figure, axes = plt.subplots(**size, layout="constrained", squeeze=False)
    loss_axis, error_axis, norm_axis, phase_axis = axes.flat
    for line in [*(Line("", GREY, [parent]) for parent in parents), *lines]:
        is_parent, colour, width = line.colour == GREY, line.colour, 1.2 if few else 0.7
        # A branch's log lacks the checkpoint that it goes on from; its parent's goes further.
        recorded = [run.curves if is_parent or run.is_branch else run.history for run in line.runs]
        measured = [run.curves for run in line.runs]
        for axis, name, each in (
            (loss_axis, "train_loss", recorded), (error_axis, "test_error", measured),
            (norm_axis, "si_norm", recorded),
        ):  # fmt: skip
            curves = [curves[name] for curves in each if name in curves]
            draw_seeds(axis, curves, colour, width, log=axis is not error_axis)
        for curves in measured:
            if curves.keys() >= {*phases}:
                draw_phases(phase_axis, *at_common_epochs(curves, *phases)[1:], colour)
        if not is_parent and len(line.runs) == 1:
            mark_periods(loss_axis, norm_axis, line.runs[0], colour, 5 if few else 3)
        if published and not is_parent:
            _draw_published(loss_axis, error_axis, line.runs[0], colour)
    describe(loss_axis, "Train loss", "epoch", "cross-entropy", yscale="log")
    describe(error_axis, "Test error", "epoch", "error, %")
    describe(norm_axis, "Norm of the scale-invariant weights", "epoch", "ρ", yscale="log")
    gradient = "mean full gradient norm × ρ" if full else "mean effective gradient norm ρ‖g‖"
    describe(phase_axis, "Phase diagram", effective_lr_label(runs), gradient, "log", "log")
    marks = [(marker("o"), "start"), (marker("v"), "ρ turns")]
    marks += [(marker("*", markersize=11), "published")] if published else []
    marks += [(plt.Line2D([], [], color=GREY), "before the branch")] if parents else []
    name_lines(figure, lines, note, *marks)
    return figure


_REGIMES = ("train_loss", "test_error", "effective_gradient_norm")  # what it shows


def three_regimes(runs: Sequence[Run]) -> Figure | None:
    """P2, Figure 1: train loss, test error, gradient norm by epoch; norm and error by loss.

    Of the runs of which all three were measured; None without any.
    """
    runs = [run for run in runs if run.curves.keys() >= {*_REGIMES}]
    if not runs:
        return None
    lines, note = lines_of(runs)
    figure, axes = plt.subplots(1, 5, figsize=(22, 4.2), layout="constrained")
    loss_axis, error_axis, gradient_axis, phase_axis, optima_axis = axes
    for line in lines:
        for axis, name in zip(axes, _REGIMES, strict=False):
            curves = [run.curves[name] for run in line.runs]
            draw_seeds(axis, curves, line.colour, 1.2, log=axis is not error_axis)
        for axis, name in ((phase_axis, _REGIMES[2]), (optima_axis, _REGIMES[1])):
            for run in line.runs:
                x, y = at_common_epochs(run.curves, "train_loss", name)[1:]
                draw_phases(axis, x, y, line.colour)
    gradient = "mean effective gradient norm ρ‖g‖"
    describe(loss_axis, "Train loss", "epoch", "cross-entropy", yscale="log")
    describe(error_axis, "Test error", "epoch", "error, %")
    describe(gradient_axis, "Effective gradient norm", "epoch", gradient, yscale="log")
    describe(phase_axis, "Gradient norm by loss", "train loss", gradient, "log", "log")
    describe(optima_axis, "Test error by loss", "train loss", "error, %", "log")
    name_lines(figure, lines, note, (marker("o"), "start"))
    return figure


def comparison(runs: Sequence[Run], key: str) -> Figure:
    """Mean period and best test error against one rate, "lr_init" or "wd".

    A colour for each setting of the other options; points are means over seeds, bars reach from
    the lowest to the highest seed. A run with fewer than two periods has no mean period.
    """
    name = {"lr_init": "learning rate η", "wd": "weight decay λ"}[key]
    settings = by_setting(runs)
    others = labels([group[0] for group in settings], without=(*SEEDS, key), unique=False)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    kinds = list(dict.fromkeys(others))
    for colour, kind in zip(colours(kinds), kinds, strict=True):
        groups = [g for g, other in zip(settings, others, strict=True) if other == kind]
        groups = sorted(groups, key=lambda group: group[0].config[key])
        for axis, number in zip(axes, ("mean period", "best test error"), strict=True):
            points = []
            for group in groups:
                values = np.array([summary_row(run)[number] for run in group])
                values = values[np.isfinite(values)]
                if len(values):
                    mean = values.mean()
                    spread = mean - values.min(), values.max() - mean
                    points.append((group[0].config[key], mean, *spread))
            if points:
                x, mean, *spread = np.array(points).T
                axis.errorbar(
                    x, mean, np.array(spread), fmt="o-", color=colour, capsize=3, linewidth=1.2
                )
    if not axes[0].lines:
        axes[0].text(0.5, 0.5, "no run has two periods", ha="center", transform=axes[0].transAxes)
    describe(axes[0], "Mean period", name, "epochs from turn to turn", "log", "log")
    describe(axes[1], "Best test error", name, "error, %", "log")
    handles = [plt.Line2D([], [], color=c, marker="o") for c in colours(kinds)]
    if any(kinds):
        name_below(figure, handles, kinds)
    return figure
