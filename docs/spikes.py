"""The figures of docs/spikes.md: why a training loss spikes, on the network of minimal.py.

    python -m docs.spikes                  # all of them, into results/spikes
    python -m docs.spikes periods data     # some

Every run is the one with periods, changed as `FIGURES` says. The monitor's reports are printed.
"""

import math
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import minimal
import models
from figures.style import COLOURS, describe, name_below, plt, save
from monitor import Monitor
from utils import UserError, nearest, user_errors

FOLDER = Path("results/spikes")
BATCH, EPOCHS = 128, 300  # 2 steps an epoch
LR, WD = 0.3, 0.03  # a setting with periods
BAD_EPOCHS = (120, 200, 201, 280)  # with a batch of which half is noise, a hundred times too bright

# figure -> label of a run -> its changes
FIGURES = {
    "periods": {f"η = {LR:g}, λ = {WD:g}": {}},
    "data": {"four bad batches, λ = 0": {"wd": 0.0, "bad_epochs": BAD_EPOCHS}},
    "unnormalised": {"no normalisation, η = 0.2": {"lr": 0.2, "wd": 0.0, "eps": None}},
    "equilibrium": {"η = 3, λ = 0.1": {"lr": 3.0, "wd": 0.1}},
    "epsilon": {"eps = 1e-12": {"wd": 0.1}, "eps = 1": {"wd": 0.1, "eps": 1.0}},
    "precision": {
        "float32": {"wd": 0.005},
        "weights in bfloat16": {"wd": 0.005, "dtype": torch.bfloat16},
    },
    "remedies": {
        "as it is": {},
        "fixed norm": {"fixed_from": 50},
        "cosine schedule": {"is_cosine": True},
        "λ / 10": {"wd": WD / 10},
    },
}


def network(eps: float | None) -> nn.Sequential:
    """minimal.py's, with this epsilon; None: without normalisation."""
    layers = minimal.make_network(minimal.WIDTH)
    for position, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            if eps is None:
                layers[position] = nn.Identity()
            else:
                layer.eps = eps
    return layers


def train(
    lr: float = LR,
    wd: float = WD,
    eps: float | None = 1e-12,
    bad_epochs: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
    fixed_from: int = EPOCHS,
    is_cosine: bool = False,
) -> tuple[Monitor, list[tuple[float, float]]]:
    """One run; its monitor, and (mean loss, ρ) of each epoch. Weights are rounded to `dtype` after
    each step; ρ is held from epoch `fixed_from` on; the rate falls along a cosine to zero."""
    torch.manual_seed(1)
    images, labels = minimal.digits(minimal.IMAGES)
    model = network(eps)
    weights = minimal.scale_invariant_weights(model)
    optimizer = torch.optim.SGD(weights, lr, weight_decay=wd)
    monitor = Monitor(model, optimizer, images[:8], every=2)
    rows = []
    for epoch in range(EPOCHS):
        if is_cosine:
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        if epoch <= fixed_from:
            held = minimal.norm(weights)
        losses = []
        for step, chosen in enumerate(torch.randperm(len(images)).split(BATCH)):
            x = images[chosen]
            if epoch in bad_epochs and step == 0:
                x[: BATCH // 2] = 100 * torch.randn_like(x[: BATCH // 2])
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), labels[chosen])
            loss.backward()
            optimizer.step()
            if epoch >= fixed_from:
                models.rescale_to_norm(weights, held)
            for weight in weights:
                weight.data.copy_(weight.data.to(dtype))
            monitor.record(loss)
            losses.append(loss.item())
        rows.append((sum(losses) / len(losses), minimal.norm(weights)))
    return monitor, rows


def draw(name: str, runs: dict[str, list[tuple[float, float]]]) -> None:
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(5, 3.6), sharex=True, layout="constrained", height_ratios=(3, 2)
    )
    named = {}
    for (label, rows), colour in zip(runs.items(), COLOURS, strict=False):
        loss, norm = zip(*rows, strict=True)
        (named[label],) = above.plot(range(1, len(rows) + 1), loss, color=colour, linewidth=1.2)
        below.plot(range(1, len(rows) + 1), norm, color=colour, linewidth=1.2)
    describe(above, "", "", "train loss", yscale="log")
    describe(below, "", "epoch", "norm ρ", yscale="log")
    name_below(figure, named)
    save(figure, FOLDER / f"{name}.png")


def main(names: list[str]) -> None:
    for name in names:
        if name not in FIGURES:
            raise UserError(f"unknown name {name!r}{nearest(name, FIGURES)}: {', '.join(FIGURES)}")
    plt.switch_backend("agg")
    torch.set_num_threads(1)  # so that the numbers do not depend on how many cores there are
    for name in names or FIGURES:
        runs = {}
        for label, changes in FIGURES[name].items():
            monitor, runs[label] = train(**changes)
            print(f"{name}: {label}\n{monitor.report()}\n", flush=True)
        draw(name, runs)


if __name__ == "__main__":
    with user_errors("docs.spikes"):
        main(sys.argv[1:])
