"""Curves of runs by epoch and against each other, a colour for each setting."""

import functools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.labels import Line
from figures.style import describe, name_below, sample
from runs import Curve, Run, at_common_epochs
from theory.dynamics import norm_power

GRADIENT = "mean effective gradient norm ρ‖g‖"
LOSS = "cross-entropy"  # of runs with the squared loss `loss_label` says so
SHARE = "trace / number of weights"
# What `find_curve` finds -> title of its panel, y axis and scale.
PANELS = {
    "train_loss": ("Train loss", LOSS, "log"),
    "test_error": ("Test error", "error, %", "linear"),
    "si_norm": ("Norm of the scale-invariant weights", "ρ", "log"),
    "effective_gradient_norm": ("Effective gradient norm", GRADIENT, "log"),
    "hess_evals": ("Leading Hessian eigenvalue", "eigenvalue", "log"),
    "fisher_evals": ("Leading Fisher eigenvalue", "eigenvalue", "log"),
    "sharpness": ("Sharpness on the unit sphere", "eigenvalue", "log"),
    "hess_trace": ("Trace of the Hessian", SHARE, "symlog"),
    "fisher_trace": ("Trace of the Fisher matrix", SHARE, "log"),
    "gm_norm": ("Mean of the batch gradients", "norm", "log"),
    "gs_norm": ("Deviation of the batch gradients", "norm", "log"),
    "loss": ("Loss of the subsets", "train loss", "log"),
    "acc": ("Error of the subsets", "train error, %", "linear"),
    "cos_init": ("Cosine with the start", "cosine with epoch 0", "linear"),
    "l2_init": ("Distance from the start", "distance from epoch 0", "linear"),
    "loss_normal": ("Loss, true labels", LOSS, "log"),
    "loss_corrupt": ("Loss, corrupted labels", LOSS, "log"),
    "acc_corrupt": ("Error on corrupted labels", "train error, %", "linear"),
}


def file_of(run: Run, name: str) -> str | None:
    """The metrics file of a run that has finite numbers of this name; None if no file has."""
    for file in run.files():
        if np.isfinite(run.metrics(file).get(name, np.nan)).any():
            return file
    return None


def find_curve(run: Run, name: str, logged: bool = False) -> Curve | None:
    """A quantity of a run (one of `Run.curves`, or an array of a metrics file) where it was
    measured; None if it never was. Of a vector the largest element is taken; accuracies become
    errors in %. `logged`: at every epoch of the log; of a branch, whose log lacks its first
    checkpoint, rather at the checkpoints."""
    curves = run.curves if not logged or (run.is_branch and name in run.curves) else run.history
    file = None if name in curves else file_of(run, name)
    if file is None:
        return curves.get(name)
    arrays = run.metrics(file)
    values = arrays[name].reshape(len(arrays[name]), -1).max(1)
    measured = np.isfinite(values)
    values = 100 * (1 - values) if name.startswith("acc") else values
    return Curve(arrays["report_epochs"][measured], values[measured])


def draw_panels(axes: Sequence[Axes], lines: Sequence[Line], names: Sequence[str], **how) -> None:
    """A panel by epoch for each of these `PANELS`, with the options of `draw_by_epoch`."""
    for axis, name in zip(axes, names, strict=True):
        title, y, scale = PANELS[name]
        y = loss_label([run for line in lines for run in line.runs]) if y == LOSS else y
        draw_by_epoch(axis, lines, name, **how)
        describe(axis, title, "epoch", y, yscale=scale)


def draw_by_epoch(
    axis: Axes, lines: Sequence[Line], name: str, logged: bool = False, **style
) -> None:
    """A quantity of every line by epoch, as `find_curve` finds it."""
    scale = PANELS[name.removesuffix("_normal").removesuffix("_corrupt")][2]  # that of all images
    for line in lines:
        curves = [find_curve(run, name, logged) for run in line.runs]
        draw_seeds(axis, [curve for curve in curves if curve], line.colour, scale, **style)


def draw_seeds(
    axis: Axes, curves: Sequence[Curve], colour: str, scale: str, linewidth=1.2, **style
) -> None:
    """One curve by epoch, a single value as a point. Of several seeds, the mean (on a logarithmic
    axis geometric) and a band from the lowest to the highest, over the seeds that reach each epoch,
    at the epochs that they have in common."""
    parts, done = [], -np.inf
    for end in sorted({curve.epochs[-1] for curve in curves}):
        going = [curve for curve in curves if curve.epochs[-1] >= end]
        epochs = functools.reduce(np.intersect1d, (curve.epochs for curve in going))
        epochs = epochs[(epochs > done) & (epochs <= end)]
        values = np.array([curve.values[np.searchsorted(curve.epochs, epochs)] for curve in going])
        mean = values.mean(0)
        if scale == "log" and len(going) > 1:
            with np.errstate(divide="ignore", invalid="ignore"):
                mean = np.exp(np.log(values).mean(0))
        parts.append((epochs, mean, values.min(0), values.max(0)))
        done = end
    if not parts:
        return
    epochs, mean, low, high = np.concatenate(parts, axis=1)
    if len(curves) > 1:
        axis.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    marker = "." if len(epochs) == 1 else ""
    axis.plot(epochs, mean, color=colour, linewidth=linewidth, marker=marker, **style)


def draw_phases(axis: Axes, lines: Sequence[Line], x: str, y: str) -> None:
    """One measured quantity of each run against another, with the start marked."""
    for line in lines:
        for run in line.runs:
            if run.curves.keys() >= {x, y}:
                _, *values = at_common_epochs(run.curves, x, y)
                draw_phase(axis, *values, line.colour)


def draw_phase(axis: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """A line of a phase diagram, its first point marked."""
    axis.plot(x, y, color=colour, linewidth=0.8, alpha=0.8)
    axis.plot(x[:1], y[:1], "o", color=colour, markeredgecolor="black", markersize=7)


def name_lines(
    figure: Figure, lines: Sequence[Line], note: str, marks: dict[str, Line2D] | None = None
) -> None:
    """The legend of a comparison (`labels.lines_of`): names of the lines and of the marks."""
    named = {line.label: sample(color=line.colour) for line in lines}
    if any(len(line.runs) > 1 for line in lines):
        seeds = "several seeds: the mean, and from lowest to highest"
        note = "; ".join(filter(None, (note, seeds)))
    name_below(figure, named | (marks or {}), note or None)


def loss_label(runs: Sequence[Run]) -> str:
    squared = {bool(run.config.get("use_squared_loss")) for run in runs}
    return "loss" if len(squared) > 1 else "squared loss" if True in squared else LOSS


def effective_lr_label(runs: Sequence[Run]) -> str:
    powers = sorted({norm_power(run.optimizer) or 0 for run in runs}, reverse=True)
    forms = [{2: "η / ρ²", 1: "η / ρ"}.get(power, "unknown") for power in powers]
    return f"effective learning rate η̃ = {' or '.join(forms)}"
