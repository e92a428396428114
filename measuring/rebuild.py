"""The network and the images of a run, for measuring its checkpoints."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.optim.swa_utils import update_bn

import data
import models
import options
from measuring.meter import Meter
from measuring.wanted import measure_as
from runs import Run, checkpoints, read_run
from training.device import memory_format, select_device
from utils import UserError

# Options in which runs must agree to be compared: network, images and loss.
SHARED = (
    *("model", "num_channels", "depth", "norm", "norm_eps", "use_squared_loss", "batch_size"),
    *("dataset", "use_data_size", "use_test", "use_test_size", "corrupt_train", "split_classes"),
)


def check_comparable(found: Sequence[Run]) -> None:
    """Raise UserError if runs differ in more than their training."""
    for run in found:
        for key in SHARED:
            if run.config.get(key) != found[0].config.get(key):
                raise UserError(f"{run.folder} and {found[0].folder} differ in {key}")


def rebuild(run: Run) -> tuple[torch.nn.Module, data.ImageSet, data.ImageSet]:
    """The network of a run with arbitrary weights, its training images and those to evaluate on.
    The latter are the test set or, without --use_test, the images held out from training. Raises
    UserError if the data or the GPU of the run is not there."""
    asked = run.options
    device = select_device(asked.gpu)
    layout = memory_format(device, asked.num_channels, asked.norm)
    images = [part.to(device, layout) for part in data.load(asked, asked.use_test)]
    return network(asked, images[0], run.config.get("si_weights")), *images


def network(
    asked: options.Model, images: data.ImageSet, si_names: Sequence[str] | None = None
) -> torch.nn.Module:
    """The network for these images, on their device, with arbitrary weights."""
    model = models.build(asked, images.num_classes, images.size, si_names)
    return model.to(images.images.device, memory_format=images.memory_format)


def renew_statistics(model: torch.nn.Module, images: data.ImageSet, batch_size: int) -> None:
    """Estimate the running statistics of batch normalisation anew, on these training images. Those
    of a checkpoint are averages over the steps before it, and do not fit weights that change
    quickly, as right after a destabilisation or at the end of a fast fall."""
    update_bn(images.batches(batch_size), model, images.images.device)


class Evaluation:
    """Loss and error of a run's network with any weights: on the training images with batch
    statistics, as in train-tm.npz; on the test (or held-out) images with running statistics
    estimated anew."""

    def __init__(self, run: Run):
        self.model, self.train_images, test_images = rebuild(run)
        self.batch_size = run.options.batch_size
        asked = replace(measure_as(run.options), eval_model=True)
        self.train = Meter(self.model, self.train_images, replace(asked, train_mode=True))
        self.test = Meter(self.model, test_images, asked)

    def measure(self) -> dict[str, float]:
        """train_loss, train_error, test_loss and test_error; errors as fractions."""
        renew_statistics(self.model, self.train_images, self.batch_size)
        found = {}
        for name, meter in (("train", self.train), ("test", self.test)):
            row = meter.measure()["all"]
            found |= {f"{name}_loss": row["loss"], f"{name}_error": 1 - row["acc"]}
        return found


def measure_checkpoint(path: Path) -> dict[str, float]:
    """What `Evaluation.measure` gives for a checkpoint, on the images of its run."""
    evaluation = Evaluation(read_run(path.parent))
    checkpoints.load_into(evaluation.model, path)
    return evaluation.measure()
