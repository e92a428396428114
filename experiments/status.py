"""How far the lines of an experiment are, from their folders, whoever runs them."""

import socket
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

import runs
from experiments import cost
from experiments.lines import Line, is_finished
from experiments.queue import squeue
from theory.periods import find_periods
from utils import UserError, duration, is_alive

HEADERS = (
    "line", "state", "epoch", "train loss", "test error, %", "periods", "CV",
    "s/epoch", "time left",
)  # fmt: skip


def state_of(line: Line, queue: dict[str, str] | None) -> str:
    """done, diverged, queued, running, failed, stopped or "not started".

    `queue` is what SLURM has (`queue.squeue`). A note of a job that is no longer in the queue, or
    of a process of this machine that is gone, is not believed: it was killed.
    """
    try:
        if is_finished(line):
            return "done" if runs.diverged_at(line.folder) is None else "diverged"
    except UserError:
        return "another run is there"
    note = runs.read_state(line.folder)
    if note is None:
        return "stopped" if runs.read_log(line.folder) else "not started"
    state, job = note["state"], note.get("job")
    if state not in ("queued", "running"):
        return state if state != "done" else "stopped"
    if job is not None and queue is not None:
        if job not in queue:
            return "failed"
        return "running" if queue[job] == "RUNNING" and state == "running" else "queued"
    if (
        state == "running"
        and note["host"] == socket.gethostname()
        and not is_alive(note["process"])
    ):
        return "stopped"
    return state


def row(line: Line, queue: dict[str, str] | None) -> list[str]:
    state, log = state_of(line, queue), runs.read_log(line.folder)
    if not log:
        return [line.name, state, f"0/{line.epochs}", *[""] * (len(HEADERS) - 3)]
    last = log[-1]
    seconds = sorted(r["seconds"] for r in log[-20:])[len(log[-20:]) // 2]
    accuracies = [r["test_acc"] for r in log if r["test_acc"] is not None]
    error = f"{100 - 100 * accuracies[-1]:.2f}" if accuracies else ""
    left = ""
    if state in ("queued", "running", "stopped", "failed"):
        left = duration(cost.in_epochs(line, left=True) * seconds)
    epoch, loss = f"{last['epoch']:g}/{line.epochs}", f"{last['train_loss']:.4g}"
    columns = ([r[key] for r in log] for key in ("epoch", "train_loss", "si_norm"))
    periods = find_periods(*(np.array(column, dtype=float) for column in columns))
    cv = f"{periods.cv:.2f}" if len(periods) > 2 else ""
    return [line.name, state, epoch, loss, error, str(len(periods)), cv, f"{seconds:.2f}", left]


def table(lines: Sequence[Line]) -> str:
    """A row for each line, and how many are in which state."""
    queue = squeue()
    rows = [row(line, queue) for line in lines]
    states = [r[1] for r in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    align = ("left", "left", *("right",) * (len(HEADERS) - 2))
    return f"{tabulate(rows, HEADERS, disable_numparse=True, colalign=align)}\n\n{counts}"
