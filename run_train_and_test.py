"""Train the lines of a figure, measure their checkpoints, draw the figure.

Edit the parameters below and run `python run_train_and_test.py`, or name a setting of
experiments.py: `python run_train_and_test.py --experiment demo`.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runs
from experiments import EXPERIMENTS, IMAGE_FOLDER, Experiment
from options import Option, Parser, command, integer, one_of, train_options
from utils import Interrupted, UserError, duration, locked, user_errors

# ------------------------------- the parameters that people edit -------------------------------

exp_name = "my_experiment"  # results go to Experiments/<exp_name>
dataset = "CIFAR10"  # CIFAR10, CIFAR100, Digits, ImageFolder
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
}
lrs = [0.01]  # learning rates
wds = [0.001]  # weight decays
combine = "cross"  # every lr with every wd; "zip": the first with the first, and so on
fix_elr = "fix_lr"  # "fix_elr": train on the sphere, at the effective learning rates below
elrs = [0.001]  # instead of lrs and wds
add_params = "--use_test --noaug --no_schedule"  # flags, and anything else train.py takes

# -----------------------------------------------------------------------------------------------

ROOT = Path("Experiments")
HERE = Path(__file__).parent

DRIVER = (
    Option("--experiment", one_of(list(EXPERIMENTS)), None, "a setting of experiments.py"),
    IMAGE_FOLDER,
    Option("--test", None, False, "print the commands and run nothing"),
    Option("--jobs", integer(1), 1, "lines that run at once, each with its share of the CPU"),
    Option("--list", None, False, "print the named settings"),
)


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
    def checkpoints(self) -> int:
        """How many checkpoints the run will leave."""
        return sum(runs.is_saved(e, self.options.save_freq) for e in range(self.epochs + 1))

    def log(self, step: str) -> Path:
        return self.folder / f"{step}.log"


def edited_experiment() -> Experiment:
    """The setting of the parameters at the top of this file."""
    return Experiment(
        exp_name,
        "the parameters at the top of run_train_and_test.py",
        dataset,
        data_path,
        network,
        fix_noninvlr,
        params,
        tuple(lrs),
        tuple(wds),
        combine,
        add_params,
        fix_elr,
        tuple(elrs),
    )


def lines_of(experiment: Experiment) -> list[Line]:
    """The lines of an experiment, with their commands."""
    try:
        differing = experiment.lines()
    except ValueError as error:
        raise UserError(str(error)) from None
    return [make_line(experiment, options) for options in differing]


def make_line(experiment: Experiment, differing: dict[str, Any]) -> Line:
    """One line, in a folder named after the options by which it differs from the others."""
    words = [
        key if value is True else f"{key.removesuffix('_init')}_{shown(value)}"
        for key, value in differing.items()
        if key not in ("trial", "epochs")
    ]
    name = "_".join(words)
    directory = ROOT / experiment.name / name
    trial = differing.get("trial", experiment.params.get("trial", 0))
    folder = runs.trial_folder(directory, int(trial))
    if "trial" in differing:
        name += f"_trial_{trial}"
    values = {
        "dir": directory,
        "dataset": experiment.dataset,
        "data_path": experiment.data_path,
        "model": experiment.network,
        "noninvlr": experiment.fix_noninvlr,
        **experiment.params,
        "fix_elr": "elr" in differing,
        **differing,
    }
    train = command("train.py", values, [*shlex.split(experiment.add_params), "--resume"])
    options = train_options(train[1:])  # a wrong parameter is reported before anything runs
    commands = {"train": train}
    if not options.metrics:  # else train.py measures by itself
        train_tm, prebn, test_em = (folder / f"{metrics}.npz" for metrics in runs.METRICS)
        shared = {"models_dir": folder, "update": True, "gpu": experiment.params.get("gpu")}
        on_train = {"save_path": train_tm, "prebn_save_path": prebn}
        commands["train-tm"] = command(
            "test.py", {**shared, **on_train, **dict.fromkeys(runs.TRAIN_FLAGS, True)}
        )
        commands["test-em"] = command(
            "test.py", {**shared, "save_path": test_em, **dict.fromkeys(runs.TEST_FLAGS, True)}
        )
    return Line(name, folder, options, commands)


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


class Driver:
    """Runs the lines, some at once, and remembers what failed."""

    def __init__(self, lines: list[Line], jobs: int):
        self.lines, self.jobs = lines, min(jobs, len(lines))
        self.processes: set[subprocess.Popen] = set()
        self.failures: list[tuple[Line, str]] = []
        self.diverged: list[Line] = []
        self.stopping = threading.Event()
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.jobs > 1:
            share = max(1, cores() // self.jobs)
            self.environment["OMP_NUM_THREADS"] = str(share)

    def run(self) -> None:
        threading.Thread(target=self._estimate, daemon=True).start()
        pool = ThreadPoolExecutor(self.jobs)
        futures = [pool.submit(self._run_line, line) for line in self.lines]
        try:
            for future in futures:
                while not future.done():
                    time.sleep(0.1)
                future.result()
        except Interrupted:
            self.stopping.set()
            for process in list(self.processes):
                process.send_signal(signal.SIGINT)
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            self.stopping.set()

    def _run_line(self, line: Line) -> None:
        for step, words in line.commands.items():
            if self.stopping.is_set():
                return
            status = self._run(line, step, words)
            if status == runs.DIVERGED_STATUS and step == "train":
                self.diverged.append(line)  # a result like any other: its metrics are wanted
            elif status != 0:
                if not self.stopping.is_set():
                    self.failures.append((line, step))
                    say(f"[{line.name}] {step} FAILED, see {line.log(step)}")
                return

    def _run(self, line: Line, step: str, words: list[str]) -> int:
        """One command: its output goes to the log and, marked with the line's name, to here."""
        line.folder.mkdir(parents=True, exist_ok=True)
        with line.log(step).open("a") as log:
            print(f"$ {shlex.join(['python', *words])}", file=log, flush=True)
            process = subprocess.Popen(
                [sys.executable, str(HERE / words[0]), *words[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment,
                start_new_session=True,  # Ctrl-C reaches it through this driver alone
            )
            self.processes.add(process)
            for text in process.stdout:
                log.write(text)
                log.flush()
                say(f"[{line.name}] {text}", end="")
            self.processes.discard(process)
            return process.wait()

    def _estimate(self) -> None:
        """Say how long everything will take, as soon as one line has timed an epoch."""
        while not self.stopping.wait(0.5):
            for line in self.lines:
                rows = runs.read_log(line.folder)
                if rows:
                    seconds = rows[-1]["seconds"]
                    # Measuring a checkpoint is a pass over the same images as an epoch.
                    passes = sum(line.epochs + line.checkpoints for line in self.lines)
                    say(
                        f"about {duration(passes * seconds / self.jobs)} for these "
                        f"{len(self.lines)} lines: {seconds:.2f} s an epoch of training, and as "
                        "long for the metrics of a checkpoint"
                    )
                    return


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    try:
        measured = [runs.Metrics.read(line.folder / f"{m}.npz").rows for m in runs.METRICS]
    except (FileNotFoundError, UserError):
        return False
    whole = [epoch for epoch, step in runs.checkpoints(line.folder) if not step]
    ended = line.epochs in whole or runs.diverged_at(line.folder) is not None
    return ended and all(set(whole) <= rows.keys() for rows in measured)


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def print_experiments() -> None:
    for experiment in EXPERIMENTS.values():
        lines = [" ".join(f"{k} {shown(v)}" for k, v in o.items()) for o in experiment.lines()]
        say(f"{experiment.name:14} {experiment.shows} ({', '.join(lines)})")


def main(argv: list[str] | None = None) -> int:
    parser = Parser(DRIVER, prog="run_train_and_test.py", description=__doc__.split("\n")[0])
    arguments = parser.parse_args(argv)
    if arguments.list:
        print_experiments()
        return 0
    experiment = EXPERIMENTS.get(arguments.experiment) or edited_experiment()
    experiment = experiment.on_folder(arguments.image_folder)
    lines = lines_of(experiment)
    if arguments.test:
        for line in lines:
            for words in line.commands.values():
                say(shlex.join(["python", *words]))
        return 0

    with locked(ROOT / experiment.name / runs.LOCK, f"experiment {experiment.name}"):
        return run_lines(experiment, lines, arguments.jobs)


def run_lines(experiment: Experiment, lines: list[Line], jobs: int) -> int:
    """Run what is not finished, draw the figure, report; the exit status."""
    todo = [line for line in lines if not is_finished(line)]
    for line in lines:
        if line not in todo:
            say(f"[{line.name}] is finished: {line.folder}")
    failures, diverged = [], []
    if todo:
        driver = Driver(todo, jobs)
        try:
            driver.run()
        except Interrupted:
            say("stopped: what the lines have saved is whole, and the same command goes on")
            raise
        failures, diverged = driver.failures, driver.diverged
    if len(failures) < len(lines):
        import plots  # only now: matplotlib is slow to import

        plots.report(ROOT / experiment.name)
    for line in diverged:
        say(f"[{line.name}] diverged: {line.log('train')}")
    for line, step in failures:
        say(f"[{line.name}] {step} failed: {line.log(step)}")
    return 1 if failures else 0


if __name__ == "__main__":
    with user_errors("run_train_and_test.py"):
        sys.exit(main())
