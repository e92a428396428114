"""The lines of an experiment: the commands of each run, and where its files are (no torch)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import runs
from experiments.setting import Differing, Experiment
from options import Measure, Train, tidy, words
from utils import UserError

ROOT = Path("Experiments")


@dataclass(frozen=True)
class Line:
    """One curve of a figure: the commands of its run and where its files are."""

    name: str
    folder: Path  # of the trial
    options: Train
    commands: dict[str, list[str]]  # name of the log -> words of the command, in order

    @property
    def checkpoints(self) -> list[int]:
        """The epochs after which the run saves a checkpoint."""
        epochs, every = self.options.epochs, self.options.save_freq
        return [epoch for epoch in range(epochs + 1) if runs.is_saved(epoch, every)]

    def log(self, step: str) -> Path:
        return self.folder / f"{step}.log"


def lines_of(experiment: Experiment) -> list[Line]:
    """The lines of an experiment, with their commands. Raises UserError if options contradict each
    other, or two lines are the same."""
    lines = [make_line(experiment, differing) for differing in experiment.lines]
    folders = [line.folder for line in lines]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice:
        raise UserError(f"two lines would share the folder {twice}: --trials repeats a line")
    return lines


def make_line(experiment: Experiment, differing: Differing) -> Line:
    """One line, in a folder named after the options in which it differs from the others."""
    name = folder_name({k: v for k, v in differing.items() if k not in ("trial", "epochs")})
    directory = ROOT / experiment.name / name
    if "trial" in differing:
        name += f"_trial_{differing['trial']}"
    options = tidy(replace(experiment.options, dir=str(directory), resume=True, **differing))
    folder = runs.trial_folder(directory, options.trial)
    train_tm, prebn, test_em = (str(folder / f"{metrics}.npz") for metrics in runs.METRICS)
    shared = Measure(models_dir=str(folder), update=True, gpu=options.gpu)
    subsets = ("eval_on_train_subsets",) if options.corrupt_train else ()
    flags = dict.fromkeys((*runs.TRAIN_FLAGS, *subsets), True)
    on_train = replace(shared, save_path=train_tm, prebn_save_path=prebn, **flags)
    on_test = replace(shared, save_path=test_em, **dict.fromkeys(runs.TEST_FLAGS, True))
    commands = {
        "train": ["train.py", *words(options)],
        "train-tm": ["test.py", *words(on_train)],
        "test-em": ["test.py", *words(on_test)],
    }
    return Line(name, folder, options, commands)


def folder_name(options: Differing) -> str:
    """Options and their values, as in lr_0.1_wd_0.001_fix_si_pnorm; a flag has no value."""
    parts = []
    for key, value in options.items():
        name = key.removesuffix("_init")
        number = isinstance(value, (int, float))
        parts.append(key if value is True else f"{name}_{value:g}" if number else f"{name}_{value}")
    return "_".join(parts)


def is_measured(line: Line) -> bool:
    try:
        measured = [runs.Metrics.read(line.folder / f"{m}.npz").rows for m in runs.METRICS]
    except UserError:  # damaged
        return False
    saved = runs.whole_epochs(line.folder).keys()
    return all(rows and saved <= rows.keys() for rows in measured)


def is_finished(line: Line) -> bool:
    """Whether the line has its last checkpoint, or a later one, and all are measured. Raises
    UserError if its folder holds a run with other options."""
    if not (line.folder / runs.CONFIG).exists():
        return False
    runs.check_same_run(line.folder, line.options)
    trained = runs.has_come_to(line.folder, line.options.epochs)
    return (trained or runs.diverged_at(line.folder) is not None) and is_measured(line)


def unfinished(lines: Iterable[Line]) -> list[Line]:
    return [line for line in lines if not is_finished(line)]


def check_data(lines: Sequence[Line]) -> None:
    """Load the images of these lines once: CIFAR is downloaded, an ImageFolder decoded. Raises
    UserError if a data set is missing or malformed, or has fewer images than asked for."""
    import data  # only now: it loads torch

    sizes = ("dataset", "data_path", "use_test", "use_data_size", "use_test_size")
    asked = {tuple(getattr(line.options, key) for key in sizes): line.options for line in lines}
    for options in asked.values():
        plain = replace(options, corrupt_train=None, split_classes=None)
        data.load(plain, options.use_test)
        if not options.use_test:  # the metrics test-em are of the test set all the same
            data.load(replace(plain, use_data_size=None, use_test_size=None), use_test=True)
