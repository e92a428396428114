"""What a folder holds of the run that is asked for, and the state from which it goes on."""

from pathlib import Path
from typing import Any

from options import NORM_EPS, Train
from runs import checkpoints
from runs.arrays import Metrics
from runs.config import OFFICIAL, check_same_run, read_config
from runs.folder import CONFIG, LATEST, METRICS, checkpoints_in
from runs.log import diverged_at, read_log
from utils import UserError


class Diverged(Exception):
    """The training loss has become NaN or infinite."""

    def __init__(self, epoch: float, measured: bool):
        way = " and measured" if measured else "; with --resume --metrics they are measured"
        super().__init__(
            f"diverged: the training loss of epoch {epoch:g} is not finite. The checkpoints up to "
            f"there are saved{way}. A smaller --lr_init may help"
        )


def is_complete(folder: Path, last: int, options: Train) -> bool:
    """True, with a message, if --resume has nothing left to do.

    Raises
    ------
    UserError : the folder holds a run with other options, or neither --resume nor --overwrite is
        given.
    Diverged : the run diverged, and no metrics are left to do.
    """
    found = checkpoints_in(folder)
    # A run whose checkpoints are gone is one too, and starting anew would remove what is measured.
    there = found or (folder / LATEST).exists() or read_log(folder) or any(folder.glob("*.npz"))
    if not there:
        return False
    if options.overwrite:
        branches = sorted(path.parent.name for path in folder.glob(f"branch-*/{CONFIG}"))
        if branches:
            raise UserError(
                f"{folder} has branches of the run that --overwrite would replace, {branches[0]} "
                "for one: remove them first, or name another --dir"
            )
        return False
    if not options.resume:
        raise UserError(f"{folder} already holds a run: give --resume or --overwrite")
    try:
        check_same_run(folder, options)
    except FileNotFoundError:
        raise UserError(
            f"{folder} holds a run but no {CONFIG}, so --resume cannot tell whether they "
            "belong to this run: branch off one with --resume_epoch, or name another --dir"
        ) from None
    diverged = diverged_at(folder)
    newest = max((epoch for epoch, part in found if not part), default=0)
    tables = [Metrics.read_if_there(folder / f"{name}.npz") for name in METRICS]
    measured = all(newest in table.rows for table in tables)
    if (newest < last and diverged is None) or (options.metrics and not measured):
        return False
    if diverged is not None:
        raise Diverged(diverged, measured)
    print(f"{folder} is complete: checkpoint-{newest}.pt is its last")
    return True


def newest_checkpoint(folder: Path) -> tuple[int | None, dict[str, Any] | None]:
    """The newest state that can be read, and its epoch; damaged files are named and passed over.

    Raises
    ------
    UserError : there are checkpoints, but none of a whole epoch can be read.
    """
    found = checkpoints_in(folder)
    numbered = [path for (_, part), path in found.items() if not part]
    paths = [folder / LATEST, *reversed(numbered)]
    for path in filter(Path.exists, paths):
        try:
            content = checkpoints.load(path)
            if "epoch" not in content:
                raise UserError(f"{path} does not say of which epoch it is")
            return int(content["epoch"]), content
        except UserError as error:
            print(f"note: passed over: {error}")
    if found:
        raise UserError(
            f"no checkpoint of a whole epoch in {folder} can be read: --overwrite starts the run "
            "anew"
        )
    return None, None


def norm_eps_of(trial: Path, options: Train) -> float:
    """The epsilon of a run that names none: of a branch, that of the run it goes on from."""
    if options.resume_epoch is None:
        return NORM_EPS
    try:
        return read_config(trial)["norm_eps"]
    except FileNotFoundError:
        return OFFICIAL["norm_eps"]
