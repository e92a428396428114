"""What a folder holds of the run that is asked for, and the state from which it continues."""

from pathlib import Path
from typing import Any

from options import NORM_EPS, Train
from runs import checkpoints
from runs.arrays import Metrics
from runs.config import OFFICIAL, check_same_run, read_config
from runs.folder import (
    CONFIG,
    LATEST,
    METRICS,
    check_no_branches,
    checkpoints_in,
    has_come_to,
    whole_epochs,
)
from runs.log import diverged_at, read_log
from utils import UserError


class Diverged(Exception):
    def __init__(self, epoch: float, measured: bool):
        how = "saved and measured" if measured else "saved; --resume --metrics measures them"
        super().__init__(
            f"diverged: the training loss of epoch {epoch:g} is not finite. The checkpoints up to "
            f"it are {how}. A smaller --lr_init may help"
        )


def is_complete(folder: Path, last: int, options: Train) -> bool:
    """True, with a message, if --resume has nothing left to do. Raises UserError if the folder
    holds another run, neither --resume nor --overwrite is given, or --overwrite would replace a run
    with branches. Raises Diverged if the run diverged and its checkpoints are measured or need not
    be."""
    found = checkpoints_in(folder)
    # A run whose checkpoints are gone is a run too: starting anew would remove its metrics.
    if not (found or (folder / LATEST).exists() or read_log(folder) or any(folder.glob("*.npz"))):
        return False
    if options.overwrite:
        check_no_branches(folder)
        return False
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{folder} holds a run but no {CONFIG}, so it is not known whether it is this run: "
            "branch off one of its checkpoints with --resume_epoch, or name another --dir"
        )
    check_same_run(folder, options)
    if not options.resume:
        raise UserError(f"{folder} already holds a run: give --resume or --overwrite")
    diverged = diverged_at(folder)
    newest = max(whole_epochs(folder), default=0)
    measured = all(
        {newest, *whole_epochs(folder)} <= Metrics.read(folder / f"{name}.npz").rows.keys()
        for name in METRICS
    )
    if not (has_come_to(folder, last) or diverged is not None) or (
        options.metrics and not measured
    ):
        return False
    if diverged is not None:
        raise Diverged(diverged, measured)
    print(f"{folder} is complete: checkpoint-{newest}.pt is its last")
    return True


def newest_checkpoint(folder: Path) -> tuple[int | None, dict[str, Any] | None]:
    """Epoch and content of the newest readable checkpoint; both None for an empty folder. Damaged
    files are named and passed over. Raises UserError if nothing else is left."""
    numbered = reversed(whole_epochs(folder).values())
    for path in filter(Path.exists, [folder / LATEST, *numbered]):
        try:
            content = checkpoints.load(path)
            if "epoch" not in content:
                raise UserError(f"{path} does not say of which epoch it is")
            return int(content["epoch"]), content
        except UserError as error:
            print(f"note: passed over: {error}")
    if checkpoints_in(folder):
        raise UserError(
            f"no checkpoint of a whole epoch in {folder} can be read: --overwrite starts the run "
            "anew"
        )
    return None, None


def norm_eps_of(trial: Path, options: Train) -> float:
    """The epsilon of a run that names none: for a branch, that of the run it continues."""
    if options.resume_epoch is None:
        return NORM_EPS
    return (read_config(trial) if (trial / CONFIG).exists() else OFFICIAL)["norm_eps"]
