"""What depends on the learning rate: figures of P2, and of P1 with several norms or rates."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.labels import label
from figures.metrics import find_array
from figures.style import COLOURS, describe, name_below, shades
from runs import Run
from theory.dynamics import effective_lr

ELR = "effective learning rate η̃"


def loss_and_error(runs: Sequence[Run]) -> Figure:
    """Train loss of every epoch and test error, a row for each network (P1, Figure 1).

    Triangles mark the epochs at which ρ turns.
    """
    models = list(dict.fromkeys(run.config["model"] for run in runs))
    size = (10, 3.6 * len(models) + 0.6)
    figure, rows = plt.subplots(len(models), 2, figsize=size, layout="constrained", squeeze=False)
    handles, names = [], []
    for model, (loss_axis, error_axis) in zip(models, rows, strict=True):
        among = [run for run in runs if run.config["model"] == model]
        for colour, run in zip(shades(among), among, strict=True):
            style = {"color": colour, "linewidth": 1}
            (handle,) = loss_axis.plot(*run.history["train_loss"], **style)
            error_axis.plot(*run.curves["test_error"], **style)
            if len(run.periods):
                loss_axis.plot(
                    run.periods.each("low"), run.periods.each("loss_low"), "v",
                    color=colour, markeredgecolor="black", markersize=5,
                )  # fmt: skip
            handles.append(handle)
            names.append((f"{model}: " if len(models) > 1 else "") + label(run, among))
        title = model if len(models) > 1 else ""
        describe(loss_axis, f"{title} Train loss".strip(), "epoch", "cross-entropy", yscale="log")
        describe(error_axis, f"{title} Test error".strip(), "epoch", "error, %")
    name_below(figure, handles, names)
    return figure


def sharpness_by_rate(runs: Sequence[Run]) -> Figure:
    """Gradient, sharpness and test error at the end of runs on the sphere, by rate (P2).

    Effective gradient norm, trace of the Fisher matrix on the unit sphere times the rate, leading
    Hessian eigenvalue there times the rate (descent is stable below 2), and test error. Points are
    runs, lines connect the means of the runs that converge; open points did not. The trace and
    the eigenvalue must have been measured (`test.py --train_mode --prebn_only --fisher_trace
    --sharpness`); a run without is left out of these panels.
    """
    figure, axes = plt.subplots(1, 4, figsize=(17, 4.2), layout="constrained", sharex=True)
    converged = [run for run in runs if run.regime.name == "convergence"]
    titles = {
        "Effective gradient norm": ("mean effective gradient norm ρ‖g‖", _gradient),
        "Fisher trace × rate": ("η̃ × trace on the unit sphere", _fisher),
        "Leading Hessian eigenvalue × rate": ("η̃ × eigenvalue on the unit sphere", _hessian),
        "Test error": ("error, %", lambda run: run.curves["test_error"].values[-1]),
    }
    for axis, colour, (title, (y, value)) in zip(axes, COLOURS, titles.items(), strict=False):
        points = [(run.config["elr"], value(run), run in converged) for run in runs]
        points = np.array([p for p in points if p[1] is not None], dtype=float).reshape(-1, 3)
        for kind, fill in ((1, colour), (0, "white")):
            group = points[points[:, 2] == kind]
            axis.plot(group[:, 0], group[:, 1], "o", color=colour, markerfacecolor=fill)
        means = {rate: points[(points[:, 0] == rate) & (points[:, 2] == 1), 1].mean()
                 for rate in sorted(set(points[points[:, 2] == 1, 0]))}  # fmt: skip
        axis.plot(list(means), list(means.values()), color=colour, linewidth=1)
        describe(axis, title, ELR, y, "log", "log")
    axes[2].axhline(2, color="black", linestyle="--", linewidth=0.8)
    handles = [plt.Line2D([], [], marker="o", color="grey", markerfacecolor=fill, linestyle=line)
               for fill, line in (("grey", "-"), ("white", ""))]  # fmt: skip
    handles.append(plt.Line2D([], [], color="black", linestyle="--"))
    name_below(figure, handles, ["converged", "did not converge", "linear stability: 2"])
    return figure


def _gradient(run: Run) -> float:
    return run.curves["effective_gradient_norm"].values[-1]


def _hessian(run: Run) -> float | None:
    found = find_array(run, "sharpness")
    return None if found is None else run.config["elr"] * _last(found[2])


def _fisher(run: Run) -> float | None:
    arrays = run.metrics("train-tm-prebn")
    if "fisher_trace" not in arrays:
        return None
    trace = arrays["fisher_trace"] * arrays["params_numel"] * arrays["params_norm"] ** 2
    return run.config["elr"] * _last(trace)


def _last(values: np.ndarray) -> float:
    """The last value that was measured."""
    return values[np.isfinite(values)][-1]


def conventional(runs: Sequence[Run], boundaries: Sequence[tuple[float, float]] = ()) -> Figure:
    """Ordinary training by initial rate: final loss and error, and the course of η̃ (P2).

    Runs with weight decay at a constant rate or with a schedule, with and without momentum μ,
    which counts as a rate of η / (1 - μ). `boundaries` are the intervals of η̃ in which a regime
    on the sphere ends; they are shaded.
    """
    kinds: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (_cosine(run), _momentum(run))):
        kinds.setdefault(_kind(run), []).append(run)
    rates = sorted({run.base_lr for run in runs})
    columns = len(kinds)
    figure = plt.figure(figsize=(3.5 * max(columns, 2), 7), layout="constrained")
    grid = figure.add_gridspec(2, 2 * columns)
    loss_axis = figure.add_subplot(grid[0, :columns])
    error_axis = figure.add_subplot(grid[0, columns:])
    shared: Axes | None = None
    for i, (colour, marker, (kind, group)) in enumerate(
        zip(COLOURS, "osD^v*", kinds.items(), strict=False)
    ):
        group = sorted(group, key=lambda run: run.base_lr)
        style = {"color": colour, "marker": marker, "label": kind}
        x = [run.base_lr for run in group]
        loss_axis.plot(x, [run.curves["train_loss"].values[-1] for run in group], **style)
        error_axis.plot(x, [run.curves["test_error"].values[-1] for run in group], **style)
        axis = figure.add_subplot(grid[1, 2 * i : 2 * i + 2], sharey=shared)
        shared = shared or axis
        for run in group:
            epochs, si_norm = run.history["si_norm"]
            rate = effective_lr(run.lr_at(epochs), si_norm, run.optimizer) / (1 - _momentum(run))
            shade = shades(rates)[rates.index(run.base_lr)]
            axis.plot(epochs, np.where(rate > 0, rate, np.nan), color=shade, linewidth=1.2)
        for low, high in boundaries:
            axis.axhspan(low, high, color="grey", alpha=0.3, linewidth=0)
        describe(axis, kind, "epoch", "" if i else ELR, yscale="log")
    describe(loss_axis, "Final train loss", "initial rate η", "cross-entropy", "log", "log")
    describe(error_axis, "Final test error", "initial rate η", "error, %", "log")
    handles, names = loss_axis.get_legend_handles_labels()
    for rate, shade in zip(rates, shades(rates), strict=True):
        handles.append(plt.Line2D([], [], color=shade))
        names.append(f"η = {rate:g}")
    if boundaries:
        handles.append(plt.Line2D([], [], color="grey", alpha=0.3))
        names.append("a regime of the sphere ends")
    name_below(figure, handles, names)
    return figure


def applicable(runs: Sequence[Run]) -> dict[str, Callable[[Sequence[Run]], Figure]]:
    """The figures of this module that say something about these runs, by file name."""
    by_rate = len({run.base_lr for run in runs}) > 1

    def varies(key: str) -> bool:
        return len({run.config.get(key) for run in runs}) > 1

    def have(name: str) -> list[bool]:
        return [find_array(run, name) is not None for run in runs]

    on_sphere = all(run.on_sphere for run in runs)
    chosen = {
        "sharpness": (sharpness_by_rate, on_sphere and any(have("sharpness"))),
        "label_noise": (label_noise, all(have("loss_corrupt"))),
        "conventional": (conventional, by_rate and varies("momentum") and varies("cosan_schedule")),
        "loss_and_error": (loss_and_error, varies("model") or varies("fix_si_pnorm_value")),
    }
    return {name: draw for name, (draw, says_something) in chosen.items() if says_something}


def _kind(run: Run) -> str:
    return f"{'cosine' if _cosine(run) else 'constant'}, momentum {_momentum(run):g}"


def _cosine(run: Run) -> bool:
    return bool(run.config.get("cosan_schedule"))


def _momentum(run: Run) -> float:
    return run.config["momentum"] or 0.0


def label_noise(runs: Sequence[Run]) -> Figure:
    """Loss of the images with true and with corrupted labels, and errors, by rate (P2).

    The error on corrupted images is that against the labels that the network is trained on.
    """
    titles = {
        "Loss, true labels": ("loss_normal", "cross-entropy", "log"),
        "Loss, corrupted labels": ("loss_corrupt", "cross-entropy", "log"),
        "Error on corrupted labels": ("acc_corrupt", "train error, %", "linear"),
    }
    figure, axes = plt.subplots(1, 4, figsize=(17, 4.2), layout="constrained")
    handles = []
    for colour, run in zip(shades(runs), runs, strict=True):
        style = {"color": colour, "linewidth": 1.2}
        for axis, (name, _, _) in zip(axes, titles.values(), strict=False):
            _, epochs, values = find_array(run, name)
            axis.plot(epochs, 100 * (1 - values) if name.startswith("acc") else values, **style)
        handles += axes[3].plot(*run.curves["test_error"], **style)
    for axis, (title, (_, y, scale)) in zip(axes, titles.items(), strict=False):
        describe(axis, title, "epoch", y, yscale=scale)
    describe(axes[3], "Test error", "epoch", "error, %")
    name_below(figure, handles, [label(run, runs) for run in runs])
    return figure
