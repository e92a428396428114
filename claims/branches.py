"""Runs that go on from a checkpoint of another one, with something changed."""

import numpy as np

import runs
import train
from command_line import command
from options import TRAIN
from runs import Run


def branch(run: Run, epoch: int, epochs: int, **changes) -> Run:
    """Go on from the checkpoint of an epoch for so many epochs with changed options of train.py.

    A branch that is there already is not trained again; a longer one is given up to these epochs.
    """
    keys = {option.key for option in TRAIN} - {"overwrite", "keep", "keep_epochs", "num_workers"}
    values = {key: value for key, value in run.config.items() if key in keys}
    values |= {"resume_epoch": epoch, "epochs": epochs, "resume": True, **changes}
    # On the sphere the rates have no effect, and giving them would only say so.
    if values["fix_elr"] or values["fix_all_elr"]:
        values = {key: value for key, value in values.items() if key not in ("lr_init", "wd")}
    words = command("train.py", values)[1:]
    train.main(words)
    options = train.train_options(words)
    folder = runs.branch_folder(run.folder, epoch, vars(options))
    return Run(folder, runs.read_config(folder), window=(epoch, epoch + epochs))


def destabilises(run: Run, rise: float = 4.0) -> float:
    """The first epoch at which a branch's training loss is `rise` times its lowest before.

    Infinite where it never is.
    """
    log = run.log()
    loss = np.where(np.isfinite(log["train_loss"]), log["train_loss"], np.inf)
    lowest = np.minimum.accumulate(loss)
    at = np.flatnonzero(loss >= rise * lowest)
    return float(log["epoch"][at[0]]) if len(at) else float("inf")
