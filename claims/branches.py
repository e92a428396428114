"""What the claims read off their runs, and branches off these runs."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from options import Train, tidy
from runs import Run, branch_folder, read_run
from runs.resuming import Diverged
from theory.dynamics import effective_gradient_norm
from theory.periods import Periods, find_periods
from train import train

OTHER_SEED = 7919  # of the branches: they do not repeat their parent's batches
LOG_ONLY = {"metrics": False, "trace": False, "save_freq": 1000}  # of branches: nothing but a log


def branch(run: Run, epoch: int, epochs: int, **changes: Any) -> Run:
    """Train so many more epochs from a checkpoint, with changed options; a loss that is not finite
    ends it. A branch that is there already is given up to these epochs, and trained again only if
    it is shorter or lacks the trace that is asked for."""
    options = replace(run.options, dir=str(run.folder.parent), keep=None, overwrite=False)
    options = replace(options, resume=True, resume_epoch=epoch, epochs=epochs, **changes)
    found, window = trained(run, options), (epoch, epoch + epochs)
    if options.trace and not is_traced(replace(found, window=window)):
        length = int(found.log()["epoch"][-1]) - epoch
        found = trained(run, replace(options, resume=False, overwrite=True, epochs=length))
    return replace(found, window=window)


def trained(run: Run, options: Train) -> Run:
    """The branch with these options, trained to its end or until it diverges."""
    with contextlib.suppress(Diverged):  # the log has it
        return train(options)
    return read_run(branch_folder(run.folder, options.resume_epoch, tidy(options)))


def is_traced(run: Run) -> bool:
    steps = run.trace().get("epoch", np.array([]))
    return {*(run.log()["epoch"] - 1)} <= {*np.floor(steps)}


def destabilises(run: Run) -> float:
    """The first epoch at which a run's training loss is four times its lowest before, or inf."""
    log = run.log()
    loss = np.where(np.isfinite(log["train_loss"]), log["train_loss"], np.inf)
    at = np.flatnonzero(loss >= 4.0 * np.minimum.accumulate(loss))
    return float(log["epoch"][at[0]]) if len(at) else float("inf")


def settled(run: Run) -> Periods:
    """The periods after one e-fold of weight decay, when the start is forgotten."""
    return run.periods.after(run.e_fold)


def loss_periods(run: Run, after: float = 0.0, until: float = math.inf) -> Periods:
    """Periods of the loss alone, for a run whose ρ is held: falls and rises by a factor of four. Of
    the epochs later than `after`, up to `until`."""
    log = run.log()
    inside = (log["epoch"] > after) & (log["epoch"] <= until)
    epochs, loss = log["epoch"][inside], log["train_loss"][inside]
    return find_periods(epochs, loss, loss, rise=4.0)


def traced(run: Run) -> dict[str, np.ndarray]:
    """The trace of every step of a run, and its effective gradient norm ρ‖g‖."""
    trace = run.trace()
    effective = effective_gradient_norm(trace["gradient_norm"], trace["si_norm"])
    return {**trace, "effective_gradient": effective}


def second_half(run: Run) -> dict[str, np.ndarray]:
    """The later half of what is `traced`, when the start is forgotten."""
    return {name: values[len(values) // 2 :] for name, values in traced(run).items()}


def rate(run: Run) -> float:
    """ηλ, or on the sphere the effective learning rate."""
    config = run.config
    return config["elr"] if config["fix_elr"] else config["lr_init"] * config["wd"]


def by_seed(found: Sequence[Run]) -> dict[int, list[Run]]:
    """Runs by their trial, each seed's by rising rate."""
    seeds: dict[int, list[Run]] = {}
    for run in sorted(found, key=lambda run: (run.config["trial"], rate(run))):
        seeds.setdefault(run.config["trial"], []).append(run)
    return seeds


def by_line(found: Sequence[Run], *names: str) -> list[tuple[str, list[Run]]]:
    """The trials of each line with its name, in the order of the setting. Without `names` a line is
    named after its rate: "ηλ = 0.004"."""
    lines: dict[str, list[Run]] = {}
    for run in found:
        lines.setdefault(run.folder.parent.name, []).append(run)
    names = names or [f"ηλ = {rate(line[0]):.2g}" for line in lines.values()]
    return [*zip(names, lines.values(), strict=True)]
