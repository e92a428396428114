"""Metrics measured while a run trains (--metrics), and old checkpoints removed (--keep).

The files are those of test.py, and so are the numbers: the same meters fill them.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import checkpoints
import data
import metrics
import runs
from utils import UserError

WRITE_EVERY = 10  # seconds between two writings of the files


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
        options: argparse.Namespace,
    ):
        self.folder, self.model = folder, model
        self.keep, self.keep_epochs = options.keep, options.keep_epochs
        self.tables = {name: runs.Metrics.read_if_there(self.path(name)) for name in runs.METRICS}
        everything = metrics.parameter_names(model, si_only=False)
        invariant = metrics.parameter_names(model, si_only=True)

        def meter(images: data.ImageSet, flags: Sequence[str], scopes: dict) -> metrics.Meter:
            return metrics.Meter(
                model,
                images,
                metrics.Wanted.from_flags(flags),
                train_mode="train_mode" in flags,
                batch_size=options.batch_size,
                scopes=scopes,
            )

        self.meters = [
            meter(
                train_images,
                runs.TRAIN_FLAGS,
                {"train-tm": everything, "train-tm-prebn": invariant},
            ),
            meter(test_images, runs.TEST_FLAGS, {"test-em": everything}),
        ]
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
            table.write(self.path(name))
        self.written = time.monotonic()
        if self.keep is not None:
            runs.prune(self.folder, self.keep, self.keep_epochs)

    def catch_up(self) -> bool:
        """Measure the folder's checkpoints whose metrics are missing; whether there were any.

        The network then has the weights of one of them.
        """
        found = False
        for (epoch, step), path in runs.checkpoints(self.folder).items():
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


def test_images(options: argparse.Namespace, eval_images: data.ImageSet) -> data.ImageSet:
    """The images that test-em.npz is about: the test set, even where another set is evaluated."""
    if options.use_test:
        return eval_images
    _, test = data.load(options.dataset, options.data_path, use_test=True)
    return test.to(eval_images.images.device, eval_images.memory_format)
