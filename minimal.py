"""The periodic behaviour of training with batch normalisation and weight decay, in one file.

    python minimal.py        # prints the periods, draws them in minimal.png

It learns scikit-learn's digits with torch, in a minute on one core of a CPU, and draws if there is
matplotlib. Read it from top to bottom: it uses nothing else of this project.

Every convolution here is followed by batch normalisation (BN), which divides by the standard
deviation of what the convolution gives. Multiply all weights w of the convolutions by some a > 0
and the output stays: they are *scale invariant*, L(a w) = L(w). Differentiate that in a and in w:

    <w, g(w)> = 0        the gradient g of L is orthogonal to w, so a step along it lengthens w
    g(a w) = g(w) / a    the shorter w is, the larger its gradient

What the network computes depends on the direction of w alone. With the norm ρ = ‖w‖, a step of SGD
at the learning rate η turns that direction as one at η̃ = η/ρ², the *effective learning rate*,
would on the unit sphere. Weight decay λ makes the step w' = (1 - ηλ) w - η g, and so

    ρ'² = (1 - ηλ)² ρ² + η² ‖g‖²    decay draws w inwards, gradients drive it outwards

One period of training at constant η and λ:

    fall    The loss is small, and so is g. Decay shortens w by 1 - ηλ in every step, so η̃ grows.
            Loss and ρ fall together.
    turn    η̃ has become too large for the minimum that w is in. Steps overshoot, the loss and
            with it ‖g‖ grow until they outweigh the decay: ρ turns.
    jump    The loss leaps up by orders of magnitude and large gradients throw w outwards. Now η̃
            is small again: training is stable, in another place, and the next fall begins.

To try: --wd 0.02 (falls take twice the time: the frequency of periods is proportional to ηλ),
--wd 0 (ρ can only grow: no period), --lr 0.001 (too slow for one), --lr 2 (η̃ is always too large:
chaos). The papers are Lobacheva et al., NeurIPS 2021, arXiv 2106.15739, on these periods, and
Kodryan et al., NeurIPS 2022, arXiv 2209.03695, on training with ρ, and so η̃, held fixed.
"""

import argparse
import math

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

IMAGES, BATCH = 256, 64  # 4 steps an epoch
WIDTH = 4  # channels of the first convolution
LAST_LAYER_NORM = 10.0
PICTURE = "minimal.png"


