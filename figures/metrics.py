"""What test.py measures beside the papers' main figures, and the effective step."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.labels import lines_of
from figures.style import describe, draw_phases, effective_lr_label, marker, name_lines
from runs import Run, at_common_epochs
from theory.dynamics import norm_power

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
    lines, note = lines_of(runs)
    panels = {}
    for title, (names, *_) in PANELS.items():
        arrays = {(run.folder, name): find_array(run, name) for run in runs for name in names}
        if any(array and key[1] not in MAIN for key, array in arrays.items()):
            panels[title] = arrays
    if not panels:
        return None
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    size = (4.6 * columns, 3.8 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    subsets = set()
    for axis, (title, arrays) in zip(axes.flat, panels.items(), strict=False):
        names, y, scale = PANELS[title]
        for line, run, name in ((ln, r, n) for ln in lines for r in ln.runs for n in names):
            if arrays[run.folder, name] is None:
                continue
            _, epochs, values = arrays[run.folder, name]
            values = 100 * (1 - values) if name.startswith("acc") else values
            subset = name.rsplit("_", 1)[-1] if name.endswith(("normal", "corrupt")) else ""
            subsets.add(subset)
            axis.plot(epochs, values, STYLES[subset], color=line.colour, linewidth=1.2)
        files = ", ".join(dict.fromkeys(array[0] for array in arrays.values() if array))
        describe(axis, f"{title}\n({files})", "epoch", y, yscale=scale)
    marks = [(plt.Line2D([], [], linestyle=STYLES[subset], color="grey"), SUBSETS[subset])
             for subset in STYLES if len(subsets) > 1]  # fmt: skip
    name_lines(figure, lines, note, *marks)
    return figure


def effective_steps(runs: Sequence[Run]) -> Figure | None:
    """The effective step η̃‖g̃‖ of every checkpoint against η̃, and by epoch; None if none is known.

    A step of SGD turns the weights by more than a small angle where it is large (P1, section 2).
    """
    needed = ("effective_lr", "effective_gradient_norm")
    runs = [
        run for run in runs if run.curves.keys() >= {*needed} and norm_power(run.optimizer) == 2
    ]
    if not runs:
        return None
    lines, note = lines_of(runs)
    figure, (phase_axis, step_axis) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for line in lines:
        for run in line.runs:
            epochs, rate, gradient = at_common_epochs(run.curves, *needed)
            draw_phases(phase_axis, rate, rate * gradient, line.colour)
            step_axis.plot(epochs, rate * gradient, color=line.colour, linewidth=1.2)
    step = "mean effective step η̃‖g̃‖ = η‖g‖ / ρ"
    describe(
        phase_axis, "Effective step by effective rate", effective_lr_label(runs), step, "log", "log"
    )
    describe(step_axis, "Effective step by epoch", "epoch", step, yscale="log")
    name_lines(figure, lines, note, (marker("o"), "start"))
    return figure
