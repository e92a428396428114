"""The figures and tables of folders of runs."""

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from figures.labels import lines_of, on_sphere
from figures.metrics import effective_steps, metrics
from figures.panels import one_period, panels
from figures.papers import figure2, loss_and_error, three_regimes
from figures.rates import conventional, label_noise, sharpness_by_rate
from figures.regimes import diagram_of_runs
from figures.style import save
from figures.tables import period_table, table
from runs import Run, diverged_at, find_experiments, find_runs
from utils import UserError, plural

NO_RUNS = (
    "There are no measured runs in {root} yet. `make demo` makes some in a few minutes on a CPU; "
    "`python run_train_and_test.py` trains the setting at the top of that file."
)
WHOLE = (0, np.inf)
LONGEST_NAME = 100  # characters of a file's name
# Drawn besides the main figures, by the name of the file; None where they have nothing to show.
MORE = {
    "effective_step": effective_steps,
    "metrics": metrics,
    "one_period": one_period,
    "sharpness": sharpness_by_rate,
    "label_noise": label_noise,
    "conventional": conventional,
    "loss_and_error": loss_and_error,
}


def report(
    folders: Sequence[Path],
    branches: bool = False,
    window: tuple[float, float] = WHOLE,
    nested: bool = True,
) -> None:
    """Save the figures of the runs in some folders, print their table, and for one run its periods.
    Figures of several folders go into the folder that holds them all, under names that list them.
    Only epochs in the window count. Unless `nested`, experiments below the folders are left out."""
    runs = list({run.folder: run for f in folders for run in runs_in(f, branches, nested)}.values())
    place, which = name_for(folders)
    if branches:
        which += "_branches"
    if window != WHOLE:
        which += "_epochs_{:g}_{:g}".format(*window)
        runs = [replace(run, window=window) for run in runs]
        runs = [run for run in runs if run.history]
        if not runs:
            raise UserError("nothing was recorded in the epochs {:g}:{:g}".format(*window))
    published = all(folder.name.startswith("figure2") for folder in folders)
    main = {"periods": panels, "overview": functools.partial(figure2, published=published)}
    if on_sphere(runs):
        main = {"three_regimes": three_regimes, "regime_diagram": diagram_of_runs}
    written = []
    for name, draw in (main | MORE).items():
        figure = draw(runs)
        if figure is not None:
            written.append(place / f"{name}{which}.png")
            save(figure, written[-1])
    texts = [table(runs), "figure: " + ", ".join(map(str, written))]
    if len(runs) == 1 and not on_sphere(runs) and period_table(runs[0]):
        texts.insert(0, period_table(runs[0]))
    if lines_of(runs)[1]:
        texts.append(f"note: {lines_of(runs)[1]}, evenly chosen; name fewer folders to see others")
    print("", "\n\n".join(texts), sep="\n")


def runs_in(folder: Path, branches: bool, nested: bool = True) -> list[Run]:
    """The runs of one experiment, line or run that have a log or metrics. Raises UserError if there
    are none, or they belong to several experiments."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    runs = find_runs(folder, branches, logged=True)
    if not nested:
        runs = [run for run in runs if run.experiment == folder]
    if not runs and find_runs(folder, branches=True, logged=True):
        raise UserError(f"{folder} holds branches alone: --branches draws them")
    if not runs:
        raise UserError(NO_RUNS.format(root=folder))
    if len({run.experiment for run in runs if not run.is_branch}) > 1:
        names = ", ".join(str(folder / name) for name in find_experiments(folder))
        raise UserError(f"{folder} holds several experiments, name one of {names}")
    for run in (run for run in runs if not run.is_measured()):
        epoch = diverged_at(run.folder)
        diverged = "" if epoch is None else f"; it diverged in epoch {epoch:g}"
        how = "train.py's command with --resume --metrics measures its checkpoints"
        print(f"note: {run.folder} is not measured, its log alone is drawn{diverged}; {how}")
    return runs


def listing(root: Path) -> str:
    """The experiments below a folder, a line each. Raises UserError if there are none."""
    experiments = find_experiments(root)
    if not experiments:
        raise UserError(NO_RUNS.format(root=root))
    rows = []
    for name, runs in experiments.items():
        branches = sum(len(run.branches) for run in runs)
        more = f", {plural(branches, 'branch', 'branches')} (--branches)" if branches else ""
        rows.append(f"{root / name}: {plural(len(runs), 'run')}{more}")
    return "\n".join(rows)


def name_for(folders: Sequence[Path]) -> tuple[Path, str]:
    """The folder for the figures of these folders, and the end of their names ("" for one)."""
    if len(folders) == 1:
        return folders[0], ""
    if any(folder.is_absolute() for folder in folders):
        folders = [folder.absolute() for folder in folders]
    place = Path(os.path.commonpath(folders))
    parts = ["_".join(f.relative_to(place).parts) or f.absolute().name for f in folders]
    name = "_" + "_and_".join(parts)
    return place, name if len(name) <= LONGEST_NAME else f"_of_{len(folders)}_folders"
