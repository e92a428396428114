"""The lines of an experiment: the commands of each run, and where its files are (no torch)."""

import argparse
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runs
from command_line import command
from experiments.setting import Experiment
from options import train_options
from utils import UserError

ROOT = Path("Experiments")


@dataclass(frozen=True)
class Line:
    """One curve of a figure: the commands of its run and where its files are."""

    name: str
    folder: Path  # of the trial
    options: argparse.Namespace  # of train.py
    commands: dict[str, list[str]]  # name of the log -> words of the command, in order

    @property
    def epochs(self) -> int:
        return self.options.epochs

    @property
    def checkpoints(self) -> list[int]:
        """The epochs after which the run saves a checkpoint."""
        return [e for e in range(self.epochs + 1) if runs.is_saved(e, self.options.save_freq)]

    def work(self, left: bool = False) -> tuple[int, int]:
        """How many epochs to train and checkpoints to measure: all, or those `left` to do."""
        if not left:
            return self.epochs, len(self.checkpoints)
        rows = runs.read_log(self.folder)
        trained = int(rows[-1]["epoch"]) if rows else 0
        try:
            measured = runs.Metrics.read_if_there(self.folder / "train-tm.npz").rows
        except UserError:  # a damaged file is measured anew
            measured = {}
        return max(self.epochs - trained, 0), len({*self.checkpoints} - measured.keys())

    def log(self, step: str) -> Path:
        return self.folder / f"{step}.log"


def lines_of(experiment: Experiment) -> list[Line]:
    """The lines of an experiment, with their commands."""
    try:
        differing = experiment.lines()
    except ValueError as error:
        raise UserError(str(error)) from None
    lines = [make_line(experiment, options) for options in differing]
    folders = [line.folder for line in lines]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice:
        raise UserError(f"two lines would share the folder {twice}: --trials repeats a line")
    return lines


def make_line(experiment: Experiment, differing: dict[str, Any]) -> Line:
    """One line, in a folder named after the options by which it differs from the others."""
    named = {k: v for k, v in differing.items() if k not in ("trial", "epochs")}
    name = words_for(named).replace("_init ", "_").replace(" ", "_")
    directory = ROOT / experiment.name / name
    if "trial" in differing:
        name += f"_trial_{differing['trial']}"
    sphere = "fix_all_elr" if experiment.fix_elr == "fix_all_elr" else "fix_elr"
    values = {
        "dir": directory,
        "dataset": experiment.dataset,
        "data_path": experiment.data_path,
        "model": experiment.network,
        "noninvlr": experiment.fix_noninvlr,
        **experiment.params,
        sphere: "elr" in differing,
        **differing,
    }
    try:
        extra = shlex.split(experiment.add_params)
    except ValueError as error:
        raise UserError(f"add_params {experiment.add_params}: {error}") from None
    train = command("train.py", values, [*extra, "--resume"])
    # A wrong parameter is reported before anything runs; what changes nothing, by train.py.
    options = train_options(train[1:], say=lambda note: None)
    if options.dir != str(directory):
        raise UserError(
            f"dir {options.dir}: a line's folder is Experiments/<exp_name>/<its rates>, where it "
            "is measured and drawn; name another exp_name instead"
        )
    if options.resume_epoch is not None:
        raise UserError("resume_epoch: the driver trains whole runs; branch off one with train.py")
    folder = runs.trial_folder(directory, options.trial)
    train_tm, prebn, test_em = (folder / f"{metrics}.npz" for metrics in runs.METRICS)
    shared = {
        "models_dir": folder,
        "update": True,
        "gpu": experiment.params.get("gpu"),
        "metrics_precision": experiment.params.get("metrics_precision"),
    }
    on_train = {
        "save_path": train_tm,
        "prebn_save_path": prebn,
        "eval_on_train_subsets": bool(options.corrupt_train),
    }
    commands = {
        "train": train,
        "train-tm": command(
            "test.py", {**shared, **on_train, **dict.fromkeys(runs.TRAIN_FLAGS, True)}
        ),
        "test-em": command(
            "test.py", {**shared, "save_path": test_em, **dict.fromkeys(runs.TEST_FLAGS, True)}
        ),
    }
    return Line(name, folder, options, commands)


def words_for(options: dict[str, Any]) -> str:
    """Options and their values in words; a flag has none."""
    parts = []
    for key, value in options.items():
        number = isinstance(value, (int, float))
        parts.append(key if value is True else f"{key} {value:g}" if number else f"{key} {value}")
    return " ".join(parts)


def is_measured(line: Line) -> bool:
    """Whether all of the line's checkpoints are measured."""
    try:
        measured = [runs.Metrics.read(line.folder / f"{m}.npz").rows for m in runs.METRICS]
    except (FileNotFoundError, UserError):
        return False
    return all(set(_whole_epochs(line)) <= rows.keys() for rows in measured)


def is_finished(line: Line) -> bool:
    """Whether the line's last checkpoint is there and all are measured.

    Raises
    ------
    UserError : its folder holds a run with other options.
    """
    try:
        runs.check_same_run(line.folder, vars(line.options))
    except FileNotFoundError:
        return False
    ended = line.epochs in _whole_epochs(line) or runs.diverged_at(line.folder) is not None
    return ended and is_measured(line)


def _whole_epochs(line: Line) -> list[int]:
    return [epoch for epoch, step in runs.checkpoints_in(line.folder) if not step]


def unfinished(lines: Iterable[Line]) -> list[Line]:
    return [line for line in lines if not is_finished(line)]


def check_data(lines: Sequence[Line]) -> None:
    """Load the images of these lines once: CIFAR is downloaded, an ImageFolder decoded.

    Raises
    ------
    UserError : a data set is missing or malformed, or has fewer images than asked for.
    """
    import data  # only now: it loads torch

    sizes = ("use_test", "use_data_size", "use_test_size")
    asked = {
        (o.dataset, o.data_path, *(getattr(o, key) for key in sizes)): o
        for o in (line.options for line in lines)
    }
    for options in asked.values():
        which = {key: getattr(options, key) for key in sizes}
        data.load(options.dataset, options.data_path, **which)
        if not options.use_test:  # the metrics test-em are of the test set all the same
            data.load(options.dataset, options.data_path, use_test=True)


def run_of(line: Line) -> runs.Run:
    """The run that the line has left."""
    return runs.Run(line.folder, runs.read_config(line.folder))
