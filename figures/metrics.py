"""What test.py measures beside the papers' main figures, and the effective step."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.style import colours, describe, name_below, shades
from figures.summaries import label, on_sphere
from runs import Run, at_common_epochs

SHARE = "trace / number of weights"
# title -> (arrays, a line style each, y axis, its scale); of a vector the largest element counts.
PANELS = {
    "Leading Hessian eigenvalue": (("hess_evals",), "eigenvalue", "log"),
    "Leading Fisher eigenvalue": (("fisher_evals",), "eigenvalue", "log"),
    "Sharpness on the unit sphere": (("sharpness",), "eigenvalue", "log"),
    "Trace of the Hessian": (
        ("hess_trace", "hess_trace_normal", "hess_trace_corrupt"), SHARE, "symlog",
    ),
    "Trace of the Fisher matrix": (
        ("fisher_trace", "fisher_trace_normal", "fisher_trace_corrupt"), SHARE, "log",
    ),
    "Mean of the batch gradients": (("gm_norm",), "norm", "log"),
    "Deviation of the batch gradients": (("gs_norm",), "norm", "log"),
    "Loss of the subsets": (("loss", "loss_normal", "loss_corrupt"), "train loss", "log"),
    "Error of the subsets": (("acc", "acc_normal", "acc_corrupt"), "train error, %", "linear"),
    "Direction and the start's": (("cos_init",), "cosine with epoch 0", "linear"),
    "Distance from the start": (("l2_init",), "distance from epoch 0", "linear"),
}  # fmt: skip
STYLES = {"": "-", "normal": "--", "corrupt": ":"}
SUBSETS = {"": "all images", "normal": "true labels", "corrupt": "corrupted labels"}
# These are in every run's files, and the main figures show them: of interest beside their subsets.
MAIN = ("loss", "acc")


def _colours(runs: Sequence[Run]) -> list[str]:
    """As in the papers' figures of these runs."""
    return shades(runs) if on_sphere(runs) else colours(runs)


def find_array(run: Run, name: str) -> tuple[str, np.ndarray, np.ndarray] | None:
    """The file in which a run has this array, the epochs and the values: (n,) each, or None."""
    for file in run.files():
        arrays = run.metrics(file)
        if name in arrays:
            values = np.asarray(arrays[name], dtype=float)
            return file, arrays["report_epochs"], values.reshape(len(values), -1).max(1)
    return None


def metrics(runs: Sequence[Run]) -> Figure | None:
    """A panel for each measured quantity that the papers' figures leave out; None without any.

    Eigenvalues, traces, norms of mean and deviation of the batch gradients, loss and error of the
    images with true and with corrupted labels (dashed, dotted), and what has changed since the
    start. A title names the metrics file.
    """
    panels = {}
    for title, (names, *_) in PANELS.items():
        found = {(run.folder, name): find_array(run, name) for run in runs for name in names}
        if any(value and key[1] not in MAIN for key, value in found.items()):
            panels[title] = found
    if not panels:
        return None
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    size = (4.6 * columns, 3.8 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, found) in zip(axes.flat, panels.items(), strict=False):
        names, words, scale = PANELS[title]
        for colour, run in zip(_colours(runs), runs, strict=True):
            for name in names:
                if found[run.folder, name] is None:
                    continue
                _, epochs, values = found[run.folder, name]
                subset = name.rsplit("_", 1)[-1] if name.endswith(("normal", "corrupt")) else ""
                values = 100 * (1 - values) if name.startswith("acc") else values
                axis.plot(epochs, values, STYLES[subset], color=colour, linewidth=1.2)
        if len(names) > 1 and any(found[run.folder, names[1]] for run in runs):
            for subset, style in STYLES.items():
                axis.plot([], [], style, color="grey", label=SUBSETS[subset])
            axis.legend()
        files = ", ".join(dict.fromkeys(value[0] for value in found.values() if value))
        describe(axis, f"{title}\n({files})", "epoch", words, yscale=scale)
    _name_lines(figure, runs)
    return figure


def effective_steps(runs: Sequence[Run]) -> Figure | None:
    """The effective step η̃‖g̃‖ of every checkpoint against η̃, and by epoch; None if none is known.

    A step turns the weights by more than a small angle where it is large (P1, section 2).
    """
    needed = ("effective_lr", "effective_gradient_norm")
    if not any(run.curves.keys() >= {*needed} for run in runs):
        return None
    figure, (phase_axis, step_axis) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for colour, run in zip(_colours(runs), runs, strict=True):
        if not run.curves.keys() >= {*needed}:
            continue
        epochs, rate, gradient = at_common_epochs(run.curves, *needed)
        step = rate * gradient
        phase_axis.plot(rate, step, color=colour, linewidth=0.8, alpha=0.8)
        phase_axis.plot(rate[:1], step[:1], "o", color=colour, markeredgecolor="black")
        step_axis.plot(epochs, step, color=colour, linewidth=1.2)
    phase_axis.plot([], [], "o", color="white", markeredgecolor="black", label="start")
    phase_axis.legend()
    rate, step = "effective learning rate η̃ = η / ρ²", "mean effective step η̃‖g̃‖ = η‖g‖ / ρ"
    describe(phase_axis, "Effective step by effective rate", rate, step, "log", "log")
    describe(step_axis, "Effective step by epoch", "epoch", step, yscale="log")
    _name_lines(figure, runs)
    return figure


def _name_lines(figure: Figure, runs: Sequence[Run]) -> None:
    handles = [plt.Line2D([], [], color=colour) for colour in _colours(runs)]
    name_below(figure, handles, [label(run, runs) for run in runs])
