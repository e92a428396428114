"""How a run's folder is named, and what lies in it.

A run is one trial of one setting and has one folder, `<dir>/trial_<t>`:

    config.json                    every option, the network's size, versions and machine
    log.csv                        a row per epoch
    checkpoint-<epoch>.pt          the state after that many epochs; 0 is the initialisation
    checkpoint-<epoch>-<i>.pt      the state i/N of an epoch later (--save_freq_int N)
    latest.pt                      the state after the latest epoch, if it has no checkpoint
    train-tm.npz, ...              metrics by checkpoint (test.py)
    state.json                     what the launcher last did with the run, and where
    trace/epoch-<k>.npz            every step from checkpoint k to k + 1 (--trace)
    branch-<epoch>.../             a run of its own, branched off that checkpoint
"""

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from utils import UserError

CONFIG, LOG, LATEST, LOCK = "config.json", "log.csv", "latest.pt", ".lock"
STATE = "state.json"
METRICS = ("train-tm", "train-tm-prebn", "test-em")  # the .npz files that every run should have
DIVERGED_STATUS = 3  # exit status of train.py when the loss has become NaN or infinite
_CHECKPOINT = re.compile(r"checkpoint-(\d+)(?:-(\d+))?\.pt")


def trial_folder(directory: str | Path, trial: int) -> Path:
    return Path(directory).expanduser() / f"trial_{trial}"


def files_below(root: Path) -> Iterator[Path]:
    """The files in and below a folder, through links to folders, each folder once."""
    seen = set()
    for folder, names, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        yield from (Path(folder, file) for file in files)


def checkpoint_path(folder: Path, epoch: int, part: int = 0) -> Path:
    return folder / (f"checkpoint-{epoch}-{part}.pt" if part else f"checkpoint-{epoch}.pt")


def checkpoints_in(folder: Path) -> dict[tuple[int, int], Path]:
    """The checkpoints of a folder: (epoch, part of the next) -> file, in the order of training."""
    found = {}
    for path in folder.glob("checkpoint-*.pt"):
        match = _CHECKPOINT.fullmatch(path.name)
        if match:
            found[int(match[1]), int(match[2] or 0)] = path
    return dict(sorted(found.items()))


def whole_epochs(folder: Path) -> dict[int, Path]:
    """The checkpoints of whole epochs, in order: epoch -> file."""
    return {epoch: path for (epoch, part), path in checkpoints_in(folder).items() if not part}


def is_whole(path: Path) -> bool:
    """Whether a checkpoint of this project is there, and complete: a copy that was cut short lacks
    the end of its zip archive."""
    return zipfile.is_zipfile(path)


def has_come_to(folder: Path, epoch: int) -> bool:
    """Whether the newest checkpoint of a whole epoch is complete, and of this epoch or later."""
    newest = max(whole_epochs(folder), default=-1)
    return newest >= epoch and is_whole(checkpoint_path(folder, newest))


def prune(folder: Path, keep: int) -> None:
    """Keep the newest `keep` checkpoints of whole epochs and what follows the oldest of them. Those
    within an epoch do not count, since a run can only continue from a whole one."""
    found = checkpoints_in(folder)
    oldest = ([key for key in found if not key[1]][-keep:] or [(0, 0)])[0]
    for key, path in found.items():
        if key < oldest:
            path.unlink()


def is_saved(epoch: int, save_freq: int | None) -> bool:
    """Whether the state after this many epochs is saved: every save_freq, or ever more rarely."""
    if save_freq is None:
        spacing = ((20, 1), (100, 5), (200, 10), (1000, 50), (2000, 100), (10_000, 500))
        save_freq = next((every for until, every in spacing if epoch <= until), 1000)
    return epoch % save_freq == 0


def traces(folder: Path) -> dict[int, Path]:
    """The traces of a run by the number of the epoch, counted from 0, in order."""
    found = {
        int(path.stem.removeprefix("epoch-")): path for path in folder.glob("trace/epoch-*.npz")
    }
    return dict(sorted(found.items()))


def check_no_branches(folder: Path) -> None:
    """Raise UserError if a run that is to be replaced has branches, which would not be its own."""
    branches = sorted(path.parent.name for path in folder.glob(f"branch-*/{CONFIG}"))
    if branches:
        raise UserError(
            f"{folder} has branches of the run that --overwrite would replace, for example "
            f"{branches[0]}: remove them first, or name another --dir"
        )


def remove_run(folder: Path, metrics: bool = True) -> None:
    """Remove the files of a run, so that no folder holds parts of two runs. Its `metrics` may stay
    if the same run follows. Branches off it are runs of their own and stay."""
    files = [*checkpoints_in(folder).values(), *traces(folder).values()]
    files += folder.glob("*.npz") if metrics else ()
    for path in [*files, *(folder / name for name in (CONFIG, LOG, LATEST))]:
        path.unlink(missing_ok=True)
