"""Runs the lines of an experiment: here, several at once, or as jobs of a SLURM cluster.

Both run a line in the same way (`LineRunner`), and note in its folder what became of it, which
`status.py` reads.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import runs
from experiments import Experiment
from lines import ROOT, Line, is_finished
from utils import Interrupted, UserError, duration, plural

HERE = Path(__file__).resolve().parent


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        """Run them until one fails or `stop` is called; the attributes then say how it went."""
        line = self.line
        self._note("running")
        for step, words in line.commands.items():
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
                [sys.executable, str(HERE / words[0]), *words[1:]],
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


# --- here ---


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
        """Say how long everything will take, as soon as one line has timed an epoch."""
        while not self.over.wait(0.5):
            for line in self.lines:
                rows = runs.read_log(line.folder)
                if rows:
                    seconds = rows[-1]["seconds"]
                    passes = sum(line.passes for line in self.lines)
                    say(
                        f"about {duration(passes * seconds / self.jobs)} for these "
                        f"{plural(len(self.lines), 'line')}: {seconds:.2f} s an epoch of training, "
                        "and as long for the metrics of a checkpoint"
                    )
                    return


def to_do(lines: Sequence[Line]) -> list[Line]:
    """The lines that are neither finished nor a job in SLURM's queue; of the others it is said."""
    notes = {line.folder: (runs.read_state(line.folder) or {}).get("job") for line in lines}
    queue = squeue() if any(notes.values()) else None
    todo = []
    for line in lines:
        job = notes[line.folder]
        if is_finished(line):
            say(f"[{line.name}] is finished: {line.folder}")
        elif queue and job in queue:
            say(f"[{line.name}] is job {job} already: {queue[job].lower()}")
        else:
            todo.append(line)
    return todo


def say_cost(lines: Sequence[Line]) -> None:
    import cost  # only now: it imports torch

    say(f"{plural(len(lines), 'line')}, from the first epoch on about {cost.total(lines)}")


def run_here(experiment: Experiment, lines: Sequence[Line], jobs: int) -> int:
    """Run what is not finished, draw the figure, report; the exit status."""
    runners = []
    todo = to_do(lines)
    if todo:
        say_cost(todo)
        pool = Pool(todo, jobs)
        try:
            pool.run()
        except Interrupted:
            say("stopped: what the lines have saved is whole, and the same command goes on")
            raise
        runners = pool.runners
    failed = [runner for runner in runners if runner.failed]
    if len(failed) < len(lines):
        import plots  # only now: matplotlib is slow to import

        plots.report(ROOT / experiment.name)
    for runner in runners:
        if runner.diverged:
            say(f"[{runner.line.name}] diverged: {runner.line.log('train')}")
    for runner in failed:
        say(f"[{runner.line.name}] {runner.failed} failed: {runner.line.log(runner.failed)}")
    return 1 if failed else 0


# --- on a SLURM cluster ---

KILLED_RESTARTS = 10  # of a job whose processes were killed, before it counts as failed
# After srun in the batch script: a job whose processes a signal killed is queued again, and goes on
# from what it has saved. (submitit does so itself before a time-out or a pre-emption.)
REQUEUE_KILLED = (
    "code=$?",
    "if [ $code -gt 128 ] && [ $code -lt 160 ] && "
    f'[ "${{SLURM_RESTART_COUNT:-0}}" -lt {KILLED_RESTARTS} ]; then',
    "  scontrol requeue $SLURM_JOB_ID",
    "  sleep 60  # until the requeueing ends this script",
    "fi",
    "exit $code",
)


@dataclass(frozen=True)
class Cluster:
    """What a job asks of SLURM.

    Attributes
    ----------
    partition : None for the cluster's default one.
    gpus, cpus : for each job.
    minutes : its time limit; a job that reaches it is queued again and goes on.
    parallel : jobs that run at once.
    sbatch : further options of sbatch, name -> value.
    """

    partition: str | None
    gpus: int
    cpus: int
    minutes: int
    parallel: int
    sbatch: dict[str, str] = field(default_factory=dict)


class SlurmJob:
    """What submitit calls on a node with a line, and when the node is to be given up."""

    def __init__(self, cpus: int):
        self.cpus = cpus
        self.runner: LineRunner | None = None

    def __call__(self, line: Line) -> None:
        self.runner = LineRunner(line, self.cpus, job_number())
        self.runner.run()
        if self.runner.failed:
            raise RuntimeError(f"{self.runner.failed} failed: {line.log(self.runner.failed)}")

    def checkpoint(self, line: Line):
        """At a time-out or a pre-emption: stop, and say what to call when the job runs again."""
        from submitit.helpers import DelayedSubmission

        if self.runner is not None:
            self.runner.stop()
        runs.write_state(line.folder, {"state": "queued", "job": job_number()})
        return DelayedSubmission(SlurmJob(self.cpus), line)


def job_number() -> str:
    """Of the job that this process is part of, as squeue shows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def submit(experiment: Experiment, lines: Sequence[Line], cluster: Cluster) -> None:
    """Submit the unfinished lines that are not queued or running yet as one job array.

    Raises
    ------
    UserError : there is no SLURM here, or it refuses the job; what it says is passed on.
    """
    if squeue() is None:
        raise UserError("--launcher slurm needs a SLURM cluster: squeue is not here or fails")
    todo = to_do(lines)
    if not todo:
        return
    say_cost(todo)
    import submitit  # only now: few need it

    folder = (ROOT / experiment.name / "slurm").resolve()
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=10**6)
    asked = {"partition": cluster.partition, "gpus_per_node": cluster.gpus or None}
    executor.update_parameters(
        job_name=experiment.name,
        time=cluster.minutes,
        cpus_per_task=cluster.cpus,
        array_parallelism=cluster.parallel,
        stderr_to_stdout=True,
        setup=[f"export PYTHONPATH={shlex.quote(str(HERE))}:$PYTHONPATH"],
        teardown=list(REQUEUE_KILLED),
        additional_parameters=cluster.sbatch,
        **{key: value for key, value in asked.items() if value is not None},
    )
    # Noted before the jobs exist, because a job may start before submit returns.
    for line in todo:
        runs.write_state(line.folder, {"state": "queued", "job": None})
    try:
        jobs = executor.map_array(SlurmJob(cluster.cpus), todo)
    except submitit.core.utils.FailedJobError as error:
        for line in todo:
            (line.folder / runs.STATE).unlink(missing_ok=True)
        reason = [line for line in str(error).splitlines() if line.startswith("sbatch: error:")]
        words = reason[0].removeprefix("sbatch: error:").strip() if reason else "see above"
        raise UserError(f"SLURM refused the jobs: {words}") from None
    for line, job in zip(todo, jobs, strict=True):
        state = runs.read_state(line.folder)
        if state["state"] == "queued":
            runs.write_state(line.folder, {"state": "queued", "job": job.job_id})
        say(f"[{line.name}] is job {job.job_id}")
    say(f"{plural(len(todo), 'job')} submitted; their output: {folder}; how far they are: --status")


def squeue() -> dict[str, str] | None:
    """The user's jobs in SLURM's queue, number -> state; None where SLURM does not answer."""
    if shutil.which("squeue") is None:
        return None
    done = subprocess.run(
        ["squeue", "--me", "--noheader", "--array", "--format=%i %T"],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        return None
    return dict(re.findall(r"(\S+) (\S+)", done.stdout))
