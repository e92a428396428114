"""How a run's folder is named, what lies in it, and how it is read back. No torch in here.

A run is one trial of one setting and has one folder, `<dir>/trial_<t>`:

    config.json                    every option, the network's size, versions and machine
    log.csv                        a row per epoch
    checkpoint-<epoch>.pt          the state after that many epochs; 0 is the initialisation
    checkpoint-<epoch>-<step>.pt   the state so many steps later (--save_freq_int)
    latest.pt                      the state after the latest epoch, while the run is not complete
    train-tm.npz, ...              metrics by checkpoint (test.py)
    state.json                     what the launcher last did with it, and where
    trace/epoch-<k>.npz            every step from checkpoint k to k + 1 (--trace)
    branch-<epoch>.../             a run of its own, branched off that checkpoint
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils import UserError, write_atomically

CONFIG, LOG, LATEST, LOCK = "config.json", "log.csv", "latest.pt", ".lock"
STATE = "state.json"
DIVERGED_STATUS = 3  # exit status of train.py when the loss has become NaN or infinite
METRICS = ("train-tm", "train-tm-prebn", "test-em")  # the .npz files that every run should have
# The flags of test.py for them; train-tm-prebn comes from the same pass as train-tm.
TRAIN_FLAGS = ("train_mode", "eval_model", "all_pnorm", "calc_grad_norms")
TEST_FLAGS = ("use_test", "eval_model")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)(?:-(\d+))?\.pt")
# Options that say where and how to run, not what to train: they do not make it another run.
HOW_TO_RUN = frozenset(
    [
        "dir",
        "data_path",
        "num_workers",
        "gpu",
        "resume",
        "overwrite",
        "resume_epoch",
        "keep_going",
        "metrics",
        "trace",
        "keep",
        "keep_epochs",
        "compile",
        "deterministic",
        "eval_freq",
        "save_freq",
        "save_freq_int",
    ]
)

# Options that configurations of older versions lack, and what those runs did.
LATER_OPTIONS = {"norm": "batch", "optimizer": "sgd"}


def trial_folder(directory: str | Path, trial: int) -> Path:
    return Path(directory).expanduser() / f"trial_{trial}"


def branch_folder(parent: Path, epoch: int, config: dict[str, Any]) -> Path:
    """The folder of a branch, named after the options that it changes."""
    try:
        changed = differences(read_config(parent), config)
    except FileNotFoundError:  # a checkpoint of another program
        changed = {}
    changed.pop("epochs", None)
    words = [f"{key}={value[1]}" for key, value in sorted(changed.items())]
    return parent / "_".join([f"branch-{epoch}", *words])


def differences(saved: dict[str, Any], asked: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The options that decide what is trained and differ: name -> (saved value, asked value)."""
    keys = (saved.keys() & asked.keys()) - HOW_TO_RUN
    return {key: (saved[key], asked[key]) for key in sorted(keys) if saved[key] != asked[key]}


def check_same_run(folder: Path, options: dict[str, Any]) -> None:
    """Refuse to mix runs.

    Raises
    ------
    UserError : the folder holds a run with other options, which are named.
    FileNotFoundError : it has no configuration.
    """
    changed = differences(read_config(folder), options)
    if options["no_schedule"]:
        changed.pop("epochs", None)  # a constant rate can go on for longer
    if changed:
        what = ", ".join(f"{k} (saved {a}, asked {b})" for k, (a, b) in changed.items())
        raise UserError(f"{folder} holds another run; different: {what}")


def diverged_at(folder: Path) -> float | None:
    """The first epoch with a training loss that was NaN or infinite, if there is one."""
    rows = read_log(folder)
    return next((row["epoch"] for row in rows if not np.isfinite(row["train_loss"])), None)


def checkpoint_path(folder: Path, epoch: int, step: int = 0) -> Path:
    return folder / (f"checkpoint-{epoch}-{step}.pt" if step else f"checkpoint-{epoch}.pt")


def checkpoints(folder: Path) -> dict[tuple[int, int], Path]:
    """The checkpoints of a folder: (epoch, step within it) -> file, in the order of training."""
    found = {}
    for path in folder.glob("checkpoint-*.pt"):
        match = _CHECKPOINT.fullmatch(path.name)
        if match:
            found[int(match[1]), int(match[2] or 0)] = path
    return dict(sorted(found.items()))


def prune(folder: Path, keep: int, asked: Sequence[int]) -> None:
    """Remove all but the newest `keep` checkpoints and those after the `asked` epochs."""
    found = checkpoints(folder)
    newest = list(found)[-keep:]
    for (epoch, step), path in found.items():
        if (epoch, step) not in newest and (step or epoch not in asked):
            path.unlink()


