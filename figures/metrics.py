"""What test.py measures beyond the papers' main figures, and the effective step."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from figures.curves import (
    PANELS,
    draw_by_epoch,
    draw_phase,
    draw_seeds,
    effective_lr_label,
    file_of,
    name_lines,
)
from figures.labels import lines_of
from figures.style import describe, sample
from runs import Curve, Run, at_common_epochs
from theory.dynamics import norm_power

MEASURED = (
    "hess_evals", "fisher_evals", "sharpness", "hess_trace", "fisher_trace", "gm_norm", "gs_norm",
    "loss", "acc", "cos_init", "l2_init",
)  # fmt: skip
# Suffix of the arrays of a subset -> line style, name.
SUBSETS = {
    "": ("-", "all images"),
    "_normal": ("--", "true labels"),
    "_corrupt": (":", "corrupted labels"),
}
# Measured in every run and shown by the main figures: drawn here only beside their subsets.
MAIN = ("loss", "acc")


def metrics(runs: Sequence[Run]) -> Figure | None:
    """A panel for each measured quantity that the papers' figures leave out; None if there is none.
    Loss and error of images with true labels are dashed, of those with corrupted ones dotted."""
    lines, note = lines_of(runs)
    panels = {}
    for array in MEASURED:
        measured = [end for end in SUBSETS if any(file_of(run, array + end) for run in runs)]
        if any(array + end not in MAIN for end in measured):
            panels[array] = measured
    if not panels:
        return None
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    size = (4.6 * columns, 3.8 * rows + 0.4)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    marks = {}
    for axis, (array, measured) in zip(axes.flat, panels.items(), strict=False):
        title, y, scale = PANELS[array]
        for end in measured:
            style, name = SUBSETS[end]
            draw_by_epoch(axis, lines, array + end, linestyle=style)
            marks[name] = sample(linestyle=style, color="grey")
        files = (file_of(run, array + end) for end in measured for run in runs)
        describe(axis, f"{title}\n({', '.join(dict.fromkeys(filter(None, files)))})", "epoch", y,
                 yscale=scale)  # fmt: skip
    name_lines(figure, lines, note, marks if len(marks) > 1 else {})
    return figure


def effective_steps(runs: Sequence[Run]) -> Figure | None:
    """The effective step η̃‖g̃‖ of every checkpoint against η̃ and by epoch; None if unknown. A
    step of SGD turns the weights by more than a small angle where it is large (P1, section 2)."""
    needed = ("effective_lr", "effective_gradient_norm")
    runs = [
        run for run in runs if run.curves.keys() >= {*needed} and norm_power(run.optimizer) == 2
    ]
    if not runs:
        return None
    lines, note = lines_of(runs)
    figure, (phase_axis, step_axis) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for line in lines:
        steps = []
        for run in line.runs:
            epochs, rate, gradient = at_common_epochs(run.curves, *needed)
            draw_phase(phase_axis, rate, rate * gradient, line.colour)
            steps.append(Curve(epochs, rate * gradient))
        draw_seeds(step_axis, steps, line.colour, "log")
    step = "mean effective step η̃‖g̃‖ = η‖g‖ / ρ"
    rate = effective_lr_label(runs)
    describe(phase_axis, "Effective step by effective rate", rate, step, "log", "log")
    describe(step_axis, "Effective step by epoch", "epoch", step, yscale="log")
    name_lines(figure, lines, note, {"start": sample(marker="o")})
    return figure
