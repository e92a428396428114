"""The figures and tables of the papers, drawn from the metrics of runs on disk.

    python plots.py Experiments/demo     # figure2.png in that folder, and a table

Every function that draws takes runs (`runs.find_runs`) and returns a matplotlib Figure.
"""

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

import analysis
import toy
from runs import Run, find_runs
from utils import UserError, plural, user_errors, write_atomically

DPI = 150
# Okabe and Ito's colours, distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
NO_RUNS = (
    "There are no measured runs in {root} yet. `make demo` makes some in a few minutes on a CPU; "
    "`python run_train_and_test.py` trains the setting at the top of that file."
)


def on_sphere(runs: Sequence[Run]) -> bool:
    """Whether the runs were trained at a fixed effective learning rate."""
    return all(run.config.get("fix_elr") for run in runs)


def label(run: Run, among: Sequence[Run]) -> str:
    """What tells this run from the others: its learning rate, weight decay, and so on."""
    symbols = {"wd": "λ", "model": "", "trial": "trial", "fix_si_pnorm_value": "ρ"}
    parts = [
        f"ELR = {run.config['elr']:g}" if on_sphere([run]) else f"η = {run.config['lr_init']:g}"
    ]
    for key, symbol in symbols.items():
        if len({other.config[key] for other in among}) > 1:
            value = run.config[key]
            parts.append(f"{symbol} = {value:g}" if symbol else str(value))
    return ", ".join(parts)


def curves(run: Run) -> dict[str, np.ndarray]:
    """The quantities of Figure 2 for one run, by name; what was not measured is left out."""
    train, si, test = (run.metrics(name) for name in ("train-tm", "train-tm-prebn", "test-em"))
    found = {}
    if "loss" in train:
        found["epochs"], found["train loss"] = train["report_epochs"], train["loss"]
    if "acc" in test:
        found["test epochs"], found["test error"] = test["report_epochs"], 100 * (1 - test["acc"])
    if "params_norm" in si:
        found["si epochs"], found["si norm"] = si["report_epochs"], si["params_norm"]
        found["effective lr"] = analysis.effective_lr(run.base_lr, si["params_norm"])
    if "gnorm_m" in si:
        found["effective gradient norm"] = analysis.effective_gradient_norm(
            si["gnorm_m"], si["params_norm"]
        )
    return found


def figure2(runs: Sequence[Run]) -> Figure:
    """P1, Figure 2: train loss, test error, SI norm ρ, and the phase diagram, a line a run."""
    figure, axes = plt.subplots(1, 4, figsize=(18, 4.2), layout="constrained")
    loss_axis, error_axis, norm_axis, phase_axis = axes
    for colour, run in zip(_colours(runs), runs, strict=True):
        found = curves(run)
        style = {"color": colour, "label": label(run, runs), "linewidth": 1.2}
        if "train loss" in found:
            loss_axis.plot(found["epochs"], found["train loss"], **style)
        if "test error" in found:
            error_axis.plot(found["test epochs"], found["test error"], **style)
        if "si norm" in found:
            norm_axis.plot(found["si epochs"], found["si norm"], **style)
        if "effective gradient norm" in found:
            x, y = found["effective lr"], found["effective gradient norm"]
            phase_axis.plot(x, y, color=colour, linewidth=0.8, alpha=0.8)
            phase_axis.plot(x[0], y[0], "o", color=colour, markeredgecolor="black", markersize=7)
    phase_axis.plot([], [], "o", color="white", markeredgecolor="black", label="start")
    _describe(loss_axis, "Train loss", "epoch", "cross-entropy", yscale="log")
    _describe(error_axis, "Test error", "epoch", "error, %")
    _describe(norm_axis, "Norm of the scale-invariant weights", "epoch", "ρ", yscale="log")
    _describe(
        phase_axis,
        "Phase diagram",
        "effective learning rate η̃ = η / ρ²",
        "mean effective gradient norm ρ‖g‖",
        xscale="log",
        yscale="log",
    )
    norm_axis.legend(fontsize=9)
    phase_axis.legend(fontsize=9)
    return figure


