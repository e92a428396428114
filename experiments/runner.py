"""Runs the commands of one line and records its state in its folder."""

import contextlib
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import runs
from experiments.lines import Line, is_measured

SCRIPTS = Path(__file__).resolve().parents[1]
GRACE = 3.0  # seconds that a stopped command has to end by itself
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
LIBC = ctypes.CDLL(None)


def prepare_child() -> None:
    """Set how a command reacts to signals: SIGINT stops it even if ignored here (nohup ... &).
    SIGUSR2, SLURM's warning before a time-out, reaches every process of a job, and the job itself
    stops its command. On Linux the command gets SIGTERM when the process that runs it dies."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class LineRunner:
    """Runs the commands of one line, one after the other, each with so many CPU `threads` (None:
    what the libraries choose). `job` is the number of this process's SLURM job, if any."""

    def __init__(self, line: Line, threads: int | None = None, job: str | None = None):
        self.line, self.job = line, job
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if threads is not None:
            self.environment["OMP_NUM_THREADS"] = str(threads)
        self.failed: str | None = None  # which command, and its log
        self.stopped = False
        self.lock = threading.RLock()  # `stop` may be called by a signal's handler
        self.process: subprocess.Popen | None = None
        self.end: threading.Thread | None = None  # waits for the process to end

    def run(self) -> None:
        """Run the commands until one fails or `stop` is called. test.py is skipped if train.py has
        measured everything itself (--metrics)."""
        line = self.line
        for step, words in line.commands.items():
            if step != "train" and is_measured(line):
                continue
            status = self._run(step, words)
            if status is None:
                return  # stopped before it began
            if self.stopped:
                self._record("stopped")
                return
            diverged = step == "train" and status == runs.DIVERGED_STATUS  # is still measured
            if status != 0 and not diverged:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else "failed"
                self.failed = f"{step} {how}: {line.log(step)}"
                self._record("failed", step=step)
                print(f"[{line.name}] {self.failed}\n", end="")
                return
        self._record("done")

    def _record(self, state: str, **more: str) -> None:
        where = {"host": socket.gethostname(), "process": os.getpid(), "job": self.job}
        runs.write_state(self.line.folder, {"state": state, **where, **more})

    def _run(self, step: str, words: list[str]) -> int | None:
        """Run one command, copy its output to the log and to stdout; return its exit status."""
        line = self.line
        with self.lock:
            if self.stopped:
                return None
            self._record("running")
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPTS / words[0]), *words[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment,
                start_new_session=True,  # Ctrl-C reaches it only through `stop`
                preexec_fn=prepare_child,
            )
            self.end = threading.Thread(target=self._wait)
            self.end.start()
        with line.log(step).open("a") as log, self.process.stdout as output:
            print(f"$ {shlex.join(['python', *words])}", file=log, flush=True)
            for text in output:
                log.write(text)
                log.flush()
                print(f"[{line.name}] {text}", end="")
        self.end.join()
        return self.process.returncode

    def _wait(self) -> None:
        self.process.wait()
        self._kill()  # what it has started ends with it

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the running command as Ctrl-C does, or kill it after `GRACE`; then return."""
        with self.lock:
            self.stopped = True
        if self.end is not None:
            self.process.send_signal(signal.SIGINT)
            self.end.join(GRACE)
            self._kill()
            self.end.join()
