"""What a run writes besides checkpoints: its log, the traces of its steps, the launcher's notes."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runs.arrays import read_arrays, write_arrays
from runs.folder import LOG, STATE, traces
from utils import write_atomically


def write_log(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace log.csv by these rows, which have the same keys; without rows there is no file."""
    if rows:
        write_atomically(folder / LOG, _as_csv(rows, header=True))
    else:
        (folder / LOG).unlink(missing_ok=True)


def append_log(folder: Path, row: dict[str, Any]) -> None:
    """Add a row to log.csv, with the same keys in the same order, and flush it to the disk. A kill
    or a full disk may leave a row without its end of line, which `read_log` ignores."""
    path = folder / LOG
    try:
        with path.open("ab") as file:
            file.write(_as_csv([row], header=file.tell() == 0))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _as_csv(rows: Sequence[dict[str, Any]], header: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_log(folder: Path) -> list[dict[str, float | None]]:
    """The rows of log.csv that are not damaged, [] without a file; None for what was not
    measured."""
    if not (folder / LOG).exists():
        return []
    lines = (folder / LOG).read_text(errors="replace").split("\n")[:-1]  # the last has no end
    header, *rows = [line.rstrip("\r").split(",") for line in lines] or [[]]
    found = []
    for row in rows:
        with contextlib.suppress(ValueError):
            columns = zip(header, row, strict=True)
            values = {key: float(value) if value else None for key, value in columns}
            if values.get("epoch") is not None:
                found.append(values)
    return found


def diverged_at(folder: Path) -> float | None:
    """The first epoch whose training loss was NaN or infinite; None if there is none."""
    rows = [row for row in read_log(folder) if row.get("train_loss") is not None]
    return next((row["epoch"] for row in rows if not np.isfinite(row["train_loss"])), None)


def write_trace(folder: Path, epoch: int, columns: dict[str, Any]) -> None:
    """Write what the steps of one epoch did: columns of (steps,) numbers, or one number for all."""
    write_arrays(folder / "trace" / f"epoch-{epoch}.npz", columns)


def read_trace(folder: Path) -> dict[str, np.ndarray]:
    """All traced steps of a run in order: `training.trace.COLUMNS`, "lr" and "epoch", the time
    before the step in epochs; a number for each step. Empty if nothing was traced."""
    parts: dict[str, list[np.ndarray]] = {}
    for epoch, path in traces(folder).items():
        arrays, _ = read_arrays(path)
        steps = len(arrays["loss"])
        parts.setdefault("epoch", []).append(epoch + np.arange(steps) / steps)
        for name, values in arrays.items():
            parts.setdefault(name, []).append(np.broadcast_to(values, steps))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Note what a launcher did with a run: "state" (queued, running, done, failed, stopped), and
    the host, process and job that did it."""
    write_atomically(folder / STATE, (json.dumps(state) + "\n").encode())


def read_state(folder: Path) -> dict[str, Any] | None:
    """The note of `write_state`; None if there is none, or a damaged one."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        state = json.loads((folder / STATE).read_text())
        if isinstance(state, dict) and isinstance(state.get("state"), str):
            return state
    return None
