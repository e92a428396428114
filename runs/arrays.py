"""The metrics files: named arrays over the checkpoints of a run."""

import contextlib
import errno
import io
from pathlib import Path
from typing import Any

import numpy as np

from runs.folder import LOCK
from utils import UserError, locked, write_atomically

PATIENCE = 60  # seconds to wait for another process that is writing the same file

# The flags of test.py for them; train-tm-prebn comes from the same pass as train-tm.
TRAIN_FLAGS = ("train_mode", "eval_model", "all_pnorm", "calc_grad_norms")
TEST_FLAGS = ("use_test", "eval_model")


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(values) for name, values in arrays.items()})
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of an .npz file by name, and the names of those that hold Python objects, such as
    the official code's norms by parameter group, which are not read. Raises UserError if it is not
    an .npz file or is damaged, and OSError if it is not there or may not be read."""
    found, objects = {}, []
    try:
        with np.load(path) as file:
            for name in file.files:
                try:
                    found[name] = file[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
                    objects.append(name)
    except MemoryError:
        raise
    except Exception as error:  # NumPy raises many kinds for other files, and EINVAL
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise _foreign(path) from None
    return found, objects


def _foreign(path: Path) -> UserError:
    return UserError(f"{path} is not a metrics file: move it away, or name another")


class Metrics:
    """One .npz file of metrics: for each reported epoch a row of named numbers or vectors.

    In the file every name is an array over the epochs. The numbers of a diverged network are NaN or
    infinite. A number that was not measured is NaN too, and named in the array "missing", if there
    is any, as "<epoch> <name>".
    """

    def __init__(self, rows: dict[float, dict[str, Any]] | None = None):
        self.rows = rows or {}

    @classmethod
    def read(cls, path: Path) -> "Metrics":
        """The content of a file; no rows without one. Raises UserError if it is damaged."""
        if not path.exists():
            return cls()
        arrays, objects = read_arrays(path)
        if objects:
            raise UserError(
                f"{path} holds {objects[0]}, Python objects that would be lost: name another file"
            )
        try:
            epochs = list(arrays.pop("report_epochs").tolist())
            missing = set(arrays.pop("missing", np.array([])).tolist())
            rows = {epoch: {name: a[i] for name, a in arrays.items()
                            if f"{epoch} {name}" not in missing}
                    for i, epoch in enumerate(epochs)}  # fmt: skip
        except (KeyError, IndexError, AttributeError, TypeError):
            raise _foreign(path) from None
        return cls(rows)

    def write(self, path: Path) -> None:
        epochs = sorted(self.rows)
        whole = all(e == int(e) for e in epochs)
        arrays = {"report_epochs": np.array(epochs, dtype=np.int64 if whole else np.float64)}
        missing = []
        for name, like in {n: v for row in self.rows.values() for n, v in row.items()}.items():
            values = []
            for epoch, shown in zip(epochs, arrays["report_epochs"].tolist(), strict=True):
                if name not in self.rows[epoch]:
                    missing.append(f"{shown} {name}")
                values.append(self.rows[epoch].get(name, np.asarray(like) * np.nan))
            if len({np.shape(value) for value in values}) > 1:
                raise UserError(
                    f"{path} has {name} of other batches or classes: write to another file"
                )
            arrays[name] = np.array(values)
        if missing:
            arrays["missing"] = np.array(missing)
        write_arrays(path, arrays)

    def merge(self, path: Path) -> None:
        """Add what only the file has, and write it; where both have a number, this one is kept. So
        two processes can fill one file: a training with its metrics, and test.py with more."""
        with locked(path.with_name(f".{path.name}{LOCK}"), str(path), patience=PATIENCE):
            with contextlib.suppress(UserError):  # damaged: replaced
                for epoch, row in Metrics.read(path).rows.items():
                    self.rows[epoch] = {**row, **self.rows.get(epoch, {})}
            self.write(path)

    def add(self, epoch: float, values: dict[str, Any]) -> None:
        self.rows.setdefault(epoch, {}).update(values)
