"""Runs read back from their folders, for figures, tables and one's own scripts."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runs.arrays import read_arrays
from runs.config import read_config
from runs.folder import CONFIG, METRICS
from runs.log import read_log, read_trace
from runs.official import find_unconfigured
from utils import UserError


@dataclass(frozen=True)
class Run:
    """A run read back from its folder, for plots and tables.

    `metrics_folder` holds its metrics where they are not in its folder (official code), and of all
    that was recorded by epoch only the `window`, first to last epoch, is given.
    """

    folder: Path
    config: dict[str, Any]
    metrics_folder: Path | None = None
    window: tuple[float, float] = (0, np.inf)

    @property
    def base_lr(self) -> float:
        """The learning rate before the schedule (on the sphere it follows from the ELR)."""
        return self.config.get("base_lr", self.config["lr_init"])

    @property
    def steps_per_epoch(self) -> int:
        config = self.config
        return 1 if config["fbgd"] else -(-config["train_images"] // config["batch_size"])

    @property
    def is_branch(self) -> bool:
        return self.config.get("resume_epoch") is not None

    def parent(self) -> "Run | None":
        """The run that a branch goes on from; None for other runs, and where it has no config."""
        folder = self.folder.parent
        if not self.is_branch or not (folder / CONFIG).exists():
            return None
        return Run(folder, read_config(folder, labels=False), window=self.window)

    def branches(self) -> "list[Run]":
        """The measured branches off this run."""
        return [run for run in find_runs(self.folder, branches=True) if run.is_branch]

    def is_measured(self) -> bool:
        return any(self._npz(name).exists() for name in METRICS)

    @property
    def experiment(self) -> Path:
        """The folder of its experiment, which holds the lines' folders."""
        if self.metrics_folder in (None, self.folder):
            return self.folder.parent.parent
        return Path(os.path.commonpath([self.folder, self.metrics_folder]))

    def _npz(self, name: str) -> Path:
        return (self.metrics_folder or self.folder) / f"{name}.npz"

    def lr_at(self, epochs: np.ndarray) -> np.ndarray:
        """The learning rate of the epoch that ended at (or was at) each of these times.

        From log.csv, which follows a schedule; without one the base rate or, of official results,
        that of the checkpoints.
        """
        rows = read_log(self.folder)
        known = [(row["epoch"], row["lr"]) for row in rows]
        if not known:
            constant = ([0], [self.base_lr])
            known = list(zip(*self.config.get("lr_by_epoch", constant), strict=True))
        times, rates = np.array(known, dtype=float).T
        return rates[np.searchsorted(times, epochs).clip(max=len(times) - 1)]

    def _in_window(self, arrays: dict[str, np.ndarray], key: str) -> dict[str, np.ndarray]:
        """The part of arrays over the epochs `key` that lies in the window."""
        first, last = self.window
        if key not in arrays or (first <= 0 and last == np.inf):
            return arrays
        keep = (arrays[key] >= first) & (arrays[key] <= last)
        return {
            name: array[keep] if array.shape[:1] == keep.shape else array
            for name, array in arrays.items()
        }

    def log(self) -> dict[str, np.ndarray]:
        """The columns of log.csv, an array over the epochs each; NaN for what was not measured.

        Empty where there is no log, as beside checkpoints of the official code.
        """
        rows = read_log(self.folder)
        keys = rows[0] if rows else ()
        columns = {key: np.array([row[key] for row in rows], dtype=float) for key in keys}
        return self._in_window(columns, "epoch")

    def trace(self) -> dict[str, np.ndarray]:
        """Every traced step, see `read_trace`."""
        return self._in_window(read_trace(self.folder), "epoch")

    def metrics(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of one metrics file, by name; empty when there is no such file.

        Raises UserError where it is damaged.
        """
        if not self._npz(name).exists():
            return {}
        return self._in_window(read_arrays(self._npz(name))[0], "report_epochs")

    def files(self) -> list[str]:
        """The names of its metrics files, the usual ones first; others as test.py was told."""
        found = sorted(path.stem for path in self._npz("*").parent.glob("*.npz"))
        others = [name for name in found if name not in METRICS and self._is_metrics(name)]
        return [name for name in METRICS if name in found] + others

    def _is_metrics(self, name: str) -> bool:
        try:
            return "report_epochs" in self.metrics(name)
        except UserError:
            return False


def find_runs(root: str | Path, branches: bool = False) -> list[Run]:
    """Every measured run in and below a folder, by learning rate, weight decay and folder.

    Branches are left out unless they are asked for, or `root` is the folder of one. Results of
    the official code, which have no configuration, are found too.
    """
    found = [run for run in all_runs(root) if run.is_measured()]
    if not branches:
        found = [run for run in found if not run.is_branch or run.folder == Path(root)]
    found += [Run(*places) for places in find_unconfigured(Path(root))]
    return sorted(found, key=_order)


def _order(run: Run) -> tuple[float, float, str]:
    """By learning rate, weight decay and folder; unknown rates last."""
    rates = (np.inf if np.isnan(rate) else rate for rate in (run.base_lr, run.config["wd"]))
    return (*rates, str(run.folder))


def all_runs(root: str | Path) -> list[Run]:
    """Every run and branch in and below a folder, measured or not, by folder.

    A configuration that is damaged, or not of a run, is named and passed over.
    """
    found = []
    for path in sorted(Path(root).rglob(CONFIG)):
        try:
            found.append(Run(path.parent, read_config(path.parent, labels=False)))
        except UserError as error:
            print(f"note: passed over: {error}")
    return found


def find_experiments(root: str | Path) -> dict[str, list[Run]]:
    """The measured runs below a folder by experiment: the folder of their lines.

    A run directly below it, <root>/<dir>/trial_<t>, is an experiment of its own: <dir>.
    """
    experiments: dict[str, list[Run]] = {}
    for run in find_runs(root):
        line = run.folder.parent
        folder = line if line.parent == Path(root) else run.experiment
        name = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else "."
        experiments.setdefault(name, []).append(run)
    return dict(sorted(experiments.items()))
