"""How fast this machine is, and what each choice does to it: benchmark.py --rates and --choices.

All images are random. Times are medians, and a first round, in which kernels are chosen and
captured, is not counted.
"""

import gc
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import data
import models
import runs
from experiments import cost
from measuring import Meter
from measuring.recorder import Recorder
from runs import checkpoints
from training import Recipe, Trainer
from training.capture import WARM_UP, Captured
from training.device import describe, memory_format, select_device

BATCH = 128
STEPS = 15  # of training that are timed together
LAYOUTS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
MOST_LINES = 8  # in one graph


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    actions: dict[str, Callable[[], None]], device: torch.device, rounds: int
) -> dict[str, float]:
    """Median seconds of each action; a first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for counted in [False, *[True] * rounds]:
        for name, action in actions.items():
            wait(device)
            began = time.perf_counter()
            action()
            wait(device)
            if counted:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def often(action: Callable[[], None], device: torch.device) -> float:
    """Milliseconds of an action that is done many times without waiting between."""

    def repeat() -> None:
        for _ in range(STEPS):
            action()

    return in_turn({"": repeat}, device, rounds=5)[""] / STEPS * 1e3


def random_images(
    count: int, device: torch.device, layout: torch.memory_format = torch.contiguous_format
) -> data.ImageSet:
    """Random images of ten classes on a device."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, data.SIZE, data.SIZE, 3)
    return data.ImageSet(
        torch.randint(256, shape, generator=generator, dtype=torch.uint8),
        torch.randint(10, (count,), generator=generator),
        10,
        torch.tensor(data.CIFAR_MEAN),
        torch.tensor(data.CIFAR_STD),
        torch.zeros(count, dtype=torch.bool),
    ).to(device, layout)


def new_trainer(width: int, images: data.ImageSet, **recipe: Any) -> Trainer:
    """ConvNetSI in the setting of the papers' figures, in the layout of the images."""
    device = images.images.device
    torch.manual_seed(0)
    model = models.build("ConvNetSI", 10, width, init_scale=10)
    model.to(device, memory_format=images.memory_format).train()
    return Trainer(model, Recipe(wd=0.001, other_lr=0.0, **recipe), len(images), device)


def warm(trainer: Trainer, x: torch.Tensor, y: torch.Tensor) -> None:
    """Steps until the graph is there and has been replayed."""
    for _ in range(WARM_UP + 2):
        trainer.step(x, y)


def epoch(
    trainer: Trainer, images: data.ImageSet, generator: torch.Generator, augment: bool = False
) -> None:
    """Train for one epoch, on batches of `BATCH` in random order."""
    for x, y in images.batches(BATCH, generator, shuffle=True, augment=augment):
        trainer.step(x, y)
    trainer.finish_epoch()


def meters_of(
    model: torch.nn.Module, train: data.ImageSet, test: data.ImageSet, **how: Any
) -> list[Meter]:
    """The meters of a run with --metrics: on the training and on the test images."""
    return Recorder(Path(), model, train, test, batch_size=BATCH, **how).meters


def rates(gpu: int) -> str:
    """How fast ConvNetSI trains here at several widths, as a table."""
    device = select_device(gpu)
    rows = []
    for width in cost.CPU_CORE_RATE:
        images = random_images(BATCH, device, memory_format(device, width))
        trainer = new_trainer(width, images)
        x, y = next(images.batches(BATCH))
        rate = BATCH / often(lambda trainer=trainer, x=x, y=y: trainer.step(x, y), device) * 1e3
        forward, parameters = cost.count("ConvNetSI", 10, width, 3, "batch")
        work = (1 + cost.BACKWARD) * forward
        rows.append([width, parameters, work / 1e6, rate, rate * work / 1e9])
    headers = ("width", "parameters", "MFLOP an image", "images/s", "GFLOP/s")
    table = tabulate(rows, headers, floatfmt=("d", "d", ".1f", ".0f", ".1f"))
    return f"{describe(device)}\n\n{table}"


