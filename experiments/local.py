"""Runs the lines of an experiment in this machine's processes, some at once."""

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import runs
from experiments import cost
from experiments.lines import ROOT, Line
from experiments.queue import say_cost, to_do
from experiments.runner import LineRunner, say
from experiments.setting import Experiment
from utils import Interrupted, duration, plural


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool:
    """Runs lines in this machine's processes, some at once."""

    def __init__(self, lines: Sequence[Line], jobs: int):
        self.lines, self.jobs = lines, min(jobs, len(lines))
        share = max(1, cores() // self.jobs) if self.jobs > 1 else None
        self.runners = [LineRunner(line, share) for line in lines]
        self.over = threading.Event()

    def run(self) -> None:
        threading.Thread(target=self._estimate, daemon=True).start()
        pool = ThreadPoolExecutor(self.jobs)
        futures = [pool.submit(runner.run) for runner in self.runners]
        try:
            for future in futures:
                while not future.done():
                    time.sleep(0.1)
                future.result()
        except Interrupted:
            with ThreadPoolExecutor() as stoppers:  # all at once: each waits for its command
                stoppers.map(LineRunner.stop, self.runners)
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            self.over.set()

    def _estimate(self) -> None:
        """Say how long everything will take, as soon as one line has timed a second epoch."""
        while not self.over.wait(0.5):
            for line in self.lines:
                rows = runs.read_log(line.folder)
                if len(rows) > 1:
                    seconds = rows[-1]["seconds"]
                    left = sum(cost.in_epochs(line, left=True) for line in self.lines)
                    say(
                        f"about {duration(left * seconds / self.jobs)} to train and measure "
                        f"{plural(len(self.lines), 'line')}: {seconds:.2f} s an epoch"
                    )
                    return


def run_here(experiment: Experiment, lines: Sequence[Line], jobs: int) -> int:
    """Run what is not finished, draw the figure, report; the exit status."""
    runners = []
    todo = to_do(lines)
    if todo:
        import torch  # only now: it is slow to import

        say_cost(todo, gpu=torch.cuda.is_available())
        pool = Pool(todo, jobs)
        try:
            pool.run()
        except Interrupted:
            say("stopped: what the lines have saved is whole, and the same command goes on")
            raise
        runners = pool.runners
    failed = [runner for runner in runners if runner.failed]
    if len(failed) < len(lines):
        import figures  # only now: matplotlib is slow to import

        figures.report([ROOT / experiment.name])
    for runner in runners:
        if runner.diverged:
            say(f"[{runner.line.name}] diverged: {runner.line.log('train')}")
    for runner in failed:
        say(f"[{runner.line.name}] {runner.failed} failed: {runner.line.log(runner.failed)}")
    return 1 if failed else 0
