"""Runs read back from their folders, with what follows from their numbers."""

import functools
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from options import Train
from runs.arrays import read_arrays
from runs.config import options_of, read_config
from runs.folder import CONFIG, METRICS, files_below
from runs.log import read_log, read_trace
from runs.official import find_unconfigured
from theory import dynamics
from theory.periods import Periods, find_periods
from theory.regimes import Regime, find_regime
from utils import UserError

BETA1 = 0.9  # of Adam and AdamW
TINY = 1e-9  # epochs in place of an e-fold of 0


class Curve(NamedTuple):
    """A quantity of a run: (n,) epochs, and its (n,) values there."""

    epochs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Run:
    """A run read back from its folder. Most properties follow from `log()` and `metrics()`.

    Attributes
    ----------
    folder : holds its configuration, log and checkpoints.
    config : every option that it was trained with.
    metrics_folder : holds its metrics if they are elsewhere (results of the official code).
    window : first and last epoch; what was recorded outside of it is left out.
    """

    folder: Path
    config: dict[str, Any]
    metrics_folder: Path | None = None
    window: tuple[float, float] = (0, np.inf)

    @cached_property
    def options(self) -> Train:
        """The options. Raises UserError where they are not known (results of the official code)."""
        if "name" in self.config:
            raise UserError(f"{self.folder} has no {CONFIG}")
        return options_of(self.config)

    @property
    def base_lr(self) -> float:
        """The learning rate before the schedule (on the sphere it follows from the ELR)."""
        return self.config.get("base_lr", self.config["lr_init"])

    @property
    def steps_per_epoch(self) -> float:
        """Steps of training in an epoch; NaN where they are not known (official results)."""
        config = self.config
        if "train_images" not in config:
            return math.nan
        return 1 if config["fbgd"] else math.ceil(config["train_images"] / config["batch_size"])

    @property
    def is_branch(self) -> bool:
        return self.config.get("resume_epoch") is not None

    def parent(self) -> "Run | None":
        """The run that a branch continues; None for other runs, and if it has no config.json."""
        folder = self.folder.parent
        if not self.is_branch or not (folder / CONFIG).exists():
            return None
        return Run(folder, read_config(folder, labels=False), window=self.window)

    @cached_property
    def branches(self) -> "list[Run]":
        """The measured branches off this run."""
        return [run for run in find_runs(self.folder, branches=True) if run.is_branch]

    def is_measured(self) -> bool:
        return any(self._npz(name).exists() for name in METRICS)

    @property
    def experiment(self) -> Path:
        """The folder of its experiment, which holds a folder for each line."""
        if self.metrics_folder in (None, self.folder):
            return self.folder.parent.parent
        return Path(os.path.commonpath([self.folder, self.metrics_folder]))

    def _npz(self, name: str) -> Path:
        return (self.metrics_folder or self.folder) / f"{name}.npz"

    def lr_at(self, epochs: np.ndarray) -> np.ndarray:
        """The learning rate of the epoch that ended (or was under way) at each of these times: by
        log.csv or, without one, the base rate or, for official results, that of the checkpoints."""
        known = [(row["epoch"], row["lr"]) for row in read_log(self.folder)]
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
        Empty where there is no log, as beside checkpoints of the official code."""
        rows = read_log(self.folder)
        keys = rows[0] if rows else ()
        columns = {key: np.array([row[key] for row in rows], dtype=float) for key in keys}
        return self._in_window(columns, "epoch")

    def trace(self) -> dict[str, np.ndarray]:
        """Every traced step that begins in the window and before its end, see `read_trace`."""
        trace, end = self._in_window(read_trace(self.folder), "epoch"), self.window[1]
        return {name: values[trace["epoch"] < end] for name, values in trace.items()}

    def metrics(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a metrics file, by name; {} without a file. Raises UserError if it is
        damaged."""
        if not self._npz(name).exists():
            return {}
        return self._in_window(read_arrays(self._npz(name))[0], "report_epochs")

    def files(self) -> list[str]:
        """The names of its metrics files: the usual ones first, then those of --save_path."""
        found = sorted(path.stem for path in self._npz("*").parent.glob("*.npz"))
        others = [name for name in found if name not in METRICS and self._is_metrics(name)]
        return [name for name in METRICS if name in found] + others

    def _is_metrics(self, name: str) -> bool:
        try:
            return "report_epochs" in self.metrics(name)
        except (UserError, OSError):
            return False

    @property
    def on_sphere(self) -> bool:
        """Whether the effective learning rate was held fixed: training on the sphere (P2)."""
        return bool(self.config.get("fix_elr") or self.config.get("fix_all_elr"))

    @property
    def optimizer(self) -> str:
        return self.config.get("optimizer", "sgd")

    def _effective_lr(self, lr: np.ndarray, si_norm: np.ndarray) -> np.ndarray:
        return dynamics.effective_lr(lr, si_norm, self.optimizer)

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """What was measured of the checkpoints, by name; what was not measured is left out.

        train_loss, train_error and test_error (in %), si_norm ρ, effective_lr,
        effective_gradient_norm ρ‖g‖ of the SI weights' gradient g (mean over batches), and
        full_gradient_norm, ρ times the norm of the gradient with respect to all weights.
        """
        train, si, test = map(self.metrics, METRICS)
        curves = {}
        for arrays, kind in ((train, "train"), (test, "test")):
            if "loss" in arrays:
                curves[f"{kind}_loss"] = Curve(arrays["report_epochs"], arrays["loss"])
            if "acc" in arrays:
                curves[f"{kind}_error"] = Curve(arrays["report_epochs"], 100 * (1 - arrays["acc"]))
        if "params_norm" not in si:
            return _not_empty(curves)
        epochs, si_norm = curves["si_norm"] = Curve(si["report_epochs"], si["params_norm"])
        lr = self.lr_at(epochs)
        if np.isfinite(lr).any():  # unknown where the configuration is gone
            curves["effective_lr"] = Curve(epochs, self._effective_lr(lr, si_norm))
        for arrays, name in ((si, "effective_gradient_norm"), (train, "full_gradient_norm")):
            if "gnorm_m" in arrays:
                epochs, at, si_at = np.intersect1d(
                    arrays["report_epochs"], si["report_epochs"], return_indices=True
                )
                norms = dynamics.effective_gradient_norm(arrays["gnorm_m"][at], si_norm[si_at])
                curves[name] = Curve(epochs, norms)
        return _not_empty(curves)

    @cached_property
    def history(self) -> dict[str, Curve]:
        """The `curves`, with train_loss, train_error, si_norm and effective_lr of every epoch where
        there is a log; its loss and error are means over an epoch's steps."""
        log = self.log()
        columns = {name: log[name] for name in ("train_loss", "si_norm") if name in log}
        if "train_acc" in log:
            columns["train_error"] = 100 * (1 - log["train_acc"])
        if {"lr", "si_norm"} <= log.keys():
            columns["effective_lr"] = self._effective_lr(log["lr"], log["si_norm"])
        logged = {name: Curve(log["epoch"], values) for name, values in columns.items()}
        return self.curves | _not_empty(logged)

    @cached_property
    def periods(self) -> Periods:
        if not {"train_loss", "si_norm"} <= self.history.keys():
            return Periods()
        return find_periods(*at_common_epochs(self.history, "train_loss", "si_norm"))

    @property
    def e_fold(self) -> float:
        """Epochs in which weight decay alone shrinks ρ to 1/e; infinite without decay, NaN if not
        known. 1/(ηλ) steps of SGD; (1 - α)/(ηλ) with momentum α, which multiplies the rate by
        1/(1 - α). 0 for Adam, whose coupled decay is part of the normalised gradient."""
        config = self.config
        if config["optimizer"] == "adam":
            return 0.0
        rate = self.base_lr * config["wd"] * self.steps_per_epoch
        kept = 1 - (config["momentum"] or 0) if config["optimizer"] == "sgd" else 1.0
        return kept / rate if rate else math.inf

    @property
    def equilibrium_angle(self) -> float:
        config, decay = self.config, self.base_lr * self.config["wd"]
        if config["optimizer"] == "adamw":
            return dynamics.equilibrium_angle(decay, BETA1, decoupled=True)
        return dynamics.equilibrium_angle(decay, config["momentum"] or 0)

    @property
    def norm_is_held(self) -> bool:
        """Whether ρ is rescaled to a fixed value after every step."""
        return self.on_sphere or bool(self.config.get("fix_si_pnorm"))

    @cached_property
    def regime(self) -> Regime:
        """The regime in which it trains, by its training loss, error and effective rate."""
        names = ("train_loss", "train_error", "effective_lr")
        decays = self.config["wd"] > 0 and not self.norm_is_held
        unknown = [name.replace("_", " ") for name in names if name not in self.history]
        if "num_classes" not in self.config:
            unknown.append("number of classes")
        if decays and math.isnan(self.e_fold):
            unknown.append("number of steps in an epoch")
        if unknown:
            return Regime(None, reason=f"{unknown[0]} unknown")
        epochs, loss, error, effective_lr = at_common_epochs(self.history, *names)
        guessing = 100 * (1 - 1 / self.config["num_classes"])
        e_folds = np.ptp(epochs) / max(self.e_fold, TINY) if decays else np.inf
        return find_regime(loss, error / guessing, effective_lr, e_folds)

    @cached_property
    def behaviour(self) -> str:
        """What the run does, in words: its periods or, if it has none, its regime."""
        if len(self.periods):
            return str(self.periods)
        if self.regime.name:
            return self.regime.name
        return f"no {'regime' if self.norm_is_held else 'period'} yet: {self.regime.reason}"


