"""What happens in the periods of single runs."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, describe
from runs import Run
from theory.dynamics import effective_step, jump_threshold
from theory.fits import PowerLaw
from theory.jumps import find_jumps


def loss_panels(named: Mapping[str, Run]) -> Figure:
    """Training loss and norm ρ by epoch of several runs, a panel each; jumps are dashed."""
    columns = 2 if len(named) == 4 else min(len(named), 3)
    rows = -(-len(named) // columns)
    size = (5.4 * columns, 3.1 * rows + 0.2)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    figure.get_layout_engine().set(w_pad=0.12)
    for axis in axes.flat[len(named) :]:
        axis.set_visible(False)
    for axis, (title, run) in zip(axes.flat, named.items(), strict=False):
        log = run.log()
        jumps = find_jumps(log["epoch"], log["train_loss"])
        axis.plot(log["epoch"], log["train_loss"], color=COLOURS[0], linewidth=1)
        for jump in jumps:
            axis.axvline(jump, color="grey", linestyle="--", linewidth=0.7)
        count = f"{len(jumps)} jump{'s' if len(jumps) != 1 else ''}"
        describe(axis, f"{title}: {count}", "epoch", "train loss", yscale="log")
        axis.yaxis.label.set_color(COLOURS[0])
        norm = axis.twinx()
        norm.plot(log["epoch"], log["si_norm"], color=COLOURS[3], linewidth=0.9, alpha=0.8)
        norm.set_ylabel("norm ρ", color=COLOURS[3])
        if np.ptp(log["si_norm"]) < 1e-3 * log["si_norm"][0]:  # held: do not enlarge the rounding
            norm.set_ylim(0, 2 * log["si_norm"][0])
    return figure


def frequency(
    sweeps: Mapping[str, tuple[np.ndarray, np.ndarray]], fits: Mapping[str, PowerLaw]
) -> Figure:
    """Frequency of periods against ηλ, log-log, with the fitted power laws (P1, claim 3).

    Parameters
    ----------
    sweeps : what was varied -> (ηλ, periods an epoch), of one run each.
    fits : the same keys -> the fit.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.4), layout="constrained")
    marks = zip(sweeps.items(), COLOURS, "osD^", strict=False)
    for (name, (x, y)), colour, marker in marks:
        fit = fits[name]
        words = f"{name}: exponent {fit.exponent:.2f} [{fit.low:.2f}, {fit.high:.2f}]"
        axis.plot(x, y, marker, color=colour, alpha=0.6, markersize=6, label=words)
        ends = np.array([np.min(x), np.max(x)])
        axis.plot(ends, fit(ends), color=colour, linewidth=1)
    describe(axis, "Frequency of periods", "ηλ", "periods an epoch", "log", "log")
    axis.legend(fontsize=9)
    return figure


def jump_trace(run: Run, delta: float, around: float = 6.0) -> Figure:
    """Loss and effective step η̃‖g̃‖ of every step, the δ-jump threshold; a jump enlarged."""
    trace, log = run.trace(), run.log()
    jumps = find_jumps(log["epoch"], log["train_loss"])
    step = effective_step(trace["lr"], trace["si_norm"], trace["gradient_norm"])
    threshold = jump_threshold(delta, run.config["lr_init"], run.config["wd"])
    figure, axes = plt.subplots(
        2, 2, figsize=(12, 6), layout="constrained", width_ratios=(2, 1), sharey="row"
    )
    for column in (0, 1):
        loss_axis, step_axis = axes[:, column]
        loss_axis.plot(trace["epoch"], trace["loss"], color=COLOURS[0], linewidth=0.6)
        step_axis.plot(trace["epoch"], step, color=COLOURS[2], linewidth=0.6)
        words = f"threshold of a δ-jump, δ = {delta:g}"
        step_axis.axhline(threshold, color=COLOURS[3], linestyle="--", label=words)
        title = "A destabilisation" if column else "Loss of every step"
        describe(loss_axis, title, "epoch", "loss of the batch", yscale="log")
        title = "" if column else "Effective step"
        describe(step_axis, title, "epoch", "η̃ ‖g̃‖", yscale="log")
    axes[1, 0].legend(fontsize=9)
    if len(jumps):
        middle = jumps[len(jumps) // 2]
        for axis in axes[:, 1]:
            axis.set_xlim(middle - around, middle + around / 2)
    return figure


def equilibrium(epochs: np.ndarray, si_norm: np.ndarray, predicted: np.ndarray) -> Figure:
    """The norm of every step beside the equilibrium of the gradients of the time."""
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    axis.plot(epochs, si_norm, color=COLOURS[0], linewidth=0.8, label="norm ρ")
    axis.plot(epochs, predicted, color=COLOURS[1], linewidth=1.2, label="equilibrium ρ*")
    describe(axis, "Norm in chaotic equilibrium", "epoch", "norm", yscale="log")
    axis.legend(fontsize=9)
    return figure


def sharpness(run: Run, epochs: np.ndarray, values: np.ndarray) -> Figure:
    """Training loss, sharpness on the sphere beside 2/η̃, and their ratio, by epoch."""
    log = run.log()
    jumps = find_jumps(log["epoch"], log["train_loss"])
    rate = np.interp(epochs, log["epoch"], log["effective_lr"])
    figure, axes = plt.subplots(3, 1, figsize=(9, 8), layout="constrained", sharex=True)
    axes[0].plot(log["epoch"], log["train_loss"], color=COLOURS[0], linewidth=1)
    axes[1].plot(log["epoch"], 2 / log["effective_lr"], color=COLOURS[3], label="2 / η̃")
    axes[1].plot(epochs, values, "o-", color=COLOURS[2], markersize=3, label="sharpness")
    axes[2].plot(epochs, rate * values, "o-", color=COLOURS[2], markersize=3)
    axes[2].axhline(2, color=COLOURS[3], label="2")
    for axis in axes:
        for jump in jumps:
            axis.axvline(jump, color="grey", linestyle="--", linewidth=0.7)
    describe(axes[0], "Train loss", "", "cross-entropy", yscale="log")
    title = "Leading Hessian eigenvalue on the unit sphere"
    describe(axes[1], title, "", "sharpness", yscale="log")
    title = "Effective learning rate times sharpness"
    describe(axes[2], title, "epoch", "η̃ · sharpness", yscale="log")
    axes[1].legend(fontsize=9)
    return figure
