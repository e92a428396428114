"""Trainers and meters of small networks, for the tests of what a GPU replays."""

import torch

import models
from measuring import Meter, parameter_names
from options import Measure, Model, Train
from training import Trainer


def trainer_of(images, model="ConvNetSI", width=2, norm="batch", **options):
    torch.manual_seed(0)
    network = models.build(Model(model, width, norm=norm, init_scale=10), 10)
    network.to(images.images.device, memory_format=images.memory_format)
    shared = {"lr_init": 0.01, "wd": 0.001, "momentum": 0.0, "noninvlr": 0.0, "batch_size": 64}
    return Trainer(network, Train(**shared | options), len(images), images.images.device)


def meter_of(model, images, **asked):
    names = {"si": parameter_names(model, si_only=True)}
    return Meter(model, images, Measure(**{"batch_size": 64, **asked}), names)


def train_epochs(trainer, images, numbers, augment=False):
    """Train; after every step NaN is written over freed memory. Returns losses and traces."""
    results, size = [], 2**20 if trainer.device.type == "cuda" else 2**10
    for number in numbers:
        trainer.set_lr(trainer.base_lr / (1 + number))
        order = {"generator": torch.Generator().manual_seed(number), "shuffle": True}
        for x, y in images.batches(trainer.options.batch_size, augment=augment, **order):
            trainer.step(x, y)
            torch.full((size,), float("nan"), device=trainer.device)
        results.append(trainer.finish_epoch())
        if trainer.trace:
            results.append(trainer.trace.take())
    return results


def content_of(trainer):
    """Weights, statistics and moments."""
    moments = [v for s in trainer.optimizer.state.values() for v in s.values() if v is not None]
    state = [*trainer.model.state_dict().values(), *map(torch.as_tensor, moments)]
    return [value.detach().cpu().clone() for value in state]
