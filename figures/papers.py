"""The figures of the papers and their kin: lines of one experiment side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import colours, describe, shades
from figures.summaries import label, summary_row
from runs import Curve, Run, at_common_epochs
from theory.dynamics import effective_lr

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


def _lines(
    runs: Sequence[Run], palette: Callable[[Sequence], list[str]] = colours
) -> Iterator[tuple[Run | None, dict[str, Curve], dict[str, Any]]]:
    """Each run with its curves and the style in which they are drawn.

    Before them, in grey and without a run, the parents of branches up to there, unless they are
    among the runs.
    """
    folders = {run.folder for run in runs}
    parents = {}
    for run in runs:
        parent = run.parent()
        if parent and parent.folder not in folders:
            until = max(run.config["resume_epoch"], parents.get(parent.folder, (0, 0))[1])
            parents[parent.folder] = parent, until
    for parent, until in parents.values():
        words = f"{label(parent, [parent])}, up to the branch"
        shown = replace(parent, window=(parent.window[0], until))
        yield None, shown.curves, {"color": "grey", "label": words, "linewidth": 1.2}
    for colour, run in zip(palette(runs), runs, strict=True):
        yield run, run.curves, {"color": colour, "label": label(run, runs), "linewidth": 1.2}


def _draw_phases(axis: Axes, x: np.ndarray, y: np.ndarray, style: dict[str, Any]) -> None:
    """A line of a phase diagram, its first point marked."""
    colour = style["color"]
    axis.plot(x, y, color=colour, linewidth=0.8, alpha=0.8, label=style["label"])
    axis.plot(x[:1], y[:1], "o", color=colour, markeredgecolor="black", markersize=7)


def _mark_turns(loss_axis: Axes, norm_axis: Axes, run: Run, colour: str) -> None:
    """Triangles where ρ turns, and at the lowest loss before."""
    found = run.periods
    if not len(found):
        return
    mark = {"marker": "v", "linestyle": "", "color": colour, "markeredgecolor": "black"}
    norm_axis.plot(found.turns, found.each("rho_turn"), markersize=5, **mark)
    loss_axis.plot(found.each("low"), found.each("loss_low"), markersize=5, **mark)


def _draw_published(loss_axis: Axes, error_axis: Axes, run: Run, colour: str) -> None:
    """Published values as stars, at the same fraction of the run; jumps dotted."""
    known, epochs = PUBLISHED.get(run.config["lr_init"]), run.config["epochs"]
    if not known:
        return
    star = {"marker": "*", "linestyle": "", "markersize": 11, "color": colour,
            "markeredgecolor": "black"}  # fmt: skip
    for axis, values in ((error_axis, known["errors"]), (loss_axis, known["losses"])):
        axis.plot([epochs * at for at in values], [*values.values()], **star)
    for at in known["jumps"]:
        loss_axis.axvline(epochs * at, color=colour, linestyle=":", linewidth=1)


def figure2(runs: Sequence[Run], published: bool = False) -> Figure:
    """P1, Figure 2: train loss, test error, SI norm ρ, and the phase diagram, a line a run.

    Loss and ρ are those of every epoch where there is a log; triangles mark where ρ turns. With
    `published` the published values are drawn too. The diagram shows the norm of the full gradient
    times ρ, as the published one does, and that of the SI weights' gradient where the full one was
    not measured.
    """
    full = all("full_gradient_norm" in run.curves for run in runs)
    phases = ("effective_lr", "full_gradient_norm" if full else "effective_gradient_norm")
    figure, axes = plt.subplots(1, 4, figsize=(18, 4.2), layout="constrained")
    loss_axis, error_axis, norm_axis, phase_axis = axes
    for run, curves, style in _lines(runs):
        # A branch goes on from a checkpoint, which its log does not have.
        recorded = run.history if run and not run.is_branch else curves
        for axis, name in ((loss_axis, "train_loss"), (norm_axis, "si_norm")):
            if name in recorded:
                axis.plot(*recorded[name], **style)
        if "test_error" in curves:
            error_axis.plot(*curves["test_error"], **style)
        if curves.keys() >= {*phases}:
            _draw_phases(phase_axis, *at_common_epochs(curves, *phases)[1:], style)
        if run:
            _mark_turns(loss_axis, norm_axis, run, style["color"])
            if published:
                _draw_published(loss_axis, error_axis, run, style["color"])
    phase_axis.plot([], [], "o", color="white", markeredgecolor="black", label="start")
    norm_axis.plot([], [], "v", color="white", markeredgecolor="black", label="ρ turns")
    if published:
        error_axis.plot([], [], "*", color="white", markeredgecolor="black", label="published")
        error_axis.legend(*([part[-1:] for part in error_axis.get_legend_handles_labels()]))
    describe(loss_axis, "Train loss", "epoch", "cross-entropy", yscale="log")
    describe(error_axis, "Test error", "epoch", "error, %")
    describe(norm_axis, "Norm of the scale-invariant weights", "epoch", "ρ", yscale="log")
    # Empty it can not be logarithmic.
    scale = "log" if any(run.curves.keys() >= {*phases} for run in runs) else "linear"
    describe(
        phase_axis,
        "Phase diagram",
        "effective learning rate η̃ = η / ρ²",
        "mean full gradient norm × ρ" if full else "mean effective gradient norm ρ‖g‖",
        xscale=scale,
        yscale=scale,
    )
    norm_axis.legend(fontsize=9)
    phase_axis.legend(fontsize=9)
    return figure


_REGIMES = ("train_loss", "test_error", "effective_gradient_norm")  # what it shows


def three_regimes(runs: Sequence[Run]) -> Figure | None:
    """P2, Figure 1: train loss, test error, gradient norm by epoch; norm and error by loss.

    Of the runs of which all three were measured; None without any.
    """
    runs = [run for run in runs if run.curves.keys() >= {*_REGIMES}]
    if not runs:
        return None
    figure, axes = plt.subplots(1, 5, figsize=(22, 4.2), layout="constrained")
    loss_axis, error_axis, gradient_axis, phase_axis, optima_axis = axes
    for _, curves, style in _lines(runs, shades):
        for axis, name in zip(axes, _REGIMES, strict=False):
            axis.plot(*curves[name], **style)
        for axis, name in ((phase_axis, _REGIMES[2]), (optima_axis, _REGIMES[1])):
            _draw_phases(axis, *at_common_epochs(curves, "train_loss", name)[1:], style)
    phase_axis.plot([], [], "o", color="white", markeredgecolor="black", label="start")
    gradient = "mean effective gradient norm ρ‖g‖"
    describe(loss_axis, "Train loss", "epoch", "cross-entropy", yscale="log")
    describe(error_axis, "Test error", "epoch", "error, %")
    describe(gradient_axis, "Effective gradient norm", "epoch", gradient, yscale="log")
    describe(phase_axis, "Gradient norm by loss", "train loss", gradient, "log", "log")
    describe(optima_axis, "Test error by loss", "train loss", "error, %", "log")
    phase_axis.legend(fontsize=9)
    return figure


def layers(run: Run) -> Figure:
    """Norm and effective learning rate of every SI weight tensor of one run, by epoch."""
    arrays = run.metrics("train-tm-prebn")
    names = [n.removesuffix("_norm") for n in arrays if n.endswith(".weight_norm")]
    figure, (norms, rates) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for shade, name in zip(shades(names), names, strict=False):
        norm = arrays[f"{name}_norm"]
        norms.plot(arrays["report_epochs"], norm, color=shade, label=name, linewidth=1.2)
        rate = effective_lr(run.lr_at(arrays["report_epochs"]), norm)
        rates.plot(arrays["report_epochs"], rate, color=shade, linewidth=1.2)
    title = label(run, [run])
    describe(norms, f"Norm of each layer, {title}", "epoch", "norm of the layer", yscale="log")
    describe(
        rates,
        f"Effective learning rate of each layer, {title}",
        "epoch",
        "η / (norm of the layer)²",
        yscale="log",
    )
    norms.legend(fontsize=8, ncols=1 + len(names) // 10)
    return figure


def comparison(runs: Sequence[Run], key: str) -> Figure:
    """Mean period and best test error against one rate, "lr_init" or "wd"; a line for each other.

    Runs with fewer than two periods are left out of the first panel.
    """
    words = {"lr_init": "learning rate η", "wd": "weight decay λ"}
    other = "wd" if key == "lr_init" else "lr_init"
    figure, (periods, errors) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    values = sorted({run.config[other] for run in runs})
    found = False
    for colour, value in zip(colours(values), values, strict=True):
        group = [run for run in runs if run.config[other] == value]
        rows = [summary_row(run) for run in group]
        x = [run.config[key] for run in group]
        style = {"color": colour, "marker": "o", "label": f"{words[other]} = {value:g}"}
        periods.plot(x, [row["mean period"] for row in rows], **style)
        errors.plot(x, [row["best test error"] for row in rows], **style)
        found = found or any(np.isfinite(row["mean period"]) for row in rows)
    if not found:
        periods.text(0.5, 0.5, "no run has two periods", ha="center", transform=periods.transAxes)
    scale = "log" if found else "linear"
    describe(periods, "Mean period", words[key], "epochs from turn to turn", "log", scale)
    describe(errors, "Best test error", words[key], "error, %", "log")
    errors.legend(fontsize=9)
    return figure
