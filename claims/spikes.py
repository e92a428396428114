"""Why a training loss spikes: small runs of each kind, watched by the monitor (docs/spikes.md).

    python -m claims.spikes                  # all of them
    python -m claims.spikes periods data     # some

Each trains a ConvNetSI of width 4 on 256 digits, but for what its name says, prints what the
monitor reports, and draws loss and norm into results/spikes/<name>.png.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import data
import models
from figures.style import COLOURS, describe, plt, save
from monitor import Monitor
from options import Model
from utils import UserError, nearest, user_errors

FOLDER = Path("results/spikes")
IMAGES, BATCH, WIDTH = 256, 128, 4
STEPS = IMAGES // BATCH  # in an epoch
LR, WD, EPOCHS = 0.3, 0.03, 300  # a setting with periods
BAD_EPOCHS = (120, 200, 201, 280)  # with a batch of bad images
ROUNDED = torch.bfloat16


@dataclass(frozen=True)
class Case:
    """One training run: what is changed against the setting with periods.

    Attributes
    ----------
    lr, wd : η and λ; `schedule` is the factor on η when a fraction of training is done.
    change : what is done to the fresh network.
    fixed_norm : ρ is held at what it is after so many epochs; None: it is free.
    bad_images : some batches hold images that are a hundred times too bright.
    rounded : weights are kept in bfloat16.
    """

    lr: float = LR
    wd: float = WD
    schedule: Callable[[float], float] = lambda progress: 1.0
    change: Callable[[nn.Module], Any] = lambda model: None
    fixed_norm: int | None = None
    bad_images: bool = False
    rounded: bool = False


def set_eps(value: float) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = value

    return change


def remove_normalisation(model: nn.Module) -> None:
    for position, module in enumerate(model.conv_layers):
        if isinstance(module, nn.BatchNorm2d):
            model.conv_layers[position] = nn.Identity()


def cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


# name -> the runs of its figure by their labels
FIGURES = {
    "periods": {f"η = {LR:g}, λ = {WD:g}": Case()},
    "data": {"four bad batches, λ = 0": Case(wd=0.0, bad_images=True)},
    "unnormalised": {
        "no normalisation, η = 0.2": Case(lr=0.2, wd=0.0, change=remove_normalisation)
    },
    "equilibrium": {"η = 3, λ = 0.1": Case(lr=3.0, wd=0.1)},
    "epsilon": {
        "eps = 1e-12": Case(wd=0.1),
        "eps = 1": Case(wd=0.1, change=set_eps(1.0)),
    },
    "precision": {
        "float32": Case(wd=0.005),
        "weights in bfloat16": Case(wd=0.005, rounded=True),
    },
    "remedies": {
        "as it is": Case(),
        "fixed norm": Case(fixed_norm=50),
        "cosine schedule": Case(schedule=cosine),
        "λ / 10": Case(wd=WD / 10),
    },
}


def train(case: Case) -> tuple[Monitor, list[tuple[float, float]]]:
    """One run; its monitor, and (mean loss, ρ) of each epoch."""
    images, _ = data.load("Digits", ".", use_test=True, use_data_size=IMAGES)
    torch.manual_seed(1)
    model = models.build(Model("ConvNetSI", WIDTH, init_scale=10), images.num_classes)
    case.change(model)
    weights, others = models.split_parameters(model)
    groups = [{"params": weights, "lr": case.lr}, {"params": others, "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, weight_decay=case.wd)
    monitor = Monitor(model, optimizer, images.normalise(images.images[:4]), every=STEPS)
    generator = torch.Generator().manual_seed(1)
    rows, norm = [], None
    for epoch in range(EPOCHS):
        groups[0]["lr"] = optimizer.param_groups[0]["lr"] = case.lr * case.schedule(epoch / EPOCHS)
        if epoch == case.fixed_norm:
            norm = models.norm(weights)
        losses = []
        for step, (x, y) in enumerate(images.batches(BATCH, generator, shuffle=True)):
            if case.bad_images and epoch in BAD_EPOCHS and step == 0:
                x = torch.cat([100 * torch.randn_like(x[:64]), x[64:]])
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                if norm is not None:
                    models.rescale_to_norm(weights, norm)
                if case.rounded:
                    for weight in weights:
                        weight.copy_(weight.to(ROUNDED))
            monitor.record(loss)
            losses.append(loss.item())
        rows.append((sum(losses) / len(losses), models.norm(weights).item()))
    return monitor, rows


def draw(name: str, courses: dict[str, list[tuple[float, float]]]) -> None:
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(5, 3.6), sharex=True, layout="constrained", height_ratios=(3, 2)
    )
    for (label, rows), colour in zip(courses.items(), COLOURS, strict=False):
        loss, norm = zip(*rows, strict=True)
        above.plot(range(1, len(rows) + 1), loss, color=colour, label=label, linewidth=1.2)
        below.plot(range(1, len(rows) + 1), norm, color=colour, linewidth=1.2)
    describe(above, "", "", "train loss", yscale="log")
    describe(below, "", "epoch", "norm ρ", yscale="log")
    above.legend(fontsize="small")
    save(figure, FOLDER / f"{name}.png")


def main(names: list[str]) -> None:
    for name in names:
        if name not in FIGURES:
            raise UserError(f"unknown name {name!r}{nearest(name, FIGURES)}: {', '.join(FIGURES)}")
    plt.switch_backend("agg")
    for name in names or FIGURES:
        courses = {}
        for label, case in FIGURES[name].items():
            monitor, courses[label] = train(case)
            print(f"{name}: {label}\n{monitor.report()}\n", flush=True)
        draw(name, courses)


if __name__ == "__main__":
    with user_errors("claims.spikes"):
        main(sys.argv[1:])
