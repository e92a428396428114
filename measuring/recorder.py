"""Metrics measured while a run trains (--metrics), and old checkpoints removed (--keep).

The files are those of test.py, and so are the numbers: the same meters fill them.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch

import data
import runs
from measuring.meter import Meter
from measuring.wanted import parameter_names
from options import FROM_RUN, Machine, Measure, Train, names
from runs import checkpoints
from utils import UserError

WRITE_EVERY = 10  # seconds between two writings of the files


def measure_as(options: Train) -> Measure:
    """The options by which test.py measures a run with these options: no metrics yet."""
    shared = (*FROM_RUN, *names(Machine))
    return Measure(**{name: getattr(options, name) for name in shared})


def recording_meters(
    model: torch.nn.Module,
    train_images: data.ImageSet,
    test_images: data.ImageSet,
    options: Train,
) -> list[Meter]:
    """The meters of --metrics; the scopes are the names of the files."""
    subsets = ("eval_on_train_subsets",) if train_images.corrupted.any() else ()
    everything = parameter_names(model, si_only=False)
    invariant = parameter_names(model, si_only=True)
    parts = (
        (
            train_images,
            (*runs.TRAIN_FLAGS, *subsets),
            {"train-tm": everything, "train-tm-prebn": invariant},
        ),
        (test_images, runs.TEST_FLAGS, {"test-em": everything}),
    )
    return [
        Meter(model, images, replace(measure_as(options), **dict.fromkeys(flags, True)), scopes)
        for images, flags, scopes in parts
    ]


class Recorder:
    """The metrics files of one run.

    A checkpoint is removed only when its metrics are on disk, so after a crash the metrics that
    were not yet written can be measured from the checkpoints that are still there (`catch_up`).
    """

    def __init__(
        self,
        folder: Path,
        model: torch.nn.Module,
        train_images: data.ImageSet,
        test_images: data.ImageSet,
        options: Train,
    ):
        self.folder, self.model, self.keep = folder, model, options.keep
        self.tables = {name: runs.Metrics.read_if_there(self.path(name)) for name in runs.METRICS}
        self.meters = recording_meters(model, train_images, test_images, options)
        self.written = time.monotonic()

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def add(self, epoch: float) -> dict[str, dict]:
        """Measure the network as it is now: a row for each file, which is returned too."""
        rows = {name: row for meter in self.meters for name, row in meter.measure().items()}
        for name, row in rows.items():
            self.tables[name].add(epoch, row)
        if time.monotonic() - self.written > WRITE_EVERY:
            self.write()
        return rows

    def write(self) -> None:
        """Write the files, and remove the checkpoints that are no longer wanted."""
        for name, table in self.tables.items():
            table.merge(self.path(name))
        self.written = time.monotonic()
        if self.keep is not None:
            runs.prune(self.folder, self.keep)

    def catch_up(self) -> bool:
        """Measure the folder's checkpoints whose metrics are missing; whether there were any.

        The network then has the weights of one of them.
        """
        found = False
        for (epoch, step), path in runs.checkpoints_in(self.folder).items():
            if not step and self._has(epoch):
                continue
            try:
                content = checkpoints.load(path)
            except UserError as error:
                print(f"note: passed over: {error}")
                continue
            now = content["epoch"] if step else epoch
            if not self._has(now):
                checkpoints.load_weights(self.model, content, path)
                self.add(now)
                found = True
        return found

    def _has(self, epoch: float) -> bool:
        return all(epoch in table.rows for table in self.tables.values())
