"""What a run writes besides checkpoints: its log, the traces of its steps, the launcher's notes."""

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
    """Make these rows, all with the same keys, the whole of log.csv; without any there is none."""
    if rows:
        write_atomically(folder / LOG, _as_csv(rows, header=True))
    else:
        (folder / LOG).unlink(missing_ok=True)


def append_log(folder: Path, row: dict[str, Any]) -> None:
    """Add a row, with the keys of the others in their order, to log.csv, and flush it to the disk.

    A row that a kill or a full disk has torn has no end of line and is not read.
    """
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
    """The rows of log.csv (an empty list if there is none yet); None for what was not measured.

    Damaged rows are left out.
    """
    try:
        lines = (folder / LOG).read_text(errors="replace").split("\n")[:-1]  # the torn one
    except FileNotFoundError:
        return []
    header, *rows = [line.rstrip("\r").split(",") for line in lines] or [[]]
    found = []
    for row in rows:
        try:
            columns = zip(header, row, strict=True)
            found.append({key: float(value) if value else None for key, value in columns})
        except ValueError:
            continue
    return found


def diverged_at(folder: Path) -> float | None:
    """The first epoch with a training loss that was NaN or infinite, if there is one."""
    rows = read_log(folder)
    return next((row["epoch"] for row in rows if not np.isfinite(row["train_loss"])), None)


def write_trace(folder: Path, epoch: int, columns: dict[str, Any]) -> None:
    """Write what the steps of one epoch did: columns of (steps,) numbers, or one for all."""
    write_arrays(folder / "trace" / f"epoch-{epoch}.npz", columns)


def read_trace(folder: Path) -> dict[str, np.ndarray]:
    """All traced steps of a run in order: the columns of `steps.COLUMNS`, "lr" and "epoch".

    Every array has a number for each step; "epoch" is the time before the step, in epochs. Empty
    where nothing was traced.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for epoch, path in traces(folder).items():
        arrays, _ = read_arrays(path)
        steps = len(arrays["loss"])
        parts.setdefault("epoch", []).append(epoch + np.arange(steps) / steps)
        for name, values in arrays.items():
            parts.setdefault(name, []).append(np.broadcast_to(values, steps))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Note what a launcher has done with a run: "state" (queued, running, done, failed, stopped),
    and the host, process and job that does it."""
    write_atomically(folder / STATE, (json.dumps(state) + "\n").encode())


def read_state(folder: Path) -> dict[str, Any] | None:
    """What a launcher last did with a run; None if there is no note, or a damaged one."""
    try:
        return json.loads((folder / STATE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
