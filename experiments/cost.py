"""What lines cost: floating-point operations, time and disk, before anything runs.

    python run_train_and_test.py --list      # the cost of every named experiment

A line's work is counted, not guessed: operations of the real network (convolutions and the linear
layer) for an image, times images, epochs and the passes that its metrics take. Its time is that
work by the rate at which this project's training step does it. The rates on a CPU are measured
(`python benchmark.py --rates`); that of a GPU is an assumption until it is measured.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from experiments.lines import Line
from options import MODEL_NAMES
from utils import duration

IMAGES = dict.fromkeys(("CIFAR10", "CIFAR100", "ImageFolder"), 50_000) | {
    "SVHN": 73_257, "Digits": 1500,
}  # fmt: skip
TEST_IMAGES = dict.fromkeys(("CIFAR10", "CIFAR100", "ImageFolder"), 10_000) | {
    "SVHN": 26_032, "Digits": 297,
}  # fmt: skip
CLASSES = {"CIFAR100": 100}
BACKWARD = 2  # passes forward that a pass backward is worth
# Operations a second of a training step of ConvNetSI, by width, on one core (AMD EPYC, AVX-512).
CPU_CORE_RATE = {4: 30e9, 8: 110e9, 16: 170e9, 32: 210e9}
# Assumed, not measured: a third of the float32 peak of an NVIDIA H100, and a tenth of a
# millisecond a step that no small network can fall below.
GPU_RATE, GPU_STEP = 20e12, 1e-4


@dataclass(frozen=True)
class Cost:
    """What some lines take.

    Attributes
    ----------
    operations : floating-point operations in all.
    core_seconds, gpu_seconds : on one core of a CPU, or one GPU.
    disk : bytes of checkpoints when they are done.
    """

    operations: float
    core_seconds: float
    gpu_seconds: float
    disk: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def on(self, gpu: bool) -> str:
        """In words, on a GPU or on a core of a CPU."""
        size = f"{self.disk / 1e9:.1f} GB" if self.disk > 1e9 else f"{self.disk / 1e6:.0f} MB"
        time = f"{duration(self.core_seconds)} of a CPU core"
        if gpu:
            time = f"{duration(self.gpu_seconds)} of a GPU (assumed rate)"
        return f"{time}; {size} of checkpoints"


def convolutions(model: str, width: int, depth: int) -> Iterator[tuple[int, int, int, int]]:
    """The convolutions of a published network: output pixels, inputs, outputs, kernel's pixels."""
    if model.startswith("ConvNet"):
        side, c = 32, width
        yield side**2, 3, c, 9
        for stage in range(3):
            blocks = -((stage - depth) // 3)  # as models/convnet.py says
            yield from [(side**2, c, c, 9)] * (blocks - 1)
            if blocks > 0:
                yield side**2, c, 2 * c, 9
                side, c = side // 2, 2 * c
        return
    yield 32**2, 3, width, 9
    for layer in range(4):
        pixels, c = (32 >> layer) ** 2, width << layer
        yield pixels, c // 2 if layer else c, c, 9
        yield from [(pixels, c, c, 9)] * 3
        if layer:
            yield pixels, c // 2, c, 1  # the shortcut


def count(model: str, classes: int, width: int, depth: int, norm: str) -> tuple[int, int]:
    """Operations of a forward pass over one image, and number of parameters.

    Without torch for the published networks, whose listing would take seconds to begin.
    """
    if model not in MODEL_NAMES:
        return count_by_torch(model, classes, width, depth, norm)
    layers = list(convolutions(model, width, depth))
    last = layers[-1][2]
    affine = 0
    if model.endswith("Af"):
        resnet = model.startswith("ResNet")
        channels = [outputs for _, _, outputs, _ in layers]
        # In the ResNet every normalisation comes before its convolution, and one behind the last.
        channels = [inputs for _, inputs, _, _ in layers[1:]] + [last] if resnet else channels
        affine = 2 * sum(channels)
    linear = classes * last
    operations = sum(2 * pixels * i * o * kernel for pixels, i, o, kernel in layers) + 2 * linear
    parameters = sum(i * o * kernel for _, i, o, kernel in layers) + linear + affine
    return operations, parameters + classes * model.startswith("ConvNet")  # its bias


@functools.cache
def count_by_torch(model: str, classes: int, width: int, depth: int, norm: str) -> tuple[int, int]:
    """The same for any network, counted while it runs on no device."""
    import torch  # only now: it is slow to import
    from torch.utils.flop_counter import FlopCounterMode

    import models

    with torch.device("meta"):
        network = models.build(model, classes, width, depth, norm=norm)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(2, 3, 32, 32))
    return counter.get_total_flops() // 2, sum(p.numel() for p in network.parameters())


def core_rate(width: int) -> float:
    """Operations a second of one core at a width, from the measured ones around it."""
    widths, rates = zip(*CPU_CORE_RATE.items(), strict=True)
    return float(np.exp(np.interp(np.log(width), np.log(widths), np.log(rates))))


def in_epochs(line: Line, left: bool = False) -> float:
    """The work of a line, or of what is `left` of it, in epochs of its training.

    The metrics of a checkpoint are a pass over the training images, and a forward one over those
    of the test set.
    """
    o = line.options
    epochs, checkpoints = line.work(left)
    test_images = o.use_test_size or TEST_IMAGES[o.dataset]
    share = test_images / ((1 + BACKWARD) * (o.use_data_size or IMAGES[o.dataset]))
    return epochs + checkpoints * (1 + share)


def cost(line: Line, left: bool = False) -> Cost:
    """The cost of one line from its first epoch to its last, or of what is `left` of it.

    Its metrics are included.
    """
    o = line.options
    classes = CLASSES.get(o.dataset, 10)
    forward, parameters = count(o.model, classes, o.num_channels, o.depth, o.norm)
    images = o.use_data_size or IMAGES[o.dataset]
    trained = (1 + BACKWARD) * forward * images
    operations = in_epochs(line, left) * trained
    steps = sum(line.work(left)) * math.ceil(images / o.batch_size)
    moments = int(o.momentum > 0) if o.optimizer == "sgd" else 2
    kept = len(line.checkpoints)
    if o.keep is not None:
        kept = min(kept, o.keep + len({*o.keep_epochs} & {*line.checkpoints}))
    disk = 4.0 * parameters * (1 + moments) * kept
    gpu_seconds = operations / GPU_RATE + steps * GPU_STEP
    return Cost(operations, operations / core_rate(o.num_channels), gpu_seconds, disk)


def total(lines: Sequence[Line], left: bool = False) -> Cost:
    return sum((cost(line, left) for line in lines), Cost(0, 0, 0, 0))
