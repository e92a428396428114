"""How fast training and measuring are, next to a plain loop and to the bare network.

    python benchmark.py                       # random images, width 8
    python benchmark.py --width 32 --precision tf32 --data_path FOLDER
    python benchmark.py --rates               # the papers' networks: the table of experiments/cost

Both loops crop and flip the training images, and measure a checkpoint: training loss in train
mode, mean norm of the batch gradients, test error. The plain one is written the usual way:
ImageFolder with PIL transforms, a DataLoader with 4 workers, `.item()` in every batch, a pass over
the data for each quantity. Whatever is compared is timed in turn, and times are medians.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch.nn import functional as F
from torchvision import datasets, transforms

import data
import models
from experiments import cost
from experiments.setting import PAPER
from measuring.recorder import Recorder
from options import Model, Options, Train, integer, one_of, option, parse
from training import Trainer
from training.device import describe, memory_format, products, select_device
from utils import user_errors

BATCH = 128
STEPS = 10  # that are timed together
WORKERS = 4  # of the plain loop's DataLoader
Actions = dict[str, Callable[[], None]]


@dataclass(frozen=True)
class Benchmark(Options):
    """What to time."""

    width: int = option(8, "channels of ConvNetSI's first stage", integer(1))
    images: int | None = option(None, "training images (None: all, or 2,560)", integer(10))
    rounds: int = option(3, "how often each is timed", integer(1))
    data_path: str | None = option(None, "an ImageFolder of 32x32 images (None: random)")
    precision: str = option("fp32", "fp32 or tf32", one_of(("fp32", "tf32")))
    gpu: int = option(0, "number of the GPU (-1: CPU)", integer(-1))
    rates: bool = option(False, "only steps of the papers' networks")


def time_in_turn(actions: Actions, device: torch.device, rounds: int, clock) -> dict[str, float]:
    """Median seconds of each action. A first round, which loads kernels, is not counted."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(1 + rounds):
        for name, action in actions.items():
            began = clock()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                times[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def make_images(folder: Path, count: int) -> None:
    """An ImageFolder of random images: `count` for training, and a fifth (at least 10) to test."""
    random = np.random.RandomState(0)
    for i in range(count + max(count // 5, 10)):
        path = folder / ("train" if i < count else "test") / f"class{i % 10}"
        path.mkdir(parents=True, exist_ok=True)
        pixels = random.randint(256, size=(data.SIZE, data.SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.jpg", quality=90)


def new_trainer(name: str, width: int, precision: str, images: int, device) -> Trainer:
    """A network in the setting of the papers' figures, with the layout of its device."""
    options = replace(PAPER, model=name, num_channels=width, precision=precision, batch_size=BATCH)
    model = models.build(options, 10).to(device, memory_format=memory_format(device, width))
    return Trainer(model.train(), options, images, device)


def our_loop(options: Benchmark, device: torch.device) -> Actions:
    """This project's epoch and metrics, and as many passes of the bare network."""
    asked = Train(dataset="ImageFolder", data_path=options.data_path, use_data_size=options.images)
    parts = data.load(asked, use_test=True)
    train, test = (part.to(device, memory_format(device, options.width)) for part in parts)
    trainer = new_trainer("ConvNetSI", options.width, options.precision, len(train), device)
    meters = Recorder(Path(), trainer.model, train, test, trainer.options).meters
    x, y = next(train.batches(BATCH))

    def epoch() -> None:
        for batch in train.batches(BATCH, torch.default_generator, shuffle=True, augment=True):
            trainer.step(*batch)
        trainer.finish_epoch()

    def metrics() -> None:
        for meter in meters:
            meter.measure()

    def bare() -> None:
        for _ in range(-(-len(train) // BATCH)):
            trainer.model.zero_grad()
            with products(options.precision):
                F.cross_entropy(trainer.model(x), y).backward()

    return {"epoch": epoch, "metrics": metrics, "bare": bare}


def plain_loop(options: Benchmark, device: torch.device) -> Actions:
    """An epoch and the metrics as people usually write them."""
    tensor = [transforms.ToTensor(), transforms.Normalize(data.CIFAR_MEAN, data.CIFAR_STD)]
    augment = [transforms.RandomCrop(data.SIZE, data.PAD), transforms.RandomHorizontalFlip()]

    def batches(split: str, transform: list, shuffle: bool = False) -> Iterator:
        images = datasets.ImageFolder(f"{options.data_path}/{split}", transforms.Compose(transform))
        if split == "train" and options.images:
            images = torch.utils.data.Subset(images, torch.randperm(len(images))[: options.images])
        loader = torch.utils.data.DataLoader(images, BATCH, shuffle, num_workers=WORKERS)
        return ((x.to(device), y.to(device)) for x, y in loader)

    model = models.build(Model("ConvNetSI", options.width, init_scale=10.0), 10).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.001)

    def epoch() -> None:
        for x, y in batches("train", augment + tensor, shuffle=True):
            optimizer.zero_grad()
            with products(options.precision):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
            optimizer.step()
            loss.item()

    def metrics() -> None:
        with torch.no_grad():
            for x, y in batches("train", tensor):
                F.cross_entropy(model(x), y).item()
        for x, y in batches("train", tensor):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            sum(p.grad.norm().item() ** 2 for p in model.parameters()) ** 0.5
        model.eval()
        with torch.no_grad():
            for x, y in batches("test", tensor):
                (model(x).argmax(1) == y).sum().item()
        model.train()

    return {"plain epoch": epoch, "plain metrics": metrics}


def compare(options: Benchmark, device: torch.device) -> None:
    """Print a table of both loops, and the epoch next to the bare network."""
    actions = our_loop(options, device) | plain_loop(options, device)
    took = time_in_turn(actions, device, options.rounds, time.perf_counter)
    pairs = [(name, took[f"plain {name}"], took[name]) for name in ("epoch", "metrics")]
    rows = [[f"{name}, s", plain, ours, plain / ours] for name, plain, ours in pairs]
    count = f"{options.images:,}" if options.images else "all"
    print(f"ConvNetSI, width {options.width}, {count} images, {options.precision}\n")
    print(tabulate(rows, ["", "plain", "ours", "ratio"], floatfmt=("", ".3f", ".3f", ".2f")))
    ratio = took["epoch"] / took["bare"]
    print(f"\nan epoch takes {ratio:.2f} times as long as the bare network's passes")


def rates(options: Benchmark, device: torch.device) -> None:
    """Print a table of the training steps of the papers' networks, in the times of a GPU, or in
    processor time, which does not depend on what else the cores do."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    x = torch.randn(BATCH, 3, data.SIZE, data.SIZE, device=device)
    y = torch.randint(10, (BATCH,), device=device)
    rows = []
    for name, widths in cost.REFERENCE.items():
        for width in widths:
            trainer = new_trainer(f"{name}SI", width, options.precision, BATCH, device)
            images = x.contiguous(memory_format=memory_format(device, width))

            def steps(trainer=trainer, images=images) -> None:
                for _ in range(STEPS):
                    trainer.step(images, y)

            took = time_in_turn({"steps": steps}, device, options.rounds, clock)["steps"]
            parameters = sum(p.numel() for p in trainer.model.parameters())
            rows.append([name, width, parameters, 1e3 * took / STEPS / BATCH])
    print(tabulate(rows, ("network", "width", "parameters", "ms an image"), floatfmt=".3f"))


def main(argv: list[str] | None = None) -> None:
    options, _ = parse(Benchmark, argv, "benchmark.py", __doc__)
    device = select_device(options.gpu)
    torch.manual_seed(0)
    print(f"{describe(device)}, torch {torch.__version__}, batches of {BATCH}")
    if options.rates:
        rates(options, device)
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.data_path is None:
            options = replace(options, data_path=folder, images=options.images or 2560)
            make_images(Path(folder), options.images)
        compare(options, device)


if __name__ == "__main__":
    with user_errors("benchmark.py"):
        main()
