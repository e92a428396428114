"""The periodic behaviour of training with batch normalisation and weight decay, in one file.

    python minimal.py        # about a minute on one CPU core; draws the periods in minimal.png

Every convolution is followed by batch normalisation (BN), which divides each channel by its
standard deviation. Multiplying the weights w of the convolutions by any a > 0 does not change the
output: w is *scale invariant*, L(a w) = L(w). The derivatives with respect to a and to w give

    <w, g(w)> = 0        the gradient g of L is orthogonal to w, so a step along it lengthens w
    g(a w) = g(w) / a    the shorter w is, the larger the gradient

Only the direction of w matters. With the norm ρ = ‖w‖, a step of SGD at learning rate η turns w
as far as a step at the *effective learning rate* η̃ = η/ρ² would on the unit sphere. With weight
decay λ the step is w' = (1 - ηλ) w - η g, so

    ρ'² = (1 - ηλ)² ρ² + η² ‖g‖²    weight decay shrinks w, gradients lengthen it

One period of training, at constant η and λ:

    fall    Loss and gradient are small. Weight decay shrinks w by 1 - ηλ in every step, so η̃
            grows; loss and ρ fall together.
    turn    η̃ has become too large for the minimum that w is in. Steps overshoot; loss and ‖g‖
            grow until the gradients outweigh weight decay, and ρ turns.
    jump    The loss rises by orders of magnitude and w grows quickly. Now η̃ is small again:
            training is stable, in another place, and the next fall begins.

Try --wd 0.02 (periods take twice as long: their frequency is proportional to ηλ), --wd 0 (ρ can
only grow: no periods), --lr 0.001 (too slow for a period), --lr 2 (η̃ is always too large: chaos).
The papers are Lobacheva et al., NeurIPS 2021, arXiv 2106.15739, about these periods, and Kodryan
et al., NeurIPS 2022, arXiv 2209.03695, about training with ρ, and therefore η̃, held fixed.
"""

import argparse
import math
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the import of torch without a word

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

IMAGES, BATCH = 256, 64  # 4 steps an epoch
WIDTH = 4  # channels of the first convolution
PICTURE = "minimal.png"


def digits(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first of scikit-learn's digits: images (count, 3, 32, 32), labels (count,)."""
    data = load_digits()
    images = torch.tensor(data.images[:count], dtype=torch.float32)[:, None]  # (count, 1, 8, 8)
    images = F.interpolate(images, size=32, mode="bilinear", align_corners=False)
    images = (images - images.mean()) / images.std()
    return images.repeat(1, 3, 1, 1), torch.tensor(data.target[:count])


def make_network(width: int) -> nn.Sequential:
    """Four 3x3 convolutions with BN, all scale invariant, and a last layer that is not trained."""
    sizes = (3, width, 2 * width, 4 * width, 8 * width)
    layers = []
    for block in range(4):
        layers.append(nn.Conv2d(sizes[block], sizes[block + 1], 3, padding=1, bias=False))
        # The default eps, 1e-5, is not small beside the variance that short weights give.
        layers += [nn.BatchNorm2d(sizes[block + 1], eps=1e-12, affine=False), nn.ReLU()]
        if block > 0:
            layers.append(nn.MaxPool2d(2))  # 32 pixels, then 16, 8 and 4
    last = nn.Linear(8 * width, 10).requires_grad_(False)
    last.weight *= 10 / last.weight.norm()  # to a norm of 10
    return nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), last)


def scale_invariant_weights(network: nn.Sequential) -> list[nn.Parameter]:
    """The weights of the convolutions; together they are the vector w."""
    return [layer.weight for layer in network if isinstance(layer, nn.Conv2d)]


def norm(weights: list[nn.Parameter]) -> float:
    """ρ, the Euclidean norm of all weights together."""
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
    """Train a new network. Returns the mean loss of every epoch and ρ after it, while finite."""
    torch.manual_seed(0)
    images, labels = digits(IMAGES)
    network = make_network(WIDTH)
    history = []
    print("epoch     loss        ρ   η̃ = η/ρ²")
    try:
        for epoch in range(1, epochs + 1):
            batches = torch.randperm(IMAGES).split(BATCH)
            steps = [train_step(network, images[b], labels[b], lr, wd) for b in batches]
            loss, rho = sum(steps) / len(steps), norm(scale_invariant_weights(network))
            if not (math.isfinite(loss) and 0 < rho < math.inf):
                print(f"diverged in epoch {epoch}: the loss is {loss:g}, ρ is {rho:g}")
                break
            history.append((loss, rho))
            if epoch % 10 == 0:
                print(f"{epoch:5d}{loss:#9.3g}{rho:#9.3g}{lr / rho**2:11.2g}")
    except KeyboardInterrupt:
        print("stopped")
    return [loss for loss, _ in history], [rho for _, rho in history]