def regime(run: Run) -> analysis.Regime:
    """The regime of a run on the sphere, by its training loss and error."""
    train = run.metrics("train-tm")
    random_error = 1 - 1 / run.config["num_classes"]
    return analysis.find_regime(train["loss"], (1 - train["acc"]) / random_error)


def three_regimes(runs: Sequence[Run]) -> Figure:
    """P2, Figure 1: train loss, test error, gradient norm by epoch; gradient norm by loss."""
    figure, axes = plt.subplots(1, 4, figsize=(18, 4.2), layout="constrained")
    loss_axis, error_axis, gradient_axis, phase_axis = axes
    for colour, run in zip(_colours(runs), runs, strict=True):
        found = curves(run)
        style = {"color": colour, "label": label(run, runs), "linewidth": 1.2}
        x, y = found["train loss"], found["effective gradient norm"]
        loss_axis.plot(found["epochs"], x, **style)
        error_axis.plot(found["test epochs"], found["test error"], **style)
        gradient_axis.plot(found["si epochs"], y, **style)
        phase_axis.plot(x, y, color=colour, linewidth=0.8, alpha=0.8)
        phase_axis.plot(x[0], y[0], "o", color=colour, markeredgecolor="black", markersize=7)
    phase_axis.plot([], [], "o", color="white", markeredgecolor="black", label="start")
    gradient = "mean effective gradient norm ρ‖g‖"
    _describe(loss_axis, "Train loss", "epoch", "cross-entropy", yscale="log")
    _describe(error_axis, "Test error", "epoch", "error, %")
    _describe(gradient_axis, "Effective gradient norm", "epoch", gradient, yscale="log")
    _describe(phase_axis, "Gradient norm by loss", "train loss", gradient, "log", "log")
    phase_axis.legend(fontsize=9)
    handles, names = loss_axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


