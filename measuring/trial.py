"""A trial of a network from elsewhere, on a copy, before a run writes anything.

It does what the run will do, on one batch of the usual size and one of the last batch's size. The
run's weights, buffers and random states stay as they are.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

import models
from data import ImageSet
from measuring import wanted
from measuring.meter import Meter
from measuring.recorder import recording_meters
from measuring.wanted import measure_as
from models.own import fails
from options import Measure, Train
from runs import checkpoints
from training.trainer import Trainer
from utils import UserError, plural


def try_training(
    model: nn.Module,
    options: Train,
    train_images: ImageSet,
    eval_images: ImageSet,
    test_images: ImageSet,
) -> None:
    """Take a training step on each of the two batches, and measure what the options ask for. Raises
    UserError if the network cannot be trained, measured or saved like this."""
    name, model = options.model, _copy(model, train_images)
    options = replace(options, compile=False)
    wrong = checkpoints.what_is_wrong({"state_dict": model.state_dict()})
    if wrong:
        raise UserError(f"{name} cannot be resumed from its checkpoints: {wrong}")
    images = _two_batches(train_images, options.batch_size)
    others = [part.subset(slice(options.batch_size)) for part in (eval_images, test_images)]
    with models.random_numbers(options.seed):
        with fails(f"{name} cannot be trained with these options"):
            trainer = Trainer(model, options, len(images), images.images.device)
        for x, y in images.batches(options.batch_size):
            with fails(
                f"{name} cannot be trained on a batch of {plural(len(y), 'image')} (--batch_size "
                f"{options.batch_size}, {plural(len(train_images), 'training image')})"
            ):
                trainer.step(x, y)
        with fails(f"{name} cannot be trained with these options"):
            trainer.finish_epoch()
        with fails(f"{name} cannot be measured"):
            Meter(model, others[0], replace(measure_as(options), eval_model=True)).measure()
        if options.metrics:
            with fails(f"{name} cannot be measured with --metrics"):
                for meter in recording_meters(model, images, others[1], options):
                    meter.measure()


def try_measuring(
    model: nn.Module,
    images: ImageSet,
    options: Measure,
    scopes: Mapping[str, list[str]],
    initial: Mapping[str, torch.Tensor] | None,
) -> None:
    """Measure the two batches; instead of eigenvalues, the traces of their matrices. Raises
    UserError if the network cannot be measured like this."""
    flags = {flag.replace("_evals", "_trace") for flag in wanted.flags(options)}
    flags = {"hess_trace" if flag == "sharpness" else flag for flag in flags}
    asked = replace(wanted.only(options, flags), compile=False)
    part = _two_batches(images, options.batch_size)
    sizes = f"--batch_size {options.batch_size}, {plural(len(images), 'image')}"
    with fails(f"{options.model} cannot be measured with these options ({sizes})"):
        Meter(_copy(model, images), part, asked, scopes, initial).measure()


def _copy(model: nn.Module, images: ImageSet) -> nn.Module:
    """A copy of a network, hooks included, where the images are."""
    copy = models.copied(model, hooks=True)
    return copy.to(images.images.device, memory_format=images.memory_format)


def _two_batches(images: ImageSet, batch_size: int) -> ImageSet:
    """As many images as make one full batch and the smaller last one, if there is one."""
    return images.subset(slice(min(len(images), batch_size + len(images) % batch_size)))
