"""What happens in the periods of single runs."""

import operator
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
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


def frequency(sweeps: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Frequency of periods against ηλ, log-log (P1, claim 3), a thin line for each seed.

    Parameters
    ----------
    sweeps : what was varied -> "points", a run each with "trial", "rate_times_decay" and
        "frequency" (periods an epoch), the "exponents" of the seeds, "interval_95" of their mean.
    """
    figure, axis = plt.subplots(figsize=(6.5, 5.6), layout="constrained")
    for (name, found), colour, marker in zip(sweeps.items(), COLOURS, "os^", strict=False):
        trial, x, y = (
            np.array([point[key] for point in found["points"]])
            for key in ("trial", "rate_times_decay", "frequency")
        )
        slope, (low, high) = np.mean(found["exponents"]), found["interval_95"]
        words = f"{name}: exponent {slope:.2f} [{low:.2f}, {high:.2f}]"
        axis.plot(x, y, marker, color=colour, alpha=0.6, markersize=6, label=words)
        middle = np.nanmean(np.log(y) - slope * np.log(x))
        ends = np.array([np.min(x), np.max(x)])
        axis.plot(ends, np.exp(middle) * ends**slope, color=colour, linewidth=1.5)
        worst = int(np.argmax(np.abs(np.array(found["exponents"]) - 1)))
        for i, seed in enumerate(np.unique(trial)):
            own = {"linestyle": "--", "label": f"trial {seed} (worst): {found['exponents'][i]:.2f}"}
            at = np.flatnonzero(trial == seed)[np.argsort(x[trial == seed])]
            axis.plot(x[at], y[at], color=colour, linewidth=0.7, **(own if i == worst else {}))
    describe(axis, "Frequency of periods", "ηλ", "periods an epoch", "log", "log")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def length_ratios(
    runs: Sequence[Run], ratios: Callable[[Run], np.ndarray], limits: tuple[float, float]
) -> Figure:
    """Length of phase B over the shortest that weight decay allows, of every period, by ηλ.

    The seeds are side by side, each with its colour.
    """
    figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    trials = sorted({run.config["trial"] for run in runs})
    for number, (trial, colour) in enumerate(zip(trials, colours(trials), strict=True)):
        aside = 1.03 ** (number - (len(trials) - 1) / 2)
        own = [run for run in runs if run.config["trial"] == trial]
        found = [*map(ratios, own)]
        rates = (aside * run.config["lr_init"] * run.config["wd"] for run in own)
        x = np.repeat([*rates], [*map(len, found)])
        style = {"color": colour, "alpha": 0.5, "markersize": 4}
        axis.plot(x, np.concatenate(found), "o", label=f"trial {trial}", **style)
    axis.axhspan(*limits, color=COLOURS[2], alpha=0.15, label="the rule's limits")
    axis.axhline(1, color="black", linewidth=0.8, label="weight decay alone")
    axis.legend(fontsize=9)
    words = "steps of phase B · ηλ / ln(ρ_high / ρ_low)"
    describe(axis, "Length of phase B without a fit", "ηλ", words, "log")
    return figure


def branches(rows: Sequence[Mapping], kinds: Mapping[str, str], within: float = 1) -> Figure:
    """How long kinds of branches take to destabilise; those that do not are at the top.

    Parameters
    ----------
    rows : branches of each kind: the epoch that they start "from", the "epochs" of their phase B,
        and under each of `kinds` the epoch at which the branch destabilises, or infinity.
    kinds : what they are called in the figure; three at most.
    within : phases B for which they are followed.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    looks = ((COLOURS[0], "o", 1.1), (COLOURS[3], "s", 1.2), (COLOURS[2], "^", 1.25))
    for (key, words), (colour, marker, never) in zip(kinds.items(), looks, strict=False):
        took = np.array([(row[key] - row["from"]) / row["epochs"] for row in rows])
        took = np.where(np.isfinite(took), took, never * within)
        axis.plot(np.arange(len(rows)), took, marker, color=colour, alpha=0.7, label=words)
    axis.axhline(1.05 * within, color="grey", linewidth=0.8)
    axis.text(0, 1.04 * within, "above: not in the time followed", fontsize=8, va="top")
    axis.set_ylim(0, 1.3 * within)
    describe(axis, "Branches in phase B", "branch", "time until C / time of phase B")
    figure.legend(loc="outside lower center", ncols=len(kinds), fontsize=9)
    return figure


def consistency(rows: Sequence[Mapping]) -> Figure:
    """Lengths of successive periods, and ρ at their beginnings and turns, a colour for each seed.

    `rows` have "lengths", "rho_high" and "rho_low" by period, and whether the rule "holds": solid.
    """
    figure, (lengths, norms) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for colour, row in zip(colours(rows), rows, strict=True):
        style = {"color": colour, "linestyle": "-" if row["holds"] else ":", "markersize": 4}
        for axis, key, marker in (
            (lengths, "lengths", "o"), (norms, "rho_high", "v"), (norms, "rho_low", "^"),
        ):  # fmt: skip
            axis.plot(1 + np.arange(len(row[key])), row[key], marker=marker, **style)
        lengths.plot([], [], color=colour, label=row["run"].rsplit("/", 1)[-1].replace("_", " "))
    describe(lengths, "Lengths of periods", "period", "epochs")
    describe(norms, "ρ where it begins to fall, and where it turns", "period", "norm ρ")
    norms.plot([], [], "k:", label="with a trend, or outside theory")
    figure.legend(loc="outside lower center", fontsize=9, ncols=len(rows) + 1)
    return figure


def destabilisation(rows: Sequence[Mapping]) -> Figure:
    """Whether branches with a larger rate have a δ-jump, by η̃, and the two bounds of theory."""
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    elr, jumped = (np.array([row[key] for row in rows], dtype=float) for key in ("elr", "jumped"))
    edges = np.quantile(elr, np.linspace(0, 1, 6))
    place = np.clip(np.searchsorted(edges, elr, side="right") - 1, 0, 4)
    groups = [place == i for i in range(5) if (place == i).any()]
    x = [np.exp(np.log(elr[group]).mean()) for group in groups]
    shares = [jumped[group].mean() for group in groups]
    axis.plot(x, shares, "o-", color=COLOURS[0], label="share, fifths of the branches")
    axis.plot(elr, jumped, "|", color="grey", markersize=8, label="branches")
    for key, colour in (("possible", COLOURS[2]), ("guaranteed", COLOURS[3])):
        values = [row[key] for row in rows]
        axis.axvspan(min(values), max(values), color=colour, alpha=0.25)
        axis.axvline(np.median(values), color=colour, label=f"{key}: median, range of the seeds")
    words = "effective learning rate η̃ at the branch"
    describe(axis, "Destabilisation late in phase B", words, "share with a δ-jump", "log")
    axis.legend(fontsize=9)
    return figure


def forecast(rows: Sequence[Mapping], close: float) -> Figure:
    """The norm in chaos against its forecast from the sphere, and what is `close` to that.

    The run that is farthest from it is named.
    """
    figure, axis = plt.subplots(figsize=(5.2, 4.4), layout="constrained")
    worst = max(rows, key=lambda row: abs(row["ratio"] - 1))
    _name(axis, worst["run"], worst["forecast"], worst["norm"])
    every = [row[key] for row in rows for key in ("forecast", "norm")]
    ends = np.array([min(every), max(every)])
    axis.plot(ends, ends, color="black", linewidth=0.8)
    band = {"color": COLOURS[2], "alpha": 0.15}
    words = f"within {100 * close:g} %"
    axis.fill_between(ends, (1 - close) * ends, (1 + close) * ends, label=words, **band)
    products = sorted({row["rate_times_decay"] for row in rows})
    for product, colour, marker in zip(products, colours(products), "os^vDP", strict=False):
        x, y = ([row[key] for row in rows if row["rate_times_decay"] == product]
                for key in ("forecast", "norm"))  # fmt: skip
        axis.plot(x, y, marker, color=colour, alpha=0.7, label=f"ηλ = {product:g}")
    describe(axis, "Norm in chaos", "forecast ρ* from the sphere", "median norm ρ")
    axis.legend(fontsize=9)
    return figure


def same_rate(rows: Sequence[Mapping], factor: float, runs: Sequence[Run]) -> Figure:
    """Loss and effective gradient of ordinary chaos over those on the sphere at the same η̃.

    Beside it loss and ρ of these `runs`, a colour for each ηλ; the farthest run is named.
    """
    figure, (axis, loss_axis, norm_axis) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    products = sorted({run.config["lr_init"] * run.config["wd"] for run in runs})
    for product, colour in zip(products, colours(products), strict=True):
        for run in (r for r in runs if r.config["lr_init"] * r.config["wd"] == product):
            style = {"color": colour, "linewidth": 0.8, "alpha": 0.7}
            loss_axis.plot(*run.history["train_loss"], **style)
            norm_axis.plot(*run.history["si_norm"], **style)
        norm_axis.plot([], [], color=colour, label=f"ηλ = {product:.3g}")
    describe(loss_axis, "Its lines, all trials", "epoch", "train loss", yscale="log")
    describe(norm_axis, "", "epoch", "norm ρ", yscale="log")
    norm_axis.legend(fontsize=9)
    kind = max(("loss", "gradient"), key=lambda k: max(abs(np.log(row[k])) for row in rows))
    worst = max(rows, key=lambda row: abs(np.log(row[kind])))
    _name(axis, worst["run"], worst["elr"], worst[kind])
    for key, colour, marker in (("loss", COLOURS[0], "o"), ("gradient", COLOURS[3], "s")):
        x, y = ([row[name] for row in rows] for name in ("elr", key))
        axis.plot(x, y, marker, color=colour, alpha=0.7, label=key)
    band = {"color": COLOURS[2], "alpha": 0.15}
    axis.axhspan(1 / factor, factor, label=f"within a factor {factor:g}", **band)
    words = "over the sphere's at the same rate"
    describe(axis, "Chaos in ordinary training", "effective learning rate η̃, median", words)
    axis.legend(fontsize=9)
    return figure


def _name(axis: Axes, run: str, x: float, y: float) -> None:
    """Say at a point that it is the worst, and of which trial."""
    words = f"worst: {run.rsplit('/', 1)[-1].replace('_', ' ')}"
    style = {"textcoords": "offset points", "fontsize": 8, "arrowprops": {"arrowstyle": "-"}}
    axis.annotate(words, (x, y), (8, 14), **style)


def angles(lines: Mapping[str, Sequence[Run]]) -> Figure:
    """RMS angle of the steps of each epoch beside the angle in equilibrium.

    A panel for each of the lines, by its title, and a colour for each of its trials.
    """
    figure, axes = plt.subplots(
        1, len(lines), figsize=(4.5 * len(lines), 3.6), layout="constrained", squeeze=False
    )
    for axis, (title, trials) in zip(axes[0], lines.items(), strict=True):
        for colour, run in zip(colours(trials), trials, strict=True):
            trace, words = run.trace(), f"trial {run.config['trial']}"
            epochs, square = (
                values.reshape(-1, run.steps_per_epoch)
                for values in (trace["epoch"], 2 * trace["one_minus_cosine"])
            )
            angle = np.sqrt(square.mean(axis=1))
            axis.plot(epochs[:, -1], angle, color=colour, linewidth=1, label=words)
        theory = trials[0].equilibrium_angle
        axis.axhline(theory, color="black", linestyle="--", linewidth=1, label="theory")
        describe(axis, title, "epoch", "angle of a step, RMS of an epoch", yscale="log")
        axis.legend(fontsize=8)
    return figure
