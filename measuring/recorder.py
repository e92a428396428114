"""Metrics measured while a run trains (--metrics), and old checkpoints removed (--keep).

The files and the numbers in them are those of test.py: the same meters fill them.
"""

import time
from dataclasses import replace
from pathlib import Path

import torch

import data
import runs
from measuring.meter import Meter
from measuring.wanted import measure_as, parameter_names
from options import Train
from runs import checkpoints
from utils import UserError

WRITE_EVERY = 10  # seconds between two writings of the files


def recording_meters(
    model: torch.nn.Module,
    train_images: data.ImageSet,
    test_images: data.ImageSet,
    options: Train,
) -> list[Meter]:
    """The meters of --metrics; the scopes are the names of the files."""
    subsets = ("eval_on_train_subsets",) if train_images.corrupted.any() else ()
    everything, invariant = (parameter_names(model, si_only) for si_only in (False, True))
    on_train = replace(measure_as(options), **dict.fromkeys((*runs.TRAIN_FLAGS, *subsets), True))
    on_test = replace(measure_as(options), **dict.fromkeys(runs.TEST_FLAGS, True))
    return [
        Meter(model, train_images, on_train, {"train-tm": everything, "train-tm-prebn": invariant}),
        Meter(model, test_images, on_test, {"test-em": everything}),
    ]


class Recorder:
    """The metrics files of one run. A checkpoint is removed only once its metrics are on disk, so
    that `catch_up` can measure after a crash what was not written yet."""

    def __init__(
        self,
        folder: Path,
        model: torch.nn.Module,
        train_images: data.ImageSet,
        test_images: data.ImageSet,
        options: Train,
    ):
        self.folder, self.model, self.keep = folder, model, options.keep
        self.tables = {name: runs.Metrics.read(folder / f"{name}.npz") for name in runs.METRICS}
        self.meters = recording_meters(model, train_images, test_images, options)
        self.written = time.monotonic()

    def add(self, epoch: float) -> dict[str, dict]:
        """Measure the network as it is now; returns the new row of each file, by its name."""
        rows = {name: row for meter in self.meters for name, row in meter.measure().items()}
        for name, row in rows.items():
            self.tables[name].add(epoch, row)
        if time.monotonic() - self.written > WRITE_EVERY:
            self.write()
        return rows

    def write(self) -> None:
        """Write the files, and remove the checkpoints that are no longer wanted."""
        for name, table in self.tables.items():
            table.merge(self.folder / f"{name}.npz")
        self.written = time.monotonic()
        if self.keep is not None:
            runs.prune(self.folder, self.keep)

    def catch_up(self) -> bool:
        """Measure the folder's checkpoints that lack metrics, with the network, which then has the
        weights of one of them. Returns whether there were any."""
        found = False
        for (epoch, part), path in runs.checkpoints_in(self.folder).items():
            if not part and self._has(epoch):
                continue
            try:
                content = checkpoints.load(path)
            except UserError as error:
                print(f"note: passed over: {error}")
                continue
            now = content["epoch"] if part else epoch
            if not self._has(now):
                checkpoints.load_weights(self.model, content, path)
                self.add(now)
                found = True
        return found

    def _has(self, epoch: float) -> bool:
        return all(epoch in table.rows for table in self.tables.values())