def next_peak(values: list[float], start: int) -> int:
    """The index of the highest value from `start` on, before the values fall by 10 % or end."""
    peak = start
    for index in range(start, len(values)):
        if values[index] > values[peak]:
            peak = index
        elif values[index] < values[peak] / 1.1:
            break
    return peak


def find_periods(losses: list[float], rhos: list[float]) -> list[tuple[int, int, int]]:
    """The periods, as indices (ρ starts to fall, ρ turns, ρ stops rising).

    In a period ρ falls and then rises by at least 10 %, and the loss rises at least fourfold.
    """
    inverse = [1 / rho if rho else math.inf for rho in rhos]
    periods, start = [], next_peak(rhos, 0)  # skips the rise that large gradients cause at first
    while True:
        turn = next_peak(inverse, start)
        top = next_peak(rhos, turn)
        if top == turn or not rhos[top] >= 1.1 * rhos[turn]:  # no further rise, or NaN
            return periods
        if max(losses[turn : top + 1]) >= 4 * min(losses[start : turn + 1]):
            periods.append((start, turn, top))
        start = top


def print_periods(losses: list[float], rhos: list[float], lr: float) -> None:
    """Print a line for every period. Epochs are counted from 1."""
    if not (periods := find_periods(losses, rhos)):
        print("\nno periods: no fall of ρ ended in a jump of the loss")
        return
    print("\nperiod   ρ turns at   lowest loss   highest loss   ρ falls   and rises   η̃ at the")
    print("              epoch   of the fall    of the jump   from to          to       turn")
    for number, (start, turn, top) in enumerate(periods, 1):
        print(
            f"{number:6d}{turn + 1:13d}{min(losses[start : turn + 1]):14.2g}"
            f"{max(losses[turn : top + 1]):15.2g}{rhos[start]:#7.3g}{rhos[turn]:#5.3g}"
            f"{rhos[top]:#10.3g}{lr / rhos[turn] ** 2:11.2g}"
        )


def draw(losses: list[float], rhos: list[float], title: str) -> None:
    """Draw loss and ρ by epoch, with a dashed line where ρ turns."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No picture: matplotlib is not installed.")
        return
    figure = Figure(figsize=(9, 6), layout="constrained")
    loss_axis, rho_axis = figure.subplots(2, 1, sharex=True)
    for axis, values, colour in ((loss_axis, losses, "#0072B2"), (rho_axis, rhos, "#D55E00")):
        axis.plot(range(1, len(values) + 1), values, color=colour)
        for _, turn, _ in find_periods(losses, rhos):
            axis.axvline(turn + 1, color="grey", linestyle="--", linewidth=0.8)
    loss_axis.set(title=title, ylabel="train loss (cross-entropy)", yscale="log")
    rho_axis.set(xlabel="epoch", ylabel="norm ρ of the weights", yscale="log")
    rho_axis.yaxis.set_minor_formatter("{x:g}")
    figure.savefig(PICTURE, dpi=150)
    print(f"The picture is {PICTURE}: loss and ρ by epoch, with dashed lines where ρ turns.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate η (0.1)")
    parser.add_argument("--wd", type=float, default=0.04, help="weight decay λ (0.04)")
    parser.add_argument("--epochs", type=int, default=320, help="epochs to train (320)")
    options = parser.parse_args()
    if not (0 < options.lr < math.inf and 0 <= options.wd < math.inf and options.epochs > 0):
        parser.error("--lr must be positive, --wd at least 0 and --epochs at least 1")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # now it ends training early
    torch.set_num_threads(1)  # so that the numbers do not depend on the number of cores
    losses, rhos = train(options.lr, options.wd, options.epochs)
    if losses:
        print_periods(losses, rhos, options.lr)
        draw(losses, rhos, f"η = {options.lr:g}, λ = {options.wd:g}")


if __name__ == "__main__":
    main()
