"""What a GPU is wanted for, in pieces of some minutes: python -m experiments.gpu --minutes 10

In this order: the checks of tests/test_cuda.py; what each way of computing takes
(benchmark.py --choices); figure2 and three_regimes at full length. When the minutes are over, what
runs is stopped as by Ctrl-C, and the same command goes on from there. results/ gets what is worth
keeping: the checks' figures, the tables, and of every run its configuration, log and metrics,
which are a few hundred kilobytes.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import runs
from command_line import Option, Parser, integer, number, one_of
from experiments.lines import ROOT, Line, check_data, lines_of, unfinished
from experiments.local import run_here
from experiments.papers import PAPERS
from experiments.runner import SCRIPTS
from experiments.setting import IMAGE_FOLDER, Experiment
from options import PRECISIONS
from utils import Interrupted, UserError, locked, user_errors

OPTIONS = (
    Option("--minutes", number(0, open_low=True), 10.0, "stop after these; the next call goes on"),
    Option("--jobs", integer(1), 4, "lines that run at once"),
    Option("--precision", one_of(PRECISIONS), "tf32", "of the runs and of their metrics"),
    Option("--compile", None, False, "run through torch.compile (needs a C++ compiler)"),
    IMAGE_FOLDER,
)
RESULTS = Path("results")
# name of the file of what they print -> the command, after the interpreter
COMMANDS = {
    "checks": "-m pytest -q -s tests/test_cuda.py",
    "choices": "benchmark.py --choices --width 32 --images 50000 --epochs 1 --lines 4",
}
WANTED = tuple(e for e in PAPERS if e.name in ("figure2", "three_regimes"))


def on_gpu(experiment: Experiment, precision: str, compiled: bool) -> Experiment:
    """The same at this precision, with one checkpoint a line: its files are easily moved."""
    params = {"precision": precision, "metrics_precision": precision, "compile": compiled}
    params = {**experiment.params, **params, "keep": 1, "keep_epochs": None}
    return replace(experiment, name=f"{experiment.name}_{precision}", params=params)


def run_once(name: str, words: str) -> None:
    """Run a command and keep what it prints; nothing if that is there already."""
    path = RESULTS / "gpu" / f"{name}.txt"
    if path.exists():
        print(f"{path} is there already")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *shlex.split(words)],
            cwd=SCRIPTS,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it is stopped with the processes that it starts
        )
        try:
            status = process.wait()
        except Interrupted:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        file.write(f"exit status {status}\n")
    partial.replace(path)
    print(path.read_text())


def keep(lines: Sequence[Line]) -> None:
    """Copy what the lines have left to results/, but for the checkpoints."""
    names = [runs.CONFIG, runs.LOG, *(f"{name}.npz" for name in runs.METRICS)]
    for line in lines:
        to = RESULTS / line.folder.relative_to(ROOT)
        for path in filter(Path.exists, (line.folder / name for name in names)):
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
    for path in (ROOT / lines[0].folder.relative_to(ROOT).parts[0]).glob("*.png"):
        shutil.copy(path, RESULTS / path.parent.name)


def main(argv: list[str] | None = None) -> int:
    options = Parser(OPTIONS, prog="experiments.gpu", description=__doc__).parse_args(argv)
    import torch  # only now: it is slow to import

    if not torch.cuda.is_available():  # else what is skipped here would count as done there
        raise UserError("PyTorch sees no GPU here, and this is for one")

    wanted = [
        on_gpu(experiment, options.precision, options.compile).on_folder(options.image_folder)
        for experiment in WANTED
    ]
    every = [line for experiment in wanted for line in lines_of(experiment)]

    def stop(number: int, frame: object) -> None:
        raise Interrupted(number)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * options.minutes)
    lines: list[Line] = []
    failed = 0
    try:
        check_data(unfinished(every))
        for name, words in COMMANDS.items():
            run_once(name, words)
        for experiment in wanted:
            lines = lines_of(experiment)
            with locked(ROOT / experiment.name / runs.LOCK, f"experiment {experiment.name}"):
                failed |= run_here(experiment, lines, options.jobs)
            keep(lines)
        print("all is done")
    except Interrupted as interrupted:
        if lines:
            keep(lines)
        if interrupted.number != signal.SIGALRM:
            raise
        print(f"the {options.minutes:g} minutes are over; the same command goes on")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return failed


if __name__ == "__main__":
    with user_errors("experiments.gpu"):
        sys.exit(main())
