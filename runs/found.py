"""Runs read back from their folders, for figures, tables and one's own scripts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runs.config import read_config
from runs.folder import CONFIG, METRICS
from runs.log import read_log, read_trace


@dataclass(frozen=True)
class Run:
    """A run read back from its folder, for plots and tables."""

    folder: Path
    config: dict[str, Any]

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
        return Run(folder, read_config(folder))

    def branches(self) -> "list[Run]":
        """The measured branches off this run."""
        return [run for run in find_runs(self.folder, branches=True) if run.is_branch]

    def is_measured(self) -> bool:
        return any((self.folder / f"{name}.npz").exists() for name in METRICS)

    def log(self) -> dict[str, np.ndarray]:
        """The columns of log.csv, an array over the epochs each; NaN for what was not measured.

        Empty where there is no log, as beside checkpoints of the official code.
        """
        rows = read_log(self.folder)
        keys = rows[0] if rows else ()
        return {key: np.array([row[key] for row in rows], dtype=float) for key in keys}

    def trace(self) -> dict[str, np.ndarray]:
        """Every traced step, see `read_trace`."""
        return read_trace(self.folder)

    def metrics(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of one metrics file, by name; empty when there is no such file."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return {}
        with np.load(path) as file:
            return dict(file)


def find_runs(root: str | Path, branches: bool = False) -> list[Run]:
    """Every measured run in and below a folder, by learning rate, weight decay and folder.

    Branches are left out unless they are asked for, or `root` is the folder of one.
    """
    found = [run for run in all_runs(root) if run.is_measured()]
    if not branches:
        found = [run for run in found if not run.is_branch or run.folder == Path(root)]
    return sorted(found, key=lambda r: (r.base_lr, r.config["wd"], str(r.folder)))


def all_runs(root: str | Path) -> list[Run]:
    """Every run and branch in and below a folder, measured or not, by folder."""
    return [Run(path.parent, read_config(path.parent)) for path in sorted(Path(root).rglob(CONFIG))]


def find_experiments(root: str | Path) -> dict[str, list[Run]]:
    """The measured runs below a folder by experiment: the folder of their lines.

    A run directly below it, <root>/<dir>/trial_<t>, is an experiment of its own: <dir>.
    """
    experiments: dict[str, list[Run]] = {}
    for run in find_runs(root):
        line = run.folder.parent
        folder = line if line.parent == Path(root) else line.parent
        name = folder.relative_to(root).as_posix()
        experiments.setdefault(name, []).append(run)
    return dict(sorted(experiments.items()))
