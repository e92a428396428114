"""Train the lines of a figure, measure their checkpoints, draw the figure.

Edit the parameters below and run `python run_train_and_test.py`, or name a setting of
experiments/: `python run_train_and_test.py --experiment demo`.
"""

from utils import end_quietly  # first: what follows takes a second

if __name__ == "__main__":
    end_quietly("run_train_and_test.py")

import shlex
import sys
import time
from dataclasses import dataclass
from textwrap import fill

from tabulate import tabulate

import runs
from experiments import EXPERIMENTS, block, cost, status
from experiments.lines import ROOT, check_data, lines_of, unfinished
from experiments.local import run_here
from experiments.slurm import job_options, key_values, submit
from options import Options, integer, not_empty, number, one_of, option, parse
from utils import UserError, duration, locked, user_errors

sys.excepthook = block.explain  # a mistake in the parameters is one line

# ------------------------------- the parameters that people edit -------------------------------

exp_name = "my_experiment"  # results go to Experiments/<exp_name>
dataset = "CIFAR10"  # CIFAR10, CIFAR100, SVHN, Digits, ImageFolder
data_path = "./datasets"
network = "ConvNetSI"  # ConvNetSI, ResNet18SI; ConvNetSIAf, ResNet18SIAf: with scale and shift
fix_noninvlr = 0.0  # learning rate of the weights that are not scale invariant; -1: as the others
# To train all weights: one of the networks ...Af, fix_noninvlr = -1 and "init_scale": -1
params = {
    "num_channels": 32,
    "depth": 3,
    "init_scale": 10.0,
    "momentum": 0.0,
    "batch_size": 128,
    "epochs": 1000,
    "save_freq": 1,
    "metrics": True,  # measured while training; False: by test.py afterwards
}
lrs = [0.01]  # learning rates
wds = [0.001]  # weight decays
combine = "zip"  # the first lr with the first wd, and so on; "cross": every lr with every wd
fix_elr = "fix_lr"  # "fix_elr": train on the sphere, at elrs instead of lrs; the one of wds is then
# for the weights that are not scale invariant; "fix_all_elr": with every filter held at one norm
elrs = []  # effective learning rates, as in [1e-4, 1e-3]
same_last_layer = False  # True: draw the last layer from one fixed seed in all runs
add_params = "--use_test --noaug --no_schedule"  # flags, and anything else train.py takes

# -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Driver(Options):
    """What to run, and where."""

    experiment: str | None = option(None, "a named setting", one_of(list(EXPERIMENTS)))
    image_folder: str | None = option(
        None, "take this ImageFolder's images instead of the setting's data set", not_empty
    )
    test: bool = option(False, "print the commands and run nothing")
    list: bool = option(False, "print the named settings")
    status: bool = option(False, "print how far every line is, whoever runs it")
    overwrite: bool = option(False, "start every line anew, whatever its folder holds")
    trials: int = option(1, "independent repetitions of every line", integer(1))
    jobs: int | None = option(
        None, "lines that run at once (None: 1 here, all in SLURM)", integer(1)
    )
    time: float | None = option(
        None, "minutes after which all lines are stopped; the same command continues them",
        number(gt=0),
    )  # fmt: skip
    launcher: str = option("local", "local, slurm (a job array)", one_of(("local", "slurm")))
    sbatch: str = option("", "SLURM: options of sbatch, as in gpus-per-node=1,time=240", key_values)


def print_experiments() -> None:
    """A row for every named experiment, at most 100 columns wide."""
    timings, rows = cost.Timings(gpu=False), []
    for experiment in EXPERIMENTS.values():
        lines = lines_of(experiment)
        seconds = cost.total(lines, timings=timings).seconds
        took = "not timed yet" if seconds is None else duration(seconds)
        rows.append([experiment.name, len(lines), took, fill(experiment.shows, 50)])
    headers = ("experiment", "lines", "CPU core", "what it shows")
    print(tabulate(rows, headers, colalign=("left", "right", "right", "left")))
    print(f"\nTimes: as in runs in {ROOT}/ of the same networks, or else {cost.ON_REFERENCE}")
    print("--experiment NAME runs one; with --test it prints the commands instead")


def main(argv: list[str] | None = None) -> int:
    arguments, _ = parse(Driver, argv, "run_train_and_test.py", __doc__)
    if arguments.sbatch and arguments.launcher != "slurm":
        raise UserError("--sbatch belongs to --launcher slurm")
    if arguments.time and arguments.launcher == "slurm":
        raise UserError("--time belongs to --launcher local; for SLURM it is --sbatch time=MINUTES")
    until = time.monotonic() + 60 * arguments.time if arguments.time else None
    if arguments.list:
        print_experiments()
        return 0
    experiment = EXPERIMENTS.get(arguments.experiment) or block.experiment(globals())
    experiment = experiment.on_folder(arguments.image_folder)
    if arguments.trials > 1:
        experiment = experiment.in_trials(range(arguments.trials))
    lines = lines_of(experiment)
    if arguments.status:
        print(status.table(lines))
        return 0
    if arguments.test:
        for line in lines:
            for command in line.commands.values():
                print(shlex.join(["python", *command]))
        return 0

    # Report mistakes before anything is removed.
    for line in lines if arguments.overwrite else ():
        runs.check_no_branches(line.folder)
    if arguments.launcher == "local":
        check_data(lines if arguments.overwrite else unfinished(lines))
    else:
        job = job_options(arguments.sbatch)
    with locked(ROOT / experiment.name / runs.LOCK, f"experiment {experiment.name}"):
        if arguments.overwrite:
            for line in lines:
                with locked(line.folder / runs.LOCK, str(line.folder)):
                    runs.remove_run(line.folder)
        if arguments.launcher == "local":
            return run_here(experiment, lines, arguments.jobs or 1, until)
        submit(experiment, lines, arguments.jobs or len(lines), job)
        return 0


if __name__ == "__main__":
    with user_errors("run_train_and_test.py"):
        sys.exit(main())