def _not_empty(curves: dict[str, Curve]) -> dict[str, Curve]:
    return {name: curve for name, curve in curves.items() if len(curve.epochs)}


def at_common_epochs(curves: dict[str, Curve], *names: str) -> tuple[np.ndarray, ...]:
    """The epochs at which all these curves have a value, and the values of each: (n,) arrays."""
    epochs = functools.reduce(np.intersect1d, (curves[name].epochs for name in names))
    values = []
    for name in names:
        _, at, _ = np.intersect1d(curves[name].epochs, epochs, return_indices=True)
        values.append(curves[name].values[at])
    return epochs, *values


def read_run(folder: Path) -> Run:
    """The run of a folder; raises UserError as `read_config`."""
    return Run(folder, read_config(folder))


def find_runs(root: str | Path, branches: bool = False, logged: bool = False) -> list[Run]:
    """Every measured run in and below a folder, by learning rate, weight decay and folder, results
    of the official code included; with `logged` also those with only a log. Branches are left out
    unless they are asked for, or `root` is the folder of one."""
    runs = [run for run in all_runs(root) if run.is_measured() or (logged and run.log())]
    if not branches:
        runs = [run for run in runs if not run.is_branch or run.folder == Path(root)]
    runs += [Run(*places) for places in find_unconfigured(Path(root))]
    return sorted(runs, key=_order)


def _order(run: Run) -> tuple[float, float, str]:
    """By learning rate, weight decay and folder; unknown rates last."""
    rates = (np.inf if np.isnan(rate) else rate for rate in (run.base_lr, run.config["wd"]))
    return (*rates, str(run.folder))


def all_runs(root: str | Path) -> list[Run]:
    """Every run and branch in and below a folder, measured or not, by folder. A configuration that
    is damaged, or not of a run, is named and passed over."""
    found = []
    for path in sorted(path for path in files_below(Path(root)) if path.name == CONFIG):
        try:
            found.append(Run(path.parent, read_config(path.parent, labels=False)))
        except UserError as error:
            print(f"note: passed over: {error}")
    return found


def find_experiments(root: str | Path) -> dict[str, list[Run]]:
    """The measured runs below a folder by experiment: the folder of their lines. A run directly
    below it, <root>/<dir>/trial_<t>, is an experiment of its own: <dir>."""
    experiments: dict[str, list[Run]] = {}
    for run in find_runs(root):
        line = run.folder.parent
        folder = line if line.parent == Path(root) else run.experiment
        name = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else "."
        experiments.setdefault(name, []).append(run)
    return dict(sorted(experiments.items()))