def digits(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first handwritten digits: images (count, 3, 32, 32), labels (count,)."""
    data = load_digits()
    images = torch.tensor(data.images[:count], dtype=torch.float32)[:, None]  # (count, 1, 8, 8)
    images = F.interpolate(images, size=32, mode="bilinear", align_corners=False)
    images = (images - images.mean()) / images.std()
    return images.repeat(1, 3, 1, 1), torch.tensor(data.target[:count])


def make_network(width: int) -> nn.Sequential:
    """Four 3x3 convolutions with BN, of which all weights are scale invariant; a fixed last layer.

    BN adds eps to the variance that it divides by. Where weights are short that variance is small,
    and torch's eps of 1e-5 would break the invariance.
    """
    sizes = (3, width, 2 * width, 4 * width, 8 * width)
    layers = []
    for block in range(4):
        layers.append(nn.Conv2d(sizes[block], sizes[block + 1], 3, padding=1, bias=False))
        layers.append(nn.BatchNorm2d(sizes[block + 1], eps=1e-12, affine=False))
        layers.append(nn.ReLU())
        if block > 0:
            layers.append(nn.MaxPool2d(2))  # 32 pixels, then 16, 8 and 4
    last = nn.Linear(8 * width, 10).requires_grad_(False)
    last.weight *= LAST_LAYER_NORM / last.weight.norm()
    return nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), last)


def scale_invariant_weights(network: nn.Sequential) -> list[nn.Parameter]:
    """The weights of the convolutions, which together are the vector w."""
    return [layer.weight for layer in network if isinstance(layer, nn.Conv2d)]


def norm(weights: list[nn.Parameter]) -> float:
    """ρ, the Euclidean norm of all weights as one vector."""
    return math.sqrt(sum(w.detach().square().sum().item() for w in weights))


def train_step(
    network: nn.Sequential, images: torch.Tensor, labels: torch.Tensor, lr: float, wd: float
) -> float:
    """One step of SGD, w' = w - η (g + λ w), on one batch. Returns the loss before it."""
    weights = scale_invariant_weights(network)
    loss = F.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for w, g in zip(weights, gradients, strict=True):
            w -= lr * (g + wd * w)
    return loss.item()


def train(lr: float, wd: float, epochs: int) -> tuple[list[float], list[float]]:
    """Train a fresh network: for every epoch, the mean loss of its steps, and ρ after it."""
    torch.manual_seed(0)
    images, labels = digits(IMAGES)
    network = make_network(WIDTH)
    losses, rhos = [], []
    print("epoch     loss        ρ   η̃ = η/ρ²")
    try:
        for epoch in range(1, epochs + 1):
            batches = torch.randperm(IMAGES).split(BATCH)
            steps = [train_step(network, images[b], labels[b], lr, wd) for b in batches]
            losses.append(sum(steps) / len(steps))
            rhos.append(norm(scale_invariant_weights(network)))
            if epoch % 10 == 0:
                print(f"{epoch:5d}{losses[-1]:9.3f}{rhos[-1]:9.2f}{lr / rhos[-1] ** 2:11.2g}")
    except KeyboardInterrupt:
        print("stopped; these are the periods up to here")
    return losses[: len(rhos)], rhos


def next_peak(values: list[float], start: int) -> int:
    """Where values are highest from `start` on, before they fall by 10 % or end."""
    peak = start
    for index in range(start, len(values)):
        if values[index] > values[peak]:
            peak = index
        elif values[index] < values[peak] / 1.1:
            break
    return peak


def find_periods(losses: list[float], rhos: list[float]) -> list[tuple[int, int, int]]:
    """The periods, each as (where ρ begins to fall, where it turns, where its rise ends).

    In a period ρ falls, turns and rises by 10 % or more, and the loss rises to 4 times its lowest
    in the fall or more.
    """
    inverse = [1 / rho for rho in rhos]
    periods, start = [], next_peak(rhos, 0)  # at first large gradients drive w outwards
    while True:
        turn = next_peak(inverse, start)
        top = next_peak(rhos, turn)
        if not rhos[top] >= 1.1 * rhos[turn]:  # ρ still falls, or is not a number any more
            return periods
        if max(losses[turn : top + 1]) >= 4 * min(losses[start : turn + 1]):
            periods.append((start, turn, top))
        start = top


def print_periods(losses: list[float], rhos: list[float], lr: float) -> None:
    """A line for every period. Epochs are counted from 1."""
    print("\nperiod   ρ turns at   lowest loss   highest loss   ρ falls   and rises   η̃ at the")
    print("              epoch   of the fall    of the jump   from to          to       turn")
    periods = find_periods(losses, rhos)
    for number, (start, turn, top) in enumerate(periods, 1):
        print(
            f"{number:6d}{turn + 1:13d}{min(losses[start : turn + 1]):14.2g}"
            f"{max(losses[turn : top + 1]):15.2g}{rhos[start]:7.2f}{rhos[turn]:5.2f}"
            f"{rhos[top]:10.2f}{lr / rhos[turn] ** 2:11.2g}"
        )
    if not periods:
        print("  none: no fall of ρ ends in a jump of the loss")


def draw(losses: list[float], rhos: list[float], title: str) -> None:
    """Loss and ρ by epoch, and dashed where ρ turns."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("There is no matplotlib, so there is no picture.")
        return
    figure = Figure(figsize=(9, 6), layout="constrained")
    loss_axis, rho_axis = figure.subplots(2, 1, sharex=True)
    epochs = range(1, len(losses) + 1)
    loss_axis.plot(epochs, losses, color="#0072B2")
    rho_axis.plot(epochs, rhos, color="#D55E00")
    for _, turn, _ in find_periods(losses, rhos):
        loss_axis.axvline(turn + 1, color="grey", linestyle="--", linewidth=0.8)
        rho_axis.axvline(turn + 1, color="grey", linestyle="--", linewidth=0.8)
    loss_axis.set(title=title, ylabel="train loss (cross-entropy)", yscale="log")
    rho_axis.set(xlabel="epoch", ylabel="norm ρ of the weights", yscale="log")
    rho_axis.yaxis.set_minor_formatter("{x:g}")
    figure.savefig(PICTURE, dpi=150)
    print(f"The picture is {PICTURE}: loss and ρ by epoch, dashed where ρ turns.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate η (0.1)")
    parser.add_argument("--wd", type=float, default=0.04, help="weight decay λ (0.04)")
    parser.add_argument("--epochs", type=int, default=320, help="epochs to train (320)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # so that the numbers do not depend on how many cores there are
    losses, rhos = train(options.lr, options.wd, options.epochs)
    if losses:
        print_periods(losses, rhos, options.lr)
        draw(losses, rhos, f"η = {options.lr:g}, λ = {options.wd:g}")


if __name__ == "__main__":
    main()
