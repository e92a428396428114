"""The state of the lines of an experiment, from their folders and SLURM's queue."""

import re
import shutil
import socket
import subprocess
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

import runs
from experiments import cost
from experiments.lines import Line, is_finished
from theory.periods import find_periods
from utils import UserError, duration, is_alive, plural

HEADERS = (
    "line", "state", "epoch", "train loss", "test error, %", "periods", "CV",
    "s/epoch", "time left",
)  # fmt: skip


def squeue() -> dict[str, str] | None:
    """The user's jobs in SLURM's queue, number -> state; None where SLURM does not answer."""
    if shutil.which("squeue") is None:
        return None
    done = subprocess.run(
        ["squeue", "--me", "--noheader", "--array", "--format=%i %T"],  # one task per row
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        return None
    return dict(re.findall(r"(\S+) (\S+)", done.stdout))


def to_do(lines: Sequence[Line]) -> list[Line]:
    """The lines still to run; prints why each other one is skipped."""
    jobs = [(runs.read_state(line.folder) or {}).get("job") for line in lines]
    queue = squeue() if any(jobs) else None
    todo = []
    for line, job in zip(lines, jobs, strict=True):
        if is_finished(line):
            print(f"[{line.name}] is finished: {line.folder}")
        elif queue and job in queue:
            print(f"[{line.name}] is job {job} already: {queue[job].lower()}")
        else:
            todo.append(line)
    return todo


def print_cost(lines: Sequence[Line], gpu: bool) -> None:
    print(f"{plural(len(lines), 'line')}: {cost.total(lines, gpu, left=True).on(gpu)}")


def state_of(line: Line, queue: dict[str, str] | None) -> str:
    """done, diverged, queued, running, failed, stopped or "not started". The recorded state is not
    believed if its job has left the `queue` or its process on this machine is gone."""
    try:
        if is_finished(line):
            return "done" if runs.diverged_at(line.folder) is None else "diverged"
    except UserError:
        return "another run is there"
    record = runs.read_state(line.folder)
    if record is None:
        return "stopped" if runs.read_log(line.folder) else "not started"
    state, job = record["state"], record.get("job")
    if state not in ("queued", "running"):
        return state if state != "done" else "stopped"
    if job is not None and queue is not None:
        if job not in queue:
            return "failed"
        return "running" if queue[job] == "RUNNING" and state == "running" else "queued"
    here = state == "running" and record.get("host") == socket.gethostname()
    return "stopped" if here and not is_alive(int(record.get("process", 0))) else state


def row(line: Line, queue: dict[str, str] | None) -> list[str]:
    state, log = state_of(line, queue), runs.read_log(line.folder)
    if not log:
        return [line.name, state, f"0/{line.options.epochs}", *[""] * (len(HEADERS) - 3)]
    last = log[-1]
    seconds = float(np.median([r["seconds"] for r in log[-20:]]))
    accuracies = [r["test_acc"] for r in log if r["test_acc"] is not None]
    error = f"{100 - 100 * accuracies[-1]:.2f}" if accuracies else ""
    left = ""
    if state in ("queued", "running", "stopped", "failed"):
        left = duration(cost.in_epochs(line, left=True) * seconds)
    epoch, loss = f"{last['epoch']:g}/{line.options.epochs}", f"{last['train_loss']:.4g}"
    columns = ([r[key] for r in log] for key in ("epoch", "train_loss", "si_norm"))
    periods = find_periods(*(np.array(column, dtype=float) for column in columns))
    cv = f"{periods.cv:.2f}" if len(periods) > 2 else ""
    return [line.name, state, epoch, loss, error, str(len(periods)), cv, f"{seconds:.2f}", left]


def table(lines: Sequence[Line]) -> str:
    """A row for each line, and how many lines are in which state."""
    queue = squeue()
    rows = [row(line, queue) for line in lines]
    states = [r[1] for r in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    align = ("left", "left", *("right",) * (len(HEADERS) - 2))
    return f"{tabulate(rows, HEADERS, disable_numparse=True, colalign=align)}\n\n{counts}"