class BytesCounter(TorchDispatchMode):
    """Adds up the bytes that every operation reads and writes (views move nothing)."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = torch.utils._pytree.tree_leaves((args, kwargs, result))
            self.total += sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
        return result


def work_per_image(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Floating-point operations and bytes moved by forward and backward pass, for one image."""
    results = []
    for counter in (FlopCounterMode(display=False), BytesCounter()):
        model.zero_grad()
        with counter:
            F.cross_entropy(model(x), y).backward()
        counted = counter.total if isinstance(counter, BytesCounter) else counter.get_total_flops()
        results.append(counted / len(x))
    return results[0], results[1]


def ceilings(device: torch.device) -> dict[str, float]:
    """What the machine can do: FLOP/s of a matrix product, bytes/s of a copy (read and written)."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    source = torch.randn(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    actions = {"product": lambda: a @ b, "copy": lambda: target.copy_(source)}
    seconds = in_turn(actions, device, 5)
    return {
        "flop per second": 2 * size**3 / seconds["product"],
        "bytes per second": 2 * source.nbytes / seconds["copy"],
    }


# --- what each choice does: every function gives the rows of one table ---


def choices(device: torch.device, width: int, count: int) -> Iterator[tuple[str, list[dict]]]:
    """The tables one after the other, each a title and rows; on a CPU those that apply there."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.backends.cudnn.benchmark_limit = 0  # let the layouts try every kernel there is
    yield "one line", list(variants(device, width, count))
    yield "host, ms", [host(count, width, device)]
    if on_gpu:
        recipes = (
            {},
            {"precision": "tf32"},
            {"precision": "tf32", "elr": 1e-3, "traced_steps": 99},
        )
        yield "kernels of a step", [kernels(device, width, **recipe) for recipe in recipes]
        rows = [lines_in_graph(device, width, p) for p in ("tf32", "bf16")]
        yield "lines in one graph", list(itertools.chain(*rows))


def variants(device: torch.device, width: int, count: int) -> Iterator[dict[str, Any]]:
    """Training and measuring in each precision, layout, and through torch.compile."""
    ways = [("fp32", layout, False) for layout in LAYOUTS]
    if device.type == "cuda":
        ways += [(precision, layout, False) for precision in ("tf32", "bf16") for layout in LAYOUTS]
        ways += [(precision, "channels last", True) for precision in ("tf32", "bf16")]
    for precision, layout, compile in ways:
        row = {"precision": precision, "layout": layout, "compiled": compile}
        try:
            row |= variant(device, width, count, **row)
        except RuntimeError as error:  # no compiler, no memory: the others are wanted all the same
            row["failed"] = str(error).strip().split("\n")[0][:80]
        yield row
        tidy_up(device)


