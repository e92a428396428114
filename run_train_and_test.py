"""Train the lines of a figure, measure their checkpoints, draw the figure.

Edit the parameters below and run `python run_train_and_test.py`, or name a setting of
experiments/: `python run_train_and_test.py --experiment demo`.
"""

from utils import end_quietly  # first: what follows takes a second

if __name__ == "__main__":
    end_quietly("run_train_and_test.py")

import shlex
import sys
from textwrap import fill

from tabulate import tabulate

import runs
from command_line import Option, Parser, integer, key_values, one_of
from experiments import EXPERIMENTS, IMAGE_FOLDER, Experiment, block, cost, status
from experiments.lines import ROOT, check_data, lines_of, unfinished
from experiments.local import run_here
from experiments.slurm import submit
from utils import UserError, duration, locked, user_errors

sys.excepthook = block.explain  # a mistake in the parameters is one line

# ------------------------------- the parameters that people edit -------------------------------

exp_name = "my_experiment"  # results go to Experiments/<exp_name>
dataset = "CIFAR10"  # CIFAR10, CIFAR100, SVHN, Digits, ImageFolder
data_path = "./datasets"
network = "ConvNetSI"  # ConvNetSI, ResNet18SI; all weights trainable: ConvNetSIAf, ResNet18SIAf
fix_noninvlr = 0.0  # learning rate of the weights that are not scale invariant; -1: as the others
params = {
    "num_channels": 32,
    "depth": 3,
    "init_scale": 10.0,  # -1 with fix_noninvlr = -1
    "momentum": 0.0,
    "batch_size": 128,
    "epochs": 1000,
    "save_freq": 1,
    "metrics": True,  # measured while training; False: by test.py afterwards
}
lrs = [0.01]  # learning rates
wds = [0.001]  # weight decays
combine = "zip"  # the first lr with the first wd, and so on; "cross": every lr with every wd
fix_elr = "fix_lr"  # "fix_elr": train on the sphere, at the effective learning rates below;
# "fix_all_elr": there with every filter held at one norm
elrs = [0.001]  # instead of lrs and wds
same_last_layer = False  # True: draw the last layer from one fixed seed in all runs
add_params = "--use_test --noaug --no_schedule"  # flags, and anything else train.py takes

# -----------------------------------------------------------------------------------------------

DRIVER = (
    Option("--experiment", one_of(list(EXPERIMENTS)), None, "a named setting"),
    IMAGE_FOLDER,
    Option("--test", None, False, "print the commands and run nothing"),
    Option("--list", None, False, "print the named settings"),
    Option("--status", None, False, "print how far every line is, whoever runs it"),
    Option("--overwrite", None, False, "start every line anew, whatever its folder holds"),
    Option("--trials", integer(1), 1, "independent repetitions of every line"),
    Option("--jobs", integer(1), None, "lines that run at once (default: 1 here, all in SLURM)"),
    Option("--launcher", one_of(("local", "slurm")), "local", "local, slurm (a job array)"),
    Option("--sbatch", key_values, {}, "SLURM: options of sbatch, as in gpus-per-node=1,time=240"),
)


def edited_experiment() -> Experiment:
    """The setting of the parameters at the top of this file.

    Raises
    ------
    UserError : one of them is not of the right kind.
    """
    block.check({name: globals()[name] for name in block.NAMES})
    return Experiment(
        exp_name,
        "the parameters at the top of run_train_and_test.py",
        dataset,
        data_path,
        network,
        fix_noninvlr,
        {**params, "same_last_layer": params.get("same_last_layer", same_last_layer)},
        tuple(lrs),
        tuple(wds),
        combine,
        add_params,
        fix_elr,
        tuple(elrs),
    )


def print_experiments() -> None:
    """A row for every named experiment, at most 100 columns wide."""
    timings = [cost.Timings(gpu) for gpu in (False, True)]
    rows = []
    for experiment in EXPERIMENTS.values():
        lines = lines_of(experiment)
        seconds = [cost.total(lines, gpu, timings=t).seconds for gpu, t in enumerate(timings)]
        times = ["not timed yet" if s is None else duration(s) for s in seconds]
        rows.append([experiment.name, len(lines), *times, fill(experiment.shows, 42)])
    headers = ("experiment", "lines", "CPU core", "GPU", "what it shows")
    print(tabulate(rows, headers, colalign=("left", "right", "right", "right", "left")))
    print(f"\nTimes: as in runs in {ROOT}/ of the same networks, or else {cost.ON_REFERENCE}")
    print("--experiment NAME runs one; with --test it prints the commands instead")


def main(argv: list[str] | None = None) -> int:
    arguments = Parser(DRIVER, "run_train_and_test.py", __doc__).parse_args(argv)
    if arguments.sbatch and arguments.launcher != "slurm":
        raise UserError("--sbatch belongs to --launcher slurm")
    if arguments.list:
        print_experiments()
        return 0
    experiment = EXPERIMENTS.get(arguments.experiment) or edited_experiment()
    experiment = experiment.on_folder(arguments.image_folder)
    if arguments.trials > 1:
        experiment = experiment.in_trials(range(arguments.trials))
    lines = lines_of(experiment)
    if arguments.status:
        print(status.table(lines))
        return 0
    if arguments.test:
        for line in lines:
            for words in line.commands.values():
                print(shlex.join(["python", *words]))
        return 0

    if arguments.launcher == "local":
        check_data(lines if arguments.overwrite else unfinished(lines))
    with locked(ROOT / experiment.name / runs.LOCK, f"experiment {experiment.name}"):
        if arguments.overwrite:
            for line in lines:
                with locked(line.folder / runs.LOCK, str(line.folder)):
                    runs.remove_run(line.folder)
        if arguments.launcher == "local":
            return run_here(experiment, lines, arguments.jobs or 1)
        submit(experiment, lines, arguments.jobs or len(lines), arguments.sbatch)
        return 0


if __name__ == "__main__":
    with user_errors("run_train_and_test.py"):
        sys.exit(main())
