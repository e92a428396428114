"""Runs the commands of one line, and notes in its folder what becomes of it."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import runs
from experiments.lines import Line, is_measured

SCRIPTS = Path(__file__).resolve().parents[1]


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def ignore_warning() -> None:
    """Ignore the signal by which SLURM warns a job, in a command of the job.

    It reaches every process of the job; the job itself then stops its command in good order.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


class LineRunner:
    """Runs the commands of one line one after the other, and says and notes what becomes of it.

    Parameters
    ----------
    threads : of the CPU for each command; None leaves it to the libraries.
    job : number of the SLURM job that this is part of, if any.
    """

    def __init__(self, line: Line, threads: int | None = None, job: str | None = None):
        self.line, self.job = line, job
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if threads is not None:
            self.environment["OMP_NUM_THREADS"] = str(threads)
        self.process: subprocess.Popen | None = None
        self.stopped = self.diverged = False
        self.failed: str | None = None  # the step that failed

    def run(self) -> None:
        """Run them until one fails or `stop` is called; the attributes then say how it went.

        What train.py has measured itself (--metrics) needs no test.py.
        """
        line = self.line
        self._note("running")
        for step, words in line.commands.items():
            if step != "train" and is_measured(line):
                continue
            status = 0 if self.stopped else self._run(step, words)
            if self.stopped:
                self._note("stopped")
                return
            if status == runs.DIVERGED_STATUS and step == "train":
                self.diverged = True  # a result like any other: its metrics are wanted
            elif status != 0:
                self.failed = step
                self._note("failed", step=step)
                say(f"[{line.name}] {step} FAILED, see {line.log(step)}")
                return
        self._note("done")

    def _note(self, state: str, **more: str) -> None:
        where = {"host": socket.gethostname(), "process": os.getpid(), "job": self.job}
        runs.write_state(self.line.folder, {"state": state, **where, **more})

    def _run(self, step: str, words: list[str]) -> int:
        """One command: its output goes to the log and, marked with the line's name, to here."""
        line = self.line
        with line.log(step).open("a") as log:
            print(f"$ {shlex.join(['python', *words])}", file=log, flush=True)
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPTS / words[0]), *words[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment,
                start_new_session=True,  # Ctrl-C reaches it through this process alone
                preexec_fn=ignore_warning if self.job else None,
            )
            for text in self.process.stdout:
                log.write(text)
                log.flush()
                say(f"[{line.name}] {text}", end="")
            return self.process.wait()

    def stop(self) -> None:
        """End the present command as Ctrl-C does and wait for it; what it has saved is whole."""
        self.stopped = True
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()
