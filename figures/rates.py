"""What depends on the learning rate: figures of P2."""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.curves import GRADIENT, draw_panels, file_of, find_curve, loss_label, name_lines
from figures.labels import SEEDS, differ, labels, lines_of, on_sphere
from figures.style import COLOURS, colours, describe, name_below, shades
from runs import Run
from theory.dynamics import effective_lr

ELR = "effective learning rate η̃"


def label_noise(runs: Sequence[Run]) -> Figure | None:
    """Loss of the images with true and with corrupted labels, error by the corrupted labels, and
    test error, by rate (P2). None unless all runs have both kinds, measured separately."""
    if not all(file_of(run, "loss_corrupt") for run in runs):
        return None
    lines, note = lines_of(runs)
    figure, axes = plt.subplots(1, 4, figsize=(17, 4.2), layout="constrained")
    draw_panels(axes, lines, ("loss_normal", "loss_corrupt", "acc_corrupt", "test_error"))
    name_lines(figure, lines, note)
    return figure


def sharpness_by_rate(runs: Sequence[Run]) -> Figure | None:
    """Gradient, sharpness and test error at the end of runs on the sphere, by rate (P2).

    Sharpness is the trace of the Fisher matrix and the leading Hessian eigenvalue on the unit
    sphere, each times the rate (descent is stable where the latter is below 2), as `test.py
    --train_mode --prebn_only --fisher_trace --sharpness` measures them. Points are runs, open
    points those that did not converge; lines connect the means of the others. None if no run has an
    eigenvalue, or not all are on the sphere.
    """
    if not on_sphere(runs) or not any(file_of(run, "sharpness") for run in runs):
        return None
    panels = {
        "Effective gradient norm": ("effective_gradient_norm", GRADIENT),
        "Fisher trace × rate": ("fisher_trace", "η̃ × trace on the unit sphere"),
        "Leading Hessian eigenvalue × rate": ("sharpness", "η̃ × eigenvalue on the unit sphere"),
        "Test error": ("test_error", "error, %"),
    }
    figure, axes = plt.subplots(1, 4, figsize=(17, 4.2), layout="constrained", sharex=True)
    ends = [(run, _at_the_end(run)) for run in runs]
    for axis, colour, (title, (name, y)) in zip(axes, COLOURS, panels.items(), strict=False):
        points = [
            (run.config["elr"], values[name], run.regime.name == "convergence")
            for run, values in ends
            if name in values
        ]
        rates, values, converged = np.array(points, dtype=float).reshape(-1, 3).T
        converged = converged == 1
        axis.plot(rates[converged], values[converged], "o", color=colour)
        axis.plot(rates[~converged], values[~converged], "o", color=colour, markerfacecolor="white")
        each = np.unique(rates[converged])
        means = [values[converged & (rates == rate)].mean() for rate in each]
        axis.plot(each, means, color=colour, linewidth=1)
        describe(axis, title, ELR, y, "log", "log")
    axes[2].axhline(2, color="black", linestyle="--", linewidth=0.8)
    point = {"marker": "o", "color": "grey"}
    name_below(figure, {
        "converged": plt.Line2D([], [], **point),
        "did not converge": plt.Line2D([], [], linestyle="", markerfacecolor="white", **point),
        "linear stability: 2": plt.Line2D([], [], color="black", linestyle="--"),
    })  # fmt: skip
    return figure


def _at_the_end(run: Run) -> dict[str, float]:
    """The last value of each quantity; of curvature that on the unit sphere times the rate."""
    found = {name: curve.values for name, curve in run.curves.items()}
    if sharpness := find_curve(run, "sharpness"):
        found["sharpness"] = run.config["elr"] * sharpness.values
    arrays = run.metrics("train-tm-prebn")
    if "fisher_trace" in arrays:
        trace = arrays["fisher_trace"] * arrays["params_numel"] * arrays["params_norm"] ** 2
        found["fisher_trace"] = run.config["elr"] * trace[np.isfinite(trace)]
    return {name: values[-1] for name, values in found.items() if len(values)}


def conventional(
    runs: Sequence[Run], boundaries: Sequence[tuple[float, float]] = ()
) -> Figure | None:
    """Ordinary training at a constant rate or with a cosine, by initial rate (P2): final loss and
    error, and the course of η̃. None unless the runs differ in rate, momentum and cosine. A
    momentum μ counts as a rate of η / (1 - μ). `boundaries`, where regimes on the sphere end, are
    shaded."""
    runs = [run for run in runs if run.curves.keys() >= {"train_loss", "test_error"}]
    runs = [run for run in runs if _cosine(run) or run.config.get("no_schedule")]
    varied = (*SEEDS, "lr_init", "momentum", "cosan_schedule", "no_schedule")
    if not all(differ(runs, key) for key in ("lr_init", "momentum", "cosan_schedule")):
        return None
    kinds: dict[str, list[Run]] = {}
    named = zip(runs, labels(runs, without=varied, unique=False), strict=True)
    for run, other in sorted(named, key=lambda p: (_cosine(p[0]), _momentum(p[0]), p[0].base_lr)):
        kind = "cosine" if _cosine(run) else "constant"
        kind += f", momentum {_momentum(run):g}" if run.optimizer == "sgd" else ""
        kinds.setdefault(", ".join(filter(None, (kind, other))), []).append(run)
    rates = sorted({run.base_lr for run in runs})
    shade_of = dict(zip(rates, shades(rates), strict=True))
    above = [name for name in ("train_loss", "test_error") for _ in kinds]
    mosaic = [above, [kind for kind in kinds for _ in "12"]]
    size = (3.5 * max(len(kinds), 2), 7)
    figure, axes = plt.subplot_mosaic(mosaic, figsize=size, layout="constrained")
    named, first = {}, axes[next(iter(kinds))]
    shapes = itertools.cycle("osD^v*")
    for (kind, group), colour in zip(kinds.items(), colours(kinds), strict=True):
        x, marker = [run.base_lr for run in group], next(shapes)
        for name in ("train_loss", "test_error"):
            y = [run.curves[name].values[-1] for run in group]
            (named[kind],) = axes[name].plot(x, y, color=colour, marker=marker)
        axis = axes[kind]
        if axis is not first:
            axis.sharey(first)
        for run in group:
            epochs, si_norm = run.history["si_norm"]
            rate = effective_lr(run.lr_at(epochs), si_norm, run.optimizer) / (1 - _momentum(run))
            rate = np.where(rate > 0, rate, np.nan)
            axis.plot(epochs, rate, color=shade_of[run.base_lr], linewidth=1.2)
        for low, high in boundaries:
            axis.axhspan(low, high, color="grey", alpha=0.3, linewidth=0)
        describe(axis, kind, "epoch", ELR if axis is first else "", yscale="log")
    rate = "initial rate η"
    describe(axes["train_loss"], "Final train loss", rate, loss_label(runs), "log", "log")
    describe(axes["test_error"], "Final test error", rate, "error, %", "log")
    named |= {f"η = {rate:g}": plt.Line2D([], [], color=shade_of[rate]) for rate in rates}
    if boundaries:
        named["a regime of the sphere ends"] = plt.Line2D([], [], color="grey", alpha=0.3)
    name_below(figure, named)
    return figure


def _cosine(run: Run) -> bool:
    return bool(run.config.get("cosan_schedule"))


def _momentum(run: Run) -> float:
    return (run.config["momentum"] or 0.0) if run.optimizer == "sgd" else 0.0