def variant(
    device: torch.device, width: int, count: int, precision: str, layout: str, compiled: bool
) -> dict[str, float | None]:
    """One way to train and to measure: milliseconds of a step, seconds of whole passes.

    "graph" is the step's replay alone; what "step" takes beyond it is the copy of the batch.
    """
    images = random_images(count, device, LAYOUTS[layout])
    test = random_images(max(count // 5, 1), device, LAYOUTS[layout])
    trainer = new_trainer(width, images, precision=precision, compile=compiled)
    x, y = next(images.batches(BATCH))
    warm(trainer, x, y)
    graph, generator = trainer.captured.graph, torch.Generator().manual_seed(0)

    how = {"precision": precision, "compile": compiled}
    meters = meters_of(trainer.model, images, test, **how)
    row = {
        "graph, ms": often(graph.replay, device) if graph else None,
        "step, ms": often(lambda: trainer.step(x, y), device),
    }
    trainer.finish_epoch()
    passes = {
        "epoch, s": lambda: epoch(trainer, images, generator),
        "metrics, s": meters[0].measure,
        "test, s": meters[1].measure,
    }
    row |= in_turn(passes, device, rounds=3)
    row["memory, GB"] = torch.cuda.memory_reserved() / 1e9 if graph else None
    return row


def tidy_up(device: torch.device) -> None:
    """Free what a finished measurement has left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.compiler.reset()


def kernels(device: torch.device, width: int, **recipe: Any) -> dict[str, Any]:
    """How many kernels a step of training consists of, and which take longest (µs a step)."""
    images = random_images(BATCH, device, torch.channels_last)
    trainer = new_trainer(width, images, **recipe)
    x, y = next(images.batches(BATCH))
    warm(trainer, x, y)
    on_gpu = device.type == "cuda"
    kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiler:
        for _ in range(STEPS):
            trainer.step(x, y)
        wait(device)

    def microseconds(event: Any) -> float:
        return (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / STEPS

    events = sorted(profiler.key_averages(), key=microseconds, reverse=True)
    events = [event for event in events if microseconds(event) > 0]
    longest = [f"{microseconds(e):.0f} {e.key[:60]}" for e in events[:8]]
    return {
        "recipe": ", ".join(f"{k} {v}" for k, v in recipe.items()) or "fp32",
        "kernels": sum(event.count for event in events) / STEPS,
        "busy, ms": sum(map(microseconds, events)) / 1e3,
        "longest, µs": "\n".join(longest),
    }


class Lines:
    """Lines of one experiment that take their steps side by side, as branches of one graph.

    Equal seeds give equal batches, so that one batch serves all of them.
    """

    def __init__(self, trainers: Sequence[Trainer], device: torch.device):
        self.trainers, self.captured = trainers, Captured(device)
        self.streams = [torch.cuda.Stream(device) for _ in trainers]

    def step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.captured(self._fork_and_join, x, y)

    def _fork_and_join(self, x: torch.Tensor, y: torch.Tensor) -> None:
        main = torch.cuda.current_stream()
        for trainer, stream in zip(self.trainers, self.streams, strict=True):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                trainer.take_step(x, y)
        for stream in self.streams:
            main.wait_stream(stream)


def lines_in_graph(device: torch.device, width: int, precision: str) -> Iterator[dict[str, Any]]:
    """Milliseconds of a line's step when 1, 2, 4, ... lines are branches of one graph."""
    alone, count = None, 1
    while count <= MOST_LINES:
        took = step_of_lines(device, width, precision, count) / count
        alone = alone or took
        yield {
            "precision": precision,
            "lines": count,
            "step of a line, ms": took,
            "times as fast": alone / took,
        }
        tidy_up(device)
        count *= 2


def step_of_lines(device: torch.device, width: int, precision: str, count: int) -> float:
    """Milliseconds in which so many lines take a step each."""
    images = random_images(BATCH, device, torch.channels_last)
    lines = Lines([new_trainer(width, images, precision=precision) for _ in range(count)], device)
    x, y = next(images.batches(BATCH))
    return often(lambda: lines.step(x, y), device)


def host(count: int, width: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of what the host does once an epoch."""
    trainer = new_trainer(width, random_images(BATCH, device))
    row = {"epoch": 1, "train_loss": 0.123456789, "test_loss": None, "seconds": 0.3}

    def content() -> dict[str, Any]:
        return {"state_dict": trainer.model.state_dict(), "optimizer": trainer.optimizer_state()}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        actions = {
            "permutation": lambda: torch.randperm(count),
            "its copy": lambda: torch.arange(count).to(device),
            "checkpoint in memory": lambda: torch.save(content(), io.BytesIO()),
            "checkpoint": lambda: checkpoints.save(folder / "checkpoint-1.pt", content()),
            "row of the log": lambda: runs.append_log(folder, row),
        }
        return {k: 1e3 * v for k, v in in_turn(actions, device, rounds=5).items()}


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    return tabulate(rows, headers="keys", floatfmt=".4g")
