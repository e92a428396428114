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
    """Every measured run below a folder, by learning rate, weight decay and folder.

    Branches are left out unless they are asked for.
    """
    found = [Run(path.parent, read_config(path.parent)) for path in Path(root).rglob(CONFIG)]
    found = [
        run
        for run in found
        if any((run.folder / f"{m}.npz").exists() for m in METRICS)
        and (branches or run.config.get("resume_epoch") is None)
    ]
    return sorted(found, key=lambda r: (r.base_lr, r.config["wd"], str(r.folder)))


def find_experiments(root: str | Path) -> dict[str, list[Run]]:
    """The runs below a folder by experiment: the folder of their lines."""
    experiments: dict[str, list[Run]] = {}
    for run in find_runs(root):
        name = run.folder.parent.parent.relative_to(root).as_posix()
        experiments.setdefault(name, []).append(run)
    return dict(sorted(experiments.items()))