def is_saved(epoch: int, save_freq: int | None) -> bool:
    """Whether the state after this many epochs is kept: every save_freq, or ever more rarely."""
    if save_freq is None:
        spacing = ((20, 1), (100, 5), (200, 10), (1000, 50), (2000, 100), (10_000, 500))
        save_freq = next((every for until, every in spacing if epoch <= until), 1000)
    return epoch % save_freq == 0


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration that train.py saved with a run.

    Raises
    ------
    FileNotFoundError : the folder holds no config.json.
    UserError : the file is damaged.
    """
    text = (folder / CONFIG).read_text()
    try:
        return {**LATER_OPTIONS, **json.loads(text)}
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / CONFIG} is damaged: {error}") from None


def write_config(folder: Path, config: dict[str, Any]) -> None:
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


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


def write_log(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of log.csv, all with the same keys."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / LOG, text.getvalue().encode())


def read_log(folder: Path) -> list[dict[str, float | None]]:
    """The rows of log.csv (an empty list if there is none yet); None for what was not measured."""
    try:
        with (folder / LOG).open(newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    return [{key: float(value) if value else None for key, value in row.items()} for row in rows]


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write named arrays as one .npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(values) for name, values in arrays.items()})
    write_atomically(path, buffer.getvalue())


def traces(folder: Path) -> dict[int, Path]:
    """The traces of a run by the number of the epoch, counted from 0, in order."""
    found = {
        int(path.stem.removeprefix("epoch-")): path for path in folder.glob("trace/epoch-*.npz")
    }
    return dict(sorted(found.items()))


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
        with np.load(path) as file:
            steps = len(file["loss"])
            parts.setdefault("epoch", []).append(epoch + np.arange(steps) / steps)
            for name in file.files:
                parts.setdefault(name, []).append(np.broadcast_to(file[name], steps))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


class Metrics:
    """One .npz file of metrics: for each reported epoch a row of named numbers or vectors.

    In the file every name is one array over the epochs, in order. A diverged network's numbers are
    NaN or infinite. A number that was not measured is NaN too, and the array "missing", which
    is there only then, names it as "<epoch> <name>".
    """

    def __init__(self, rows: dict[float, dict[str, Any]] | None = None):
        self.rows = rows or {}

    @classmethod
    def read(cls, path: Path) -> "Metrics":
        """Raises FileNotFoundError, or UserError where `path` is not such a file."""
        try:
            with np.load(path) as file:
                arrays = dict(file)
            epochs = arrays.pop("report_epochs").tolist()
            missing = set(arrays.pop("missing", np.array([], dtype=str)).tolist())
            rows = {
                epoch: {
                    name: values[i]
                    for name, values in arrays.items()
                    if f"{epoch} {name}" not in missing
                }
                for i, epoch in enumerate(epochs)
            }
        except FileNotFoundError:
            raise
        except Exception:
            raise UserError(f"{path} is not a metrics file: delete it, or name another") from None
        return cls(rows)

    @classmethod
    def read_if_there(cls, path: Path) -> "Metrics":
        """As `read`, but empty where there is no file."""
        return cls.read(path) if path.exists() else cls()

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
            arrays[name] = np.array(values)
        if missing:
            arrays["missing"] = np.array(missing)
        write_arrays(path, arrays)

    def lacks(self, epoch: float, names: Sequence[str]) -> bool:
        """Whether any of these numbers has not been measured."""
        return not set(names) <= self.rows.get(epoch, {}).keys()

    def add(self, epoch: float, values: dict[str, Any]) -> None:
        self.rows.setdefault(epoch, {}).update(values)


@dataclass(frozen=True)
class Run:
    """A run read back from its folder, for plots and tables."""

    folder: Path
    config: dict[str, Any]

    @property
    def base_lr(self) -> float:
        """The learning rate before the schedule (on the sphere it follows from the ELR)."""
        return self.config.get("base_lr", self.config["lr_init"])

    def log(self) -> dict[str, np.ndarray]:
        """The columns of log.csv, an array over the epochs each; NaN for what was not measured.

        Empty where there is no log, as beside checkpoints of the official code.
        """
        rows = read_log(self.folder)
        keys = rows[0] if rows else ()
        return {key: np.array([row[key] for row in rows], dtype=float) for key in keys}

    def trace(self) -> dict[str, np.ndarray]:
        """Every traced step, see `read_trace`."""
        return read_trace(self.folder)

    def metrics(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of one metrics file, by name; empty when there is no such file."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return {}
        with np.load(path) as file:
            return dict(file)


def find_runs(root: str | Path, branches: bool = False) -> list[Run]:
    """Every measured run below a folder, by learning rate, weight decay and folder.

    Branches are left out unless they are asked for.
    """
    found = [Run(path.parent, read_config(path.parent)) for path in Path(root).rglob(CONFIG)]
    found = [
        run
        for run in found
        if any((run.folder / f"{m}.npz").exists() for m in METRICS)
        and (branches or run.config.get("resume_epoch") is None)
    ]
    return sorted(found, key=lambda r: (r.base_lr, r.config["wd"], str(r.folder)))


def find_experiments(root: str | Path) -> dict[str, list[Run]]:
    """The runs below a folder by experiment: the folder of their lines."""
    experiments: dict[str, list[Run]] = {}
    for run in find_runs(root):
        name = run.folder.parent.parent.relative_to(root).as_posix()
        experiments.setdefault(name, []).append(run)
    return dict(sorted(experiments.items()))
