"""The network and the images of a run, for measuring its checkpoints."""

from collections.abc import Sequence

import torch
from torch.optim.swa_utils import update_bn

import data
import models
import options
from runs import Run
from training.device import memory_format, select_device


def rebuild(run: Run) -> tuple[torch.nn.Module, data.ImageSet, data.ImageSet]:
    """The network of a run, its training images and those it is evaluated on, on a device.

    The weights are arbitrary. The second set is the test set or, for a run without --use_test, the
    images held out from training.

    Raises
    ------
    UserError : the data or the GPU of the run is not there.
    """
    asked = run.options
    device = select_device(asked.gpu)
    layout = memory_format(device, asked.num_channels, asked.norm)
    train_images, test_images = (
        part.to(device, layout) for part in data.load_for(asked, asked.use_test)
    )
    model = network(asked, train_images, run.config.get("si_weights"))
    return model, train_images, test_images


def network(
    asked: options.Model, images: data.ImageSet, si_names: Sequence[str] | None = None
) -> torch.nn.Module:
    """The network for these images, on their device; with any weights."""
    model = models.build(asked, images.num_classes, images.size, si_names)
    return model.to(images.images.device, memory_format=images.memory_format)


def renew_statistics(model: torch.nn.Module, images: data.ImageSet, batch_size: int) -> None:
    """Estimate the running statistics of batch normalisation anew, on these training images.

    Those that a run leaves are averages over the steps before, in which the weights were others:
    right after a destabilisation, or at the end of a fast fall, they do not fit the weights.
    """
    update_bn(images.batches(batch_size), model, images.images.device)
