"""Runs the lines of an experiment on this machine, several at once."""

import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import runs
from experiments import cost
from experiments.lines import ROOT, Line, unfinished
from experiments.runner import LineRunner
from experiments.setting import Experiment
from experiments.status import print_cost, to_do
from utils import Interrupted, UserError, duration, plural

OUT_OF_TIME = 124  # exit status, as of timeout(1)


def cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_here(
    experiment: Experiment, lines: Sequence[Line], jobs: int, until: float | None = None
) -> int:
    """Run the unfinished lines, draw the figures, and say what failed or diverged. When
    `time.monotonic()` reaches `until`, all lines stop; the next call continues them. Returns the
    exit status: 1 if a line failed, else `OUT_OF_TIME`, else `runs.DIVERGED_STATUS`, else 0."""
    sys.stdout.reconfigure(line_buffering=True)
    failed, todo = [], to_do(lines)
    if todo:
        import torch  # imported here because it is slow

        print_cost(todo, gpu=torch.cuda.is_available())
        runners = run_lines(todo, min(jobs, len(todo)), until)
        failed = [runner for runner in runners if runner.failed]
    if len(failed) < len(lines):
        import figures  # imported here because matplotlib is slow

        try:
            figures.report([ROOT / experiment.name], nested=False)
        except UserError as error:  # the status is that of the runs
            print(f"note: no figures: {error}")
    diverged = False
    for line in lines:
        epoch = runs.diverged_at(line.folder)
        if epoch is not None:
            diverged = True
            print(f"[{line.name}] diverged in epoch {epoch:g}: {line.log('train')}")
    for runner in failed:
        print(f"[{runner.line.name}] {runner.failed}")
    if not failed and until is not None and unfinished(todo):
        return OUT_OF_TIME
    return 1 if failed else runs.DIVERGED_STATUS if diverged else 0


def run_lines(lines: Sequence[Line], jobs: int, until: float | None = None) -> list[LineRunner]:
    """Run lines, `jobs` at once and sharing the cores; stop them at the time `until`, if given."""
    threads = max(1, cores() // jobs) if jobs > 1 else None
    runners = [LineRunner(line, threads) for line in lines]
    over = threading.Event()
    estimate = threading.Thread(target=print_estimate, args=(lines, jobs, over), daemon=True)
    estimate.start()
    pool = ThreadPoolExecutor(jobs)
    futures = [pool.submit(runner.run) for runner in runners]

    def stop() -> None:
        pool.shutdown(wait=False, cancel_futures=True)
        with ThreadPoolExecutor() as stoppers:  # all at once, because each waits for its command
            stoppers.map(LineRunner.stop, runners)
        pool.shutdown()
        print("stopped; the same command continues from what is saved")

    left = math.inf if until is None else max(until - time.monotonic(), 0)
    try:
        _, running = wait(futures, min(left, threading.TIMEOUT_MAX))
        if running:
            stop()
        for future in futures:
            if not future.cancelled():
                future.result()
    except Interrupted:
        stop()
        raise
    finally:
        over.set()
        estimate.join()
    return runners


def print_estimate(lines: Sequence[Line], jobs: int, over: threading.Event) -> None:
    """Print how long everything will take, as soon as one line has trained two more epochs."""
    began = time.monotonic()
    before = [len(runs.read_log(line.folder)) for line in lines]
    while not over.wait(0.5):
        for line, known in zip(lines, before, strict=True):
            new = [row["seconds"] for row in runs.read_log(line.folder)[known:]]
            if len(new) < 2:
                continue
            start = max(time.monotonic() - began - sum(new), 0)  # of a command, before it works
            commands = sum(1 if each.options.metrics else 3 for each in lines)
            left = sum(cost.in_epochs(each, left=True) for each in lines) * new[-1]
            seconds = (left + (commands - jobs) * start) / jobs
            print(
                f"about {duration(seconds)} to train and measure {plural(len(lines), 'line')}: "
                f"{new[-1]:.2f} s an epoch, {start:.0f} s to start a command\n",
                end="",
            )
            return