def regime_diagram(
    elrs: Sequence[float],
    regimes: Sequence[analysis.Regime],
    random_level: float | None = None,
    bound: float | None = None,
) -> Figure:
    """Final loss level and its spread (10th to 90th percentile) by ELR, the regimes marked.

    `random_level` is the loss of random guessing, `bound` the ELR above which no minimum is
    stable; both are drawn if they are known.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    floor = 1e-6 * max(r.level for r in regimes)  # a logarithmic axis has no 0
    markers = {"convergence": "o", "chaotic equilibrium": "s", "divergence": "^"}
    for (name, marker), colour in zip(markers.items(), COLOURS, strict=False):
        group = [(e, r) for e, r in zip(elrs, regimes, strict=True) if r.name == name]
        if not group:
            continue
        level = np.array([max(r.level, floor) for _, r in group])
        low = level - np.array([max(r.low, floor) for _, r in group])
        high = np.array([max(r.high, floor) for _, r in group]) - level
        spread = np.maximum([low, high], 0)
        axis.errorbar([e for e, _ in group], level, spread, fmt=marker, color=colour, label=name)
    if random_level is not None:
        axis.axhline(random_level, color="grey", linestyle="--", label="random guessing")
    if bound is not None:
        axis.axvline(bound, color="black", linestyle=":", label="linear stability bound")
    if any(r.level < floor for r in regimes):
        note = "lowest points: at or below this level"
        axis.text(0.02, 0.12, note, transform=axis.transAxes, fontsize=8)
    title = "Final loss by effective learning rate"
    _describe(axis, title, "effective learning rate", "loss, second half", "log", "log")
    axis.legend(fontsize=9)
    return figure


def diagram_of_runs(runs: Sequence[Run]) -> Figure:
    """The regime diagram of runs on the sphere."""
    return regime_diagram([run.config["elr"] for run in runs], [regime(run) for run in runs])


def diagram_of_toy(elrs: Sequence[float], alpha: Sequence[float] = (1, 2, 4)) -> Figure:
    """The regime diagram of the toy function: 10,000 steps from 256 random points at each ELR.

    The loss is the mean over the points: at large rates a single one wanders slowly.
    """
    random_level = toy.random_level(alpha)
    losses = [toy.descend(elr, 10_000, alpha, runs=256).mean(0) for elr in elrs]
    regimes = [analysis.find_regime(loss, loss / random_level) for loss in losses]
    return regime_diagram(elrs, regimes, random_level, toy.stability_bound(alpha))


def layers(run: Run) -> Figure:
    """Norm and effective learning rate of every SI weight tensor of one run, by epoch."""
    arrays = run.metrics("train-tm-prebn")
    names = [n.removesuffix("_norm") for n in arrays if n.endswith(".weight_norm")]
    figure, (norms, rates) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    shades = plt.colormaps["viridis"](np.linspace(0, 0.92, max(len(names), 1)))
    for shade, name in zip(shades, names, strict=False):
        norm = arrays[f"{name}_norm"]
        norms.plot(arrays["report_epochs"], norm, color=shade, label=name, linewidth=1.2)
        rate = analysis.effective_lr(run.base_lr, norm)
        rates.plot(arrays["report_epochs"], rate, color=shade, linewidth=1.2)
    title = label(run, [run])
    _describe(norms, f"Norm of each layer, {title}", "epoch", "norm of the layer", yscale="log")
    _describe(
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

    Runs with fewer than two jumps have no period and are left out of the first panel.
    """
    words = {"lr_init": "learning rate η", "wd": "weight decay λ"}
    other = "wd" if key == "lr_init" else "lr_init"
    figure, (periods, errors) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    values = sorted({run.config[other] for run in runs})
    found = False
    for colour, value in zip(_colours(values), values, strict=True):
        group = [run for run in runs if run.config[other] == value]
        rows = [summary_row(run) for run in group]
        x = [run.config[key] for run in group]
        style = {"color": colour, "marker": "o", "label": f"{words[other]} = {value:g}"}
        periods.plot(x, [row["mean period"] for row in rows], **style)
        errors.plot(x, [row["best test error"] for row in rows], **style)
        found = found or any(np.isfinite(row["mean period"]) for row in rows)
    if not found:
        periods.text(0.5, 0.5, "no run has two jumps", ha="center", transform=periods.transAxes)
    scale = "log" if found else "linear"
    _describe(periods, "Mean period", words[key], "epochs between jumps", "log", scale)
    _describe(errors, "Best test error", words[key], "error, %", "log")
    errors.legend(fontsize=9)
    return figure


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
        jumps = analysis.find_jumps(log["epoch"], log["train_loss"])
        axis.plot(log["epoch"], log["train_loss"], color=COLOURS[0], linewidth=1)
        for jump in jumps:
            axis.axvline(jump, color="grey", linestyle="--", linewidth=0.7)
        count = f"{len(jumps)} jump{'s' if len(jumps) != 1 else ''}"
        _describe(axis, f"{title}: {count}", "epoch", "train loss", yscale="log")
        axis.yaxis.label.set_color(COLOURS[0])
        norm = axis.twinx()
        norm.plot(log["epoch"], log["si_norm"], color=COLOURS[3], linewidth=0.9, alpha=0.8)
        norm.set_ylabel("norm ρ", color=COLOURS[3])
        if np.ptp(log["si_norm"]) < 1e-3 * log["si_norm"][0]:  # held: do not enlarge the rounding
            norm.set_ylim(0, 2 * log["si_norm"][0])
    return figure


