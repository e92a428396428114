"""The network and the images of a run, as its configuration says, for measuring its checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.swa_utils import update_bn

import data
import models
from training.device import memory_format, select_device


def rebuild(config: dict[str, Any]) -> tuple[torch.nn.Module, data.ImageSet, data.ImageSet]:
    """The network of a run, its training images and those it is evaluated on, on a device.

    The weights are arbitrary. The second set is the whole test set or, for a run without
    --use_test, the images held out from training.

    Raises
    ------
    UserError : the data or the GPU of the run is not there.
    """
    device = select_device(config["gpu"])
    layout = memory_format(device, config["num_channels"], config["norm"])
    train_images, test_images = (
        part.to(device, layout)
        for part in data.load(
            config["dataset"],
            config["data_path"],
            use_test=config["use_test"],
            use_data_size=config["use_data_size"],
            corrupt_train=config["corrupt_train"],
            split_classes=config["split_classes"],
        )
    )
    return network(config, train_images), train_images, test_images


def network(config: Mapping[str, Any], images: data.ImageSet) -> torch.nn.Module:
    """The network of a configuration for these images, on their device; with any weights."""
    model = models.build(
        config["model"],
        images.num_classes,
        config["num_channels"],
        config["depth"],
        norm=config["norm"],
        image_size=images.size,
        si_names=config.get("si_weights"),
        norm_eps=config["norm_eps"],
    )
    return model.to(images.images.device, memory_format=images.memory_format)


def renew_statistics(model: torch.nn.Module, images: data.ImageSet, batch_size: int) -> None:
    """Estimate the running statistics of batch normalisation anew, on these training images.

    Those that a run leaves are averages over the steps before, in which the weights were others:
    right after a destabilisation, or at the end of a fast fall, they do not fit the weights.
    """
    update_bn(images.batches(batch_size), model, images.images.device)
