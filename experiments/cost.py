"""What lines will take, before they run: time, and disk space for their checkpoints.

The time for an image comes from runs in Experiments/ of the same network on the same kind of
device. Where there is none it is that of the table below, scaled by how fast other runs here were.
An estimate names what it rests on.
"""

import contextlib
import functools
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import runs
from experiments.lines import ROOT, Line
from options import Train
from utils import UserError, duration

IMAGES = {  # in the training set, in the test set
    **dict.fromkeys(("CIFAR10", "CIFAR100"), (50_000, 10_000)),
    "SVHN": (73_257, 26_032), "Digits": (1500, 297),
}  # fmt: skip
FORWARD = 1 / 3  # share of the forward pass in a step: the backward pass is worth two of them
START = 4.0  # seconds until a command has loaded its libraries and its data
# Architecture -> width -> parameters, and milliseconds of one core for an image in a training step.
# Measured: OMP_NUM_THREADS=1 python benchmark.py --rates --gpu -1, on an AMD EPYC with AVX-512,
# idle for the ConvNets. The ResNets were measured on a busy one, with the ConvNets (all of which
# took twice their time on the idle one): their times are divided by that factor.
REFERENCE = {
    "ConvNet": {4: (6486, 0.191), 8: (25_058, 0.187), 16: (98_490, 0.471), 32: (390_506, 1.59)},
    "ResNet18": {8: (175_192, 0.50), 32: (2_792_800, 4.0)},
}
ON_REFERENCE = "as measured on a core of an AMD EPYC"
NETWORK = ("model", "num_channels", "depth", "norm")


@dataclass(frozen=True)
class Cost:
    """Seconds of a core of a CPU or of a GPU, and bytes of checkpoints; None if not known."""

    seconds: float | None
    disk: float | None
    source: str  # what `seconds` rests on

    def on(self, gpu: bool) -> str:
        """The cost as text, on a GPU or on a core of a CPU."""
        device = "GPU" if gpu else "CPU core"
        time = f"{device} time unknown before the second epoch"
        if self.seconds is not None:
            time = f"about {duration(self.seconds)} of a {device} ({self.source})"
        if self.disk is None:
            return time
        size = f"{self.disk / 1e9:.1f} GB" if self.disk > 1e9 else f"{self.disk / 1e6:.0f} MB"
        return f"{time}; {size} of checkpoints"


class Timings:
    """Seconds that an image takes in training, on a core or a GPU, from the runs in Experiments/.
    Their first epoch, which includes what happens once, is left out."""

    def __init__(self, gpu: bool):
        times: dict[tuple, list[float]] = {}
        for path in ROOT.glob(f"*/*/trial_*/{runs.CONFIG}"):
            with contextlib.suppress(UserError, KeyError, ValueError):  # damaged, or old
                config = runs.read_config(path.parent, labels=False)
                cpu = re.fullmatch(r"CPU, (\d+) threads", config["device"])
                seconds = [row["seconds"] for row in runs.read_log(path.parent)[1:]]
                if seconds and bool(cpu) != gpu:
                    image = statistics.median(seconds) / config["train_images"]
                    network = tuple(config[key] for key in NETWORK)
                    times.setdefault(network, []).append(image * (int(cpu[1]) if cpu else 1))
        self.gpu = gpu
        self.measured = {k: statistics.median(v) for k, v in times.items()}
        ratios = [v / reference(*k)[1] for k, v in self.measured.items() if reference(*k)]
        self.ratio = statistics.median(ratios) if ratios else None

    def of(self, network: tuple) -> tuple[float | None, str]:
        """Seconds for an image, and what they rest on; None if there is nothing to go by."""
        known = reference(*network)
        if network in self.measured:
            return self.measured[network], "as in runs here"
        if known and self.ratio:
            return known[1] * self.ratio, "from other networks' runs here"
        return (known[1], ON_REFERENCE) if known and not self.gpu else (None, "")


def reference(model: str, width: int, depth: int, norm: str) -> tuple[float, float] | None:
    """Parameters and seconds for an image by `REFERENCE`: between its widths on a log-log scale,
    beyond the last as the square of the width. Any normalisation counts the same."""
    known = REFERENCE.get(model.removesuffix("Af").removesuffix("SI"))
    if known is None or depth != 3:
        return None
    beyond = max(1, width / max(known)) ** 2
    parameters, ms = (
        beyond * np.exp(np.interp(np.log(width), np.log(list(known)), np.log(values)))
        for values in zip(*known.values(), strict=True)
    )
    return parameters, ms / 1e3


@functools.cache
def in_folder(path: str) -> tuple[int, int]:
    """The number of files in an ImageFolder's two sets; that of CIFAR-10 where there are none."""
    folders = [Path(path).expanduser() / part for part in ("train", "test")]
    found = [sum(len(files) for *_, files in os.walk(folder)) for folder in folders]
    return tuple(n or usual for n, usual in zip(found, IMAGES["CIFAR10"], strict=True))


def images(options: Train) -> tuple[int, int]:
    """The numbers of images that are trained on, and that are measured on besides."""
    folder = options.dataset == "ImageFolder"
    train, test = in_folder(options.data_path) if folder else IMAGES[options.dataset]
    return options.use_data_size or train, options.use_test_size or test


def in_epochs(line: Line, left: bool = False) -> float:
    """The work of a line, or what is `left` of it, in epochs of training. Measuring a checkpoint is
    a pass over the training images, and a forward pass over the test set."""
    epochs, checkpoints = line.options.epochs, {*line.checkpoints}
    if left:
        log = runs.read_log(line.folder)
        epochs = max(epochs - int(log[-1]["epoch"]), 0) if log else epochs
        with contextlib.suppress(UserError):  # a damaged file is measured anew
            checkpoints -= runs.Metrics.read(line.folder / "train-tm.npz").rows.keys()
    train, test = images(line.options)
    return epochs + len(checkpoints) * (1 + FORWARD * test / train)


def total(
    lines: Sequence[Line], gpu: bool = False, left: bool = False, timings: Timings | None = None
) -> Cost:
    """The cost of lines with their metrics, one after the other, or of what is `left` of them."""
    timings = timings or Timings(gpu)
    times, sizes, sources = [], [], set()
    for line in lines:
        o, work = line.options, in_epochs(line, left)
        network = tuple(getattr(o, key) for key in NETWORK)
        image, source = timings.of(network)
        commands = (1 if o.metrics else len(line.commands)) if work else 0
        times.append(None if image is None else commands * START + work * image * images(o)[0])
        sources.add(source)
        moments = int(o.momentum > 0) if o.optimizer == "sgd" else 2
        kept = min(len(line.checkpoints), o.keep or len(line.checkpoints))
        known = reference(*network)
        sizes.append(4.0 * known[0] * (1 + moments) * kept if known else None)
    seconds, disk = (None if None in parts else sum(parts) for parts in (times, sizes))
    return Cost(seconds, disk, ", ".join(sorted(sources)))
