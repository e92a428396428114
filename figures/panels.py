"""Single runs: loss above ρ in panels, the layers of one run, and one period step by step."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.curves import draw_seeds
from figures.labels import label, lines_of
from figures.style import COLOURS, describe, name_below, shades
from runs import Run
from theory.dynamics import effective_lr, norm_power
from theory.periods import find_periods
from utils import plural

TITLE = 34  # letters that fit above a panel
PHASES = {"A": COLOURS[3], "B": COLOURS[5], "C": COLOURS[7]}


def panels(runs: Sequence[Run]) -> Figure:
    """Training loss above the norm ρ by epoch, a column of two panels for each setting, titled with
    its periods or regime. Of several seeds the first is darkest. Triangles mark each turn of ρ, and
    the minimum of the loss before it."""
    lines, note = lines_of(runs)
    rows = -(-len(lines) // 4)
    columns = -(-len(lines) // rows)
    figure, axes = plt.subplots(
        2 * rows, columns, figsize=(3 * columns + 0.6, 4.2 * rows), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    loss_axes, norm_axes = axes[0::2].ravel(), axes[1::2].ravel()
    for axis in (*loss_axes[len(lines) :], *norm_axes[len(lines) :]):
        axis.set_visible(False)
    drawn = list(zip(lines, loss_axes, norm_axes, strict=False))
    for line, loss_axis, norm_axis in drawn:
        loss_axis.sharey(loss_axes[0])
        norm_axis.sharex(loss_axis)
        for run in reversed(line.runs):
            style = {"linewidth": 0.8, "alpha": 0.35}
            if run is line.runs[0]:
                style = {"linewidth": 1.3}
            for axis, name in ((loss_axis, "train_loss"), (norm_axis, "si_norm")):
                if name in run.history:
                    draw_seeds(axis, [run.history[name]], line.colour, "log", **style)
            mark_periods(run, line.colour, loss_axis, norm_axis)
    for line, loss_axis, norm_axis in drawn:
        left = loss_axis in axes[:, 0]
        title = _above(line.label, _behaviour(line.runs))
        describe(loss_axis, title, "", "train loss" if left else "", yscale="log")
        loss_axis.title.set_fontsize(10)
        describe(norm_axis, "", "epoch", "norm ρ" if left else "", yscale="log")
        loss_axis.tick_params(labelbottom=False, labelleft=left)
    if note:
        figure.suptitle(note)
    return figure


def _behaviour(runs: Sequence[Run]) -> str:
    """What the runs of a setting do; "3 to 5 periods" if all have periods."""
    counts = [len(run.periods) for run in runs]
    if len(runs) == 1 or min(counts) == 0:
        return "; ".join(dict.fromkeys(run.behaviour for run in runs))
    most = plural(max(counts), "period")
    return most if min(counts) == max(counts) else f"{min(counts)} to {most}"


def _above(title: str, what: str) -> str:
    """A title wrapped to the width of a panel."""
    if len(f"{title}: {what}") <= TITLE:
        return f"{title}: {what}"
    parts = (textwrap.fill(part, TITLE, break_on_hyphens=False) for part in (f"{title}:", what))
    return "\n".join(parts)


def mark_periods(
    run: Run, colour: str, loss_axis: Axes, norm_axis: Axes | None = None, size: float = 5
) -> None:
    """Draw triangles where ρ turns, and at the lowest loss before each turn."""
    mark = {"marker": "v", "linestyle": "", "color": colour, "markeredgecolor": "black",
            "markersize": size, "markeredgewidth": size / 6, "zorder": 3}  # fmt: skip
    if len(run.periods):
        each = run.periods.each
        loss_axis.plot(each("low"), each("loss_low"), **mark)
        if norm_axis:
            norm_axis.plot(each("turn"), each("rho_turn"), **mark)


def layers(run: Run, title: str | None = None) -> Figure | None:
    """Norm and effective learning rate of every SI weight tensor of one run, by epoch; None if they
    were not measured."""
    arrays = run.metrics("train-tm-prebn")
    names = [name.removesuffix("_norm") for name in arrays if name.endswith(".weight_norm")]
    if not names:
        return None
    figure, (norms, rates) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    epochs = arrays["report_epochs"]
    for shade, name in zip(shades(names), names, strict=True):
        norm = arrays[f"{name}_norm"]
        norms.plot(epochs, norm, color=shade, linewidth=1.2)
        rate = effective_lr(run.lr_at(epochs), norm, run.optimizer)
        rates.plot(epochs, rate, color=shade, linewidth=1.2)
    title = title or label(run, [run])
    describe(norms, f"Norm of each layer, {title}", "epoch", "norm of the layer", yscale="log")
    above = f"Effective learning rate of each layer, {title}"
    power = "²" if norm_power(run.optimizer) == 2 else ""
    describe(rates, above, "epoch", f"η / (norm of the layer){power}", yscale="log")
    name_below(figure, dict(zip(names, norms.lines, strict=True)))
    return figure


def one_period(runs: Sequence[Run]) -> Figure | None:
    """The period in which ρ rises most, of the first run of plain SGD that was traced: loss, ρ, the
    two forces on ρ, and the phases A, B, C, of which C and A are enlarged in the right column.

    Weight decay shrinks ρ by ηλρ a step, and the gradient enlarges it by η²‖g‖²/(2ρ), which is
    η²‖g̃‖²/(2ρ³) for the effective gradient g̃ = ρg (P1, section 3); means over 4 steps. None where
    no such run was traced, or it has no period.
    """
    for run in runs:
        trace = run.trace()
        if trace and run.config["optimizer"] == "sgd" and not run.config["momentum"]:
            break
    else:
        return None
    time, rho = trace["epoch"], trace["si_norm"]
    cycles = find_periods(time, trace["loss"], rho).cycles
    if not cycles:
        return None
    period = max(cycles, key=lambda cycle: cycle.rho_end / cycle.rho_turn)
    lr = trace.get("lr", run.base_lr)
    forces = lr * run.config["wd"] * rho, (lr * trace["gradient_norm"]) ** 2 / (2 * rho)
    decay, growth = (np.convolve(force, np.full(4, 1 / 4), mode="same") for force in forces)
    margin, few_steps = 0.1 * (period.end - period.start), 3 / run.steps_per_epoch
    windows = (
        (period.start - margin, period.end + 2 * margin),
        (period.turn - few_steps, period.end + few_steps),
    )
    bounds = (period.start, period.turn, period.high, period.end)
    figure, axes = plt.subplots(
        3, 2, figsize=(11, 8), layout="constrained", sharex="col", sharey="row",
        width_ratios=(3, 1),
    )  # fmt: skip
    for column, letters, (first, last) in zip(axes.T, ("B", "CA"), windows, strict=True):
        at = (time >= first) & (time <= last)
        curves = ((0, trace["loss"], 0), (1, rho, 3), (2, decay, 5), (2, growth, 3))
        for row, values, colour in curves:
            column[row].plot(time[at], values[at], color=COLOURS[colour])
        for name, begin, end in zip("BCA", bounds, bounds[1:], strict=False):
            inside = max(begin, first), min(end, last)
            for axis in column:
                axis.axvspan(*inside, color=PHASES[name], alpha=0.15, lw=0)
            if name in letters:
                place = {"xycoords": ("data", "axes fraction"), "ha": "center", "size": 12}
                column[0].annotate(name, ((begin + end) / 2, 1.02), **place)
    rows = (("loss of the batch", "log"), ("norm ρ", "linear"), ("change of ρ in a step", "log"))
    for (left, right), (y, scale) in zip(axes, rows, strict=True):
        describe(left, "", "", y, yscale=scale)
        right.grid(alpha=0.3)
    axes[2, 0].set_xlabel("epoch")
    axes[2, 1].set_xlabel("epoch: C and A")
    words = ("ηλρ: weight decay shrinks ρ", "η²‖g̃‖²/(2ρ³): the gradient enlarges ρ")
    name_below(figure, dict(zip(words, axes[2, 0].lines, strict=True)))
    words = "B weight decay dominates, C destabilisation, A gradients dominate"
    figure.suptitle(f"One period of {'/'.join(run.folder.parts[-2:])}: {words}")
    return figure
