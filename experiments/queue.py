"""Which lines there is something to do for: not finished, and not in SLURM's queue."""

import re
import shutil
import subprocess
from collections.abc import Sequence

import runs
from experiments import cost
from experiments.lines import Line, is_finished
from experiments.runner import say
from utils import plural


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


def say_cost(lines: Sequence[Line], gpu: bool) -> None:
    """What is left of these lines will take, on a GPU or on a core of a CPU."""
    try:
        about = f", training and metrics still to do: about {cost.total(lines, left=True).on(gpu)}"
    except RuntimeError:  # of a network of one's own that takes other images than of 32 x 32
        about = ", of a network whose work is not known"
    say(plural(len(lines), "line") + about)