def frequency(
    sweeps: Mapping[str, tuple[np.ndarray, np.ndarray]], fits: Mapping[str, analysis.PowerLaw]
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
    _describe(axis, "Frequency of periods", "ηλ", "periods an epoch", "log", "log")
    axis.legend(fontsize=9)
    return figure


def jump_trace(run: Run, delta: float, around: float = 6.0) -> Figure:
    """Loss and effective step η̃‖g̃‖ of every step, the δ-jump threshold; a jump enlarged."""
    trace, log = run.trace(), run.log()
    jumps = analysis.find_jumps(log["epoch"], log["train_loss"])
    step = analysis.effective_step(trace["lr"], trace["si_norm"], trace["gradient_norm"])
    threshold = analysis.jump_threshold(delta, run.config["lr_init"], run.config["wd"])
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
        _describe(loss_axis, title, "epoch", "loss of the batch", yscale="log")
        title = "" if column else "Effective step"
        _describe(step_axis, title, "epoch", "η̃ ‖g̃‖", yscale="log")
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
    _describe(axis, "Norm in chaotic equilibrium", "epoch", "norm", yscale="log")
    axis.legend(fontsize=9)
    return figure


def minima(found: Mapping[str, np.ndarray], jumps: np.ndarray, anchor: int) -> Figure:
    """Cosine with the anchor's weights, and test errors alone and as an ensemble (P1, claim 5).

    Parameters
    ----------
    found : arrays of `diversity.compare`, the independent run's among them.
    jumps : epochs of the run's jumps.
    anchor : epoch of the anchor checkpoint.
    """
    figure, (cosines, errors) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    epochs = found["report_epochs"]
    later = epochs > anchor
    cosines.plot(epochs, found["cosine"], color=COLOURS[0], label="later checkpoints")
    independent = np.mean(found["independent_cosine"])
    style = {"color": "black", "linestyle": ":"}
    cosines.axhline(independent, **style, label="independent network")
    errors.plot(epochs, 100 - 100 * found["acc"], color=COLOURS[1], label="alone")
    ensemble = 100 - 100 * found["ensemble_acc"]
    errors.plot(epochs[later], ensemble[later], color=COLOURS[2], label="ensemble with the anchor")
    level = 100 - 100 * np.median(found["independent_ensemble_acc"])
    words = "anchor with an independent network"
    errors.axhline(level, **style, label=words)
    for axis in (cosines, errors):
        for jump in jumps[jumps > anchor]:
            axis.axvline(jump, color="grey", linestyle="--", linewidth=0.6)
    title = f"Cosine with the weights of epoch {anchor}"
    _describe(cosines, title, "epoch", "cosine of the SI weights")
    _describe(errors, "Test error", "epoch", "error, %")
    errors.set_ylim(0, 3 * level + 5)
    for axis in (cosines, errors):
        axis.legend(fontsize=9)
    return figure


def improvement(errors: np.ndarray) -> Figure:
    """Test error of the minima of successive periods, (trials, periods) in %, NaN where none."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    number = 1 + np.arange(errors.shape[1])
    axis.plot(number, errors.T, "o-", color="grey", alpha=0.4, linewidth=0.8, markersize=4)
    axis.plot(
        number, np.nanmean(errors, axis=0), "o-", color=COLOURS[0], label="mean of the trials"
    )
    _describe(axis, "Minima of successive periods", "period", "test error, %")
    axis.set_xticks(number)
    axis.legend(fontsize=9)
    return figure


def sharpness(run: Run, epochs: np.ndarray, values: np.ndarray) -> Figure:
    """Training loss, sharpness on the sphere beside 2/η̃, and their ratio, by epoch."""
    log = run.log()
    jumps = analysis.find_jumps(log["epoch"], log["train_loss"])
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
    _describe(axes[0], "Train loss", "", "cross-entropy", yscale="log")
    title = "Leading Hessian eigenvalue on the unit sphere"
    _describe(axes[1], title, "", "sharpness", yscale="log")
    title = "Effective learning rate times sharpness"
    _describe(axes[2], title, "epoch", "η̃ · sharpness", yscale="log")
    axes[1].legend(fontsize=9)
    return figure


def second_regime(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Test errors of constant rates, of dropping the rate and of averaging weights, by ELR.

    `rows` are those of second_regime.py: "how", "elr" and "test error" in %.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    styles = zip(("constant", "drop", "average"), COLOURS, "os^", strict=False)
    for how, colour, marker in styles:
        x, y = ([row[key] for row in rows if row["how"] == how] for key in ("elr", "test error"))
        axis.plot(x, y, marker, color=colour, alpha=0.6, label=how)
    title = "Constant rates, and what the second regime gives"
    _describe(axis, title, "effective learning rate at first", "test error, %", "log")
    axis.legend(fontsize=9)
    return figure


def boundary(runs: Sequence[Run], rates: np.ndarray) -> Figure:
    """The regime diagram of runs on the sphere, with effective rates before jumps marked."""
    figure = diagram_of_runs(runs)
    axis = figure.axes[0]
    words = "η̃ before the jumps of ordinary training"
    height = np.full(len(rates), axis.get_ylim()[0] * 1.3)
    axis.plot(rates, height, "|", color="black", markersize=14, label=words)
    axis.legend(fontsize=9, loc="upper left")
    return figure


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


def varies(runs: Sequence[Run], key: str) -> bool:
    """Whether the runs differ in this option."""
    return len({run.config[key] for run in runs}) > 1


def periods_of(run: Run) -> analysis.Periods:
    """Jumps of a run's training loss: from its log, where there is one, which has every epoch."""
    log = run.log()
    if log:
        return analysis.find_periods(log["epoch"], log["train_loss"])
    found = curves(run)
    return analysis.find_periods(found.get("epochs", []), found.get("train loss", []))


def summary_row(run: Run) -> dict[str, float]:
    """One run in a few numbers: its rates, jumps, mean period (epochs), best test error (%)."""
    found, periods = curves(run), periods_of(run)
    errors = found.get("test error", np.array([np.nan]))
    return {
        "lr": run.config["lr_init"],
        "wd": run.config["wd"],
        "jumps": len(periods.jumps),
        "mean period": periods.mean,
        "best test error": float(np.nanmin(errors)) if np.isfinite(errors).any() else np.nan,
    }


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
    for low in analysis.Periods(np.append(jumps, np.inf)).minima([*loss], [*loss.values()]):
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


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    write_atomically(path, buffer.getvalue())
    plt.close(figure)


def report(folder: Path) -> None:
    """Save the figures of the runs below a folder, print their table; of one run its periods."""
    runs = find_runs(folder)
    if not runs:
        raise UserError(NO_RUNS.format(root=folder))
    figures = {"figure2.png": figure2}
    if on_sphere(runs):
        figures = {"three_regimes.png": three_regimes, "regime_diagram.png": diagram_of_runs}
    for name, draw in figures.items():
        save(draw(runs), folder / name)
    if len(runs) == 1 and not on_sphere(runs):
        print(f"\n{period_table(runs[0])}")
    print(f"\n{table(runs)}\n\nfigure: " + ", ".join(str(folder / name) for name in figures))


def _colours(items: Sequence) -> list[str]:
    """A colour for each item: fixed ones for a few, a perceptually even scale for many."""
    if len(items) <= len(COLOURS):
        return list(COLOURS[: len(items)])
    return list(plt.colormaps["viridis"](np.linspace(0, 0.95, len(items))))


def _describe(axis: Axes, title: str, x: str, y: str, xscale="linear", yscale="linear") -> None:
    axis.set(title=title, xlabel=x, ylabel=y, xscale=xscale, yscale=yscale)
    axis.grid(alpha=0.3)


if __name__ == "__main__":
    with user_errors("plots.py"):
        plt.switch_backend("agg")
        report(Path(sys.argv[1] if len(sys.argv) > 1 else "Experiments"))
