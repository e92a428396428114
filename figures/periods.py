"""What happens in the periods of single runs."""

import operator
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS, colours, describe
from runs import Run
from theory.periods import find_periods

TITLE = 32  # letters that fit above a panel
PHASES = {"A": COLOURS[3], "B": COLOURS[5], "C": COLOURS[7]}


def loss_panels(
    named: Mapping[str, Run], said: Callable[[Run], str] = operator.attrgetter("behaviour")
) -> Figure:
    """Training loss above the norm ρ by epoch, a column for each run; triangles: ρ turns.

    Above it the run's name, and what is `said` of it.
    """
    rows = -(-len(named) // 4)
    columns = -(-len(named) // rows)
    size = (3 * columns + 0.6, 4.4 * rows)
    figure, axes = plt.subplots(
        2 * rows, columns, figsize=size, layout="constrained", squeeze=False
    )
    loss_axes, norm_axes = axes[0::2].ravel(), axes[1::2].ravel()
    for axis in (*loss_axes[len(named) :], *norm_axes[len(named) :]):
        axis.set_visible(False)
    panels = zip(named.items(), colours(named), loss_axes, norm_axes, strict=False)
    for (title, run), colour, loss_axis, norm_axis in panels:
        recorded, turns = run.history, run.periods.turns
        rho = recorded["si_norm"].values if "si_norm" in recorded else np.array([np.nan])
        loss_axis.sharey(loss_axes[0])
        norm_axis.sharex(loss_axis)
        if "train_loss" in recorded:
            loss_axis.plot(*recorded["train_loss"], color=colour, linewidth=1.3)
        if "si_norm" in recorded:
            norm_axis.plot(*recorded["si_norm"], color=colour, linewidth=1.6)
        top = loss_axis.get_xaxis_transform()
        loss_axis.plot(turns, [0.97] * len(turns), "v", color="grey", ms=4, transform=top)
        left = loss_axis in axes[:, 0]
        words = ("train loss", "norm ρ") if left else ("", "")
        above = f"{title}: {said(run)}"
        if len(above) > TITLE:
            parts = (f"{title}:", said(run))
            above = "\n".join(textwrap.fill(part, TITLE, break_on_hyphens=False) for part in parts)
        describe(loss_axis, above, "", words[0], yscale="log")
        describe(norm_axis, "", "epoch", words[1], yscale="log")
        loss_axis.tick_params(labelbottom=False, labelleft=left)
        if np.ptp(rho) < 0.1 * rho[0]:  # held, or as good as: do not enlarge it
            norm_axis.set_ylim(rho[0] / 2, rho[0] * 2)
    return figure


def one_period(runs: Sequence[Run]) -> Figure | None:
    """A period of the first run of plain SGD that was traced: loss, ρ, the two forces on ρ, and the
    phases A, B, C.

    Weight decay shrinks ρ by ηλρ a step, and the gradient enlarges it by η²‖g‖²/(2ρ), which is
    η²‖g̃‖²/(2ρ³) for the effective gradient g̃ = ρg (P1, section 3); means over 4 steps. The period
    is the one in which ρ rises most. None where no such run was traced, or it has no period.
    """
    for run in runs:
        trace = run.trace()
        if trace and run.config["optimizer"] == "sgd" and not run.config["momentum"]:
            break
    else:
        return None
    found = find_periods(trace["epoch"], trace["loss"], trace["si_norm"]).cycles
    if not found:
        return None
    period = max(found, key=lambda p: p.rho_end / p.rho_turn)
    lr, wd = run.base_lr, run.config["wd"]
    forces = {
        "decay": lr * wd * trace["si_norm"],
        "growth": (lr * trace["gradient_norm"]) ** 2 / (2 * trace["si_norm"]),
    }
    decay, growth = (np.convolve(f, np.full(4, 1 / 4), mode="same") for f in forces.values())
    margin = 0.1 * (period.end - period.start)
    shown = (
        (period.start - margin, period.end + 2 * margin),
        (period.turn - 3 / run.steps_per_epoch, period.end + 3 / run.steps_per_epoch),  # C and A
    )
    spans = (
        ("B", period.start, period.turn),
        ("C", period.turn, period.high),
        ("A", period.high, period.end),
    )
    figure, axes = plt.subplots(
        3, 2, figsize=(11, 8), layout="constrained", sharex="col", sharey="row",
        width_ratios=(3, 1),
    )  # fmt: skip
    for column, (first, last) in zip(axes.T, shown, strict=True):
        steps = (trace["epoch"] >= first) & (trace["epoch"] <= last)
        time, rho = trace["epoch"][steps], trace["si_norm"][steps]
        column[0].plot(time, trace["loss"][steps], color=COLOURS[0])
        column[1].plot(time, rho, color=COLOURS[3])
        column[2].plot(time, decay[steps], color=COLOURS[5], label="ηλρ: weight decay shrinks ρ")
        column[2].plot(
            time, growth[steps], color=COLOURS[3], label="η²‖g̃‖²/(2ρ³): the gradient enlarges ρ"
        )
        for axis in column:
            for name, begin, end in spans:
                axis.axvspan(
                    max(begin, first), min(end, last), color=PHASES[name], alpha=0.15, linewidth=0
                )
    for column, named in ((axes[:, 0], spans[:1]), (axes[:, 1], spans[1:])):
        for name, begin, end in named:
            at = ((begin + end) / 2, 1.02)
            column[0].annotate(name, at, xycoords=("data", "axes fraction"), ha="center", size=12)
    arrow = {"arrowstyle": "->", "linewidth": 1.5}
    middle, low = (period.start + period.turn) / 2, period.rho_turn
    for axis, words, x, rise in (
        (axes[1, 0], "weight decay", middle, low - period.rho_start),
        (axes[1, 1], "gradients", 0.7 * period.turn + 0.3 * period.high, period.rho_end - low),
    ):
        begin, end = (low + share * abs(rise) for share in ((0.8, 0.2), (0.2, 0.9))[rise > 0])
        axis.annotate(words, (x, end), (x, begin), ha="center", arrowprops=arrow)
    describe(axes[0, 0], "", "", "loss of the batch", yscale="log")
    describe(axes[1, 0], "", "", "norm ρ")
    describe(axes[2, 0], "", "epoch", "change of ρ in a step", yscale="log")
    for axis in axes[:, 1]:
        axis.grid(alpha=0.3)
    axes[2, 1].set_xlabel("epoch: C and A")
    axes[2, 0].legend(fontsize=9)
    words = "B weight decay dominates, C destabilisation, A gradients dominate"
    figure.suptitle(f"One period of {'/'.join(run.folder.parts[-2:])}: {words}")
    return figure
