"""How fast the pipeline is: against a plain one, against the bare network, against the machine.

    python benchmark.py                        # random images, a network of width 8, 4 epochs
    python benchmark.py --width 32 --images 50000 --epochs 3 --lines 4        # on a GPU
    python benchmark.py --data_path FOLDER     # an ImageFolder of 32x32 images
    python benchmark.py --choices --width 32 --images 50000   # precision, layout, compile, lines

The work is the same for both pipelines: train, and for the state before training and after every
epoch the training loss in train mode, the mean norm of the batch gradients, and the test error.
The plain pipeline (experiments/plain.py) is written as people usually write it. Both crop and flip
the training images at random. Both are timed as whole processes, from start-up to the last file, in
turn; the figures are medians over the rounds.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from torch.nn import functional as F

import data
import runs
from command_line import Option, Parser, command, integer, one_of
from experiments import plain, speed
from experiments.speed import BATCH, in_turn
from training.device import autocast, describe, memory_format, products, select_device
from utils import UserError, user_errors, write_atomically

HERE = Path(__file__).parent
OPTIONS = (
    Option("--width", integer(1), 8, "channels of the first stage of ConvNetSI"),
    Option("--images", integer(10), 2560, "training images"),
    Option("--epochs", integer(1), 4, "epochs"),
    Option("--rounds", integer(1), 3, "how often the two pipelines take turns"),
    Option("--lines", integer(1), 2, "lines that train at once in the test of throughput"),
    Option("--data_path", str, None, "an ImageFolder of 32x32 images (default: random ones)"),
    Option("--precision", one_of(("fp32", "tf32", "bf16")), "fp32", "of this project's training"),
    Option("--gpu", integer(-1), 0, "number of the GPU (-1: CPU)"),
    Option("--json", str, None, "also write every figure into this file"),
    Option("--rates", None, False, "only the rates of training steps, by width"),
    Option("--choices", None, False, "only what each way of computing takes, this project's alone"),
    Option("--only", one_of(("plain", "parts")), None, "internal: one part, in this process"),
)
MPS = "nvidia-cuda-mps-control"


def training_words(options: argparse.Namespace) -> list[str]:
    """The options of train.py for the work that is timed."""
    return (
        f"--dataset ImageFolder --data_path {options.data_path} --model ConvNetSI --use_test "
        f"--num_channels {options.width} --use_data_size {options.images} --batch_size {BATCH} "
        f"--epochs {options.epochs} --lr_init 0.01 --wd 0.001 --momentum 0 --no_schedule "
        f"--init_scale 10 --noninvlr 0 --save_freq 1 --metrics --precision {options.precision} "
        f"--gpu {options.gpu}"
    ).split()


def random_images(folder: Path, count: int) -> None:
    """An ImageFolder of random images: `count` for training, a fifth of that (at least 10: one of
    every class) for testing."""
    random = np.random.RandomState(0)
    for split, size in (("train", count), ("test", max(count // 5, 10))):
        for i in range(size):
            path = folder / split / f"class{i % 10}"
            path.mkdir(parents=True, exist_ok=True)
            pixels = random.randint(256, size=(data.SIZE, data.SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / f"{i}.jpg", quality=90)


# --- this pipeline, part by part ---


def parts(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of this project's parts, of the bare network, and the machine's ceilings."""
    device = select_device(options.gpu)
    found = pipeline_parts(options, device)
    with products(options.precision):
        return {**found, **speed.ceilings(device)}


def pipeline_parts(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    layout = memory_format(device, options.width)
    train, test = (
        images.to(device, layout)
        for images in data.load(
            "ImageFolder", options.data_path, use_test=True, use_data_size=options.images
        )
    )
    trainer = speed.new_trainer(options.width, train, precision=options.precision)
    model = trainer.model
    meters = speed.meters_of(model, train, test)
    generator = torch.Generator().manual_seed(0)
    x, y = next(train.batches(BATCH))
    steps = max(len(train) // BATCH, 1)

    def epoch() -> None:
        speed.epoch(trainer, train, generator, augment=True)

    def bare() -> None:
        with products(options.precision):
            for _ in range(steps):
                model.zero_grad()
                with autocast(options.precision, device):
                    loss = F.cross_entropy(model(x), y)
                loss.backward()

    def measure() -> None:
        for meter in meters:
            meter.measure()

    # Those that are compared take turns, so that a change of the machine's speed meets both.
    actions = {"epoch": epoch, "bare": bare, "metrics": measure}
    seconds = in_turn(actions, device, max(options.rounds, 5))
    flops, moved = speed.work_per_image(model, x, y)
    return {
        **seconds,
        "step over bare": seconds["epoch"] / len(train) / (seconds["bare"] / (steps * len(x))),
        "flop per image": flops,
        "bytes per image": moved,
    }


# --- both as whole processes ---


def run(words: list[str], **environment: str) -> subprocess.Popen:
    """Start a script of this folder; its output is kept for the case that it fails."""
    return subprocess.Popen(
        [sys.executable, str(HERE / words[0]), *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def finish(process: subprocess.Popen) -> tuple[str, float]:
    """The output of a process, and the most memory it held in GB (without its children)."""
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{process.args[1]} failed:\n{output}")
    return output, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def timed(words: list[str]) -> tuple[float, str, float]:
    began = time.perf_counter()
    output, memory = finish(run(words))
    return time.perf_counter() - began, output, memory


def train_words(options: argparse.Namespace, folder: Path, name: str) -> list[str]:
    return ["train.py", "--dir", str(folder / name), *training_words(options)]


def part_words(options: argparse.Namespace, part: str) -> list[str]:
    return command("benchmark.py", {**vars(options), "json": None, "only": part})


def throughput(options: argparse.Namespace, folder: Path, **environment: str) -> dict[str, float]:
    """Images a second of several lines at once, and of one, each with its share of the threads."""
    longer = argparse.Namespace(**{**vars(options), "epochs": 3 * options.epochs})
    threads = max(1, torch.get_num_threads() // options.lines)
    rates = {}
    for lines in (1, options.lines):
        names = [f"throughput-{lines}-{i}" for i in range(lines)]
        words = [[*train_words(longer, folder, name), "--overwrite"] for name in names]
        for process in [run(w, OMP_NUM_THREADS=str(threads), **environment) for w in words]:
            finish(process)
        logs = [runs.read_log(runs.trial_folder(folder / name, 0)) for name in names]
        rates[lines] = sum(
            options.images / statistics.median(row["seconds"] for row in log[1:]) for log in logs
        )
    return {"one line": rates[1], "all lines": rates[options.lines], "threads a line": threads}


@contextlib.contextmanager
def shared_gpu(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which processes share a GPU through CUDA's MPS daemon, while it runs."""
    environment = {
        "CUDA_MPS_PIPE_DIRECTORY": str(folder / "mps"),
        "CUDA_MPS_LOG_DIRECTORY": str(folder / "mps"),
    }
    (folder / "mps").mkdir()
    own = {**os.environ, **environment}
    subprocess.run([MPS, "-d"], env=own, check=True)
    try:
        yield environment
    finally:
        subprocess.run([MPS], input="quit\n", text=True, env=own, check=True)


def all_choices(options: argparse.Namespace, folder: Path) -> dict[str, list[dict]]:
    """The tables of `speed.choices`, and lines as processes; each is printed when it is there."""
    device, found = select_device(options.gpu), {}

    def show(title: str, rows: list[dict]) -> None:
        found[title] = rows
        print(f"\n{title}\n\n{speed.as_table(rows)}", flush=True)

    print(f"{describe(device)}; ConvNetSI, width {options.width}, torch {torch.__version__}")
    for title, rows in speed.choices(device, options.width, options.images):
        show(title, rows)
    if device.type != "cuda":
        print("\nwithout a GPU: no kernels of a step, lines in one graph, or MPS")
    make_images(options, folder)
    rows = [{"processes": "as they are", **throughput(options, folder)}]
    if device.type == "cuda":
        rows.append({"processes": "MPS", **throughput_under_mps(options, folder)})
    show(f"{options.lines} lines as processes, images/s", rows)
    return found


def throughput_under_mps(options: argparse.Namespace, folder: Path) -> dict[str, float | str]:
    """As `throughput`, or why there is none."""
    try:
        with shared_gpu(folder) as environment:
            return throughput(options, folder, **environment)
    except (OSError, subprocess.CalledProcessError, UserError) as error:
        return {"failed": str(error).strip().splitlines()[-1][:80]}


def make_images(options: argparse.Namespace, folder: Path) -> None:
    """Have an ImageFolder at hand, decoded once: that is part of no time."""
    if options.data_path is None:
        options.data_path = f"{folder}/data"
        random_images(Path(options.data_path), options.images)
    data.load("ImageFolder", options.data_path, use_test=True, use_data_size=options.images)


def compare(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Every figure of the benchmark, by name."""
    names = ("plain", "ours")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, float] = {}
    for i in range(options.rounds):
        took, output, memory["plain"] = timed(part_words(options, "plain"))
        seconds["plain"].append(took)
        plain_parts = json.loads(output.splitlines()[-1])
        took, _, memory["ours"] = timed(train_words(options, folder, f"round-{i}"))
        seconds["ours"].append(took)
    one_epoch = argparse.Namespace(**{**vars(options), "epochs": 1, "images": BATCH})
    start_up, _, _ = timed(train_words(one_epoch, folder, "start"))
    _, output, _ = timed(part_words(options, "parts"))
    found = {f"ours: {k}": v for k, v in json.loads(output.splitlines()[-1]).items()}
    found |= {f"plain: {k}": v for k, v in plain_parts.items()}
    for name in names:
        found[f"{name}: whole"] = statistics.median(seconds[name])
        found[f"{name}: peak GB"] = memory[name]
    found["ratio"] = statistics.median(
        a / b for a, b in zip(seconds["plain"], seconds["ours"], strict=True)
    )
    found["ours: one batch, start to end"] = start_up
    if options.lines > 1:
        found |= {f"lines: {k}": v for k, v in throughput(options, folder).items()}
    return found


def report(options: argparse.Namespace, found: dict[str, float], device: str) -> str:
    """The figures as tables."""
    images = options.images
    rows = [
        ["training, images/s", images / found["plain: epoch"], images / found["ours: epoch"]],
        ["training, s/epoch", found["plain: epoch"], found["ours: epoch"]],
        ["metrics, s/checkpoint", found["plain: metrics"], found["ours: metrics"]],
        [f"whole, {options.epochs} epochs, s", found["plain: whole"], found["ours: whole"]],
        ["peak memory, GB", found["plain: peak GB"], found["ours: peak GB"]],
    ]
    rows = [[name, a, b, a / b if "images/s" not in name else b / a] for name, a, b in rows]
    text = tabulate(rows, ["", "plain", "ours", "ratio"], floatfmt=("", ".3f", ".3f", ".2f"))
    rate = images / found["ours: epoch"]
    flops, moved = found["ours: flop per image"], found["ours: bytes per image"]
    lines = [
        f"{device}; ConvNetSI, width {options.width}, {images} images, batch {BATCH}, "
        f"{options.precision}, torch {torch.__version__}",
        "",
        text,
        "",
        f"end to end {found['ratio']:.2f} times as fast (median of {options.rounds} pairs)",
        f"a training step takes {found['ours: step over bare']:.2f} of the bare network's "
        "forward and backward pass",
        f"start-up to the end of the first batch and its metrics: "
        f"{found['ours: one batch, start to end']:.1f} s",
        f"work per image, forward and backward: {flops / 1e6:.1f} MFLOP, {moved / 1e6:.2f} MB",
        f"training uses {rate * flops / found['ours: flop per second']:.1%} of the machine's "
        f"{found['ours: flop per second'] / 1e9:.0f} GFLOP/s (matrix product) and "
        f"{rate * moved / found['ours: bytes per second']:.1%} of its "
        f"{found['ours: bytes per second'] / 1e9:.0f} GB/s (copy; more than all: in the caches)",
    ]
    if "lines: all lines" in found:
        lines.append(
            f"{options.lines} lines at once, {found['lines: threads a line']:.0f} threads each: "
            f"{found['lines: all lines'] / found['lines: one line']:.2f} times the throughput of "
            "one such line"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    options = Parser(OPTIONS, prog="benchmark.py", description=__doc__).parse_args(argv)
    if options.rates:
        print(speed.rates(options.gpu))
        return
    if options.only:
        print(json.dumps(plain.run(options) if options.only == "plain" else parts(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.choices:
            found = all_choices(options, folder)
        else:
            make_images(options, folder)
            found = compare(options, folder)
            print(report(options, found, describe(select_device(options.gpu))))
    if options.json:
        text = json.dumps({**vars(options), **found}, indent=2) + "\n"
        write_atomically(options.json, text.encode())


if __name__ == "__main__":
    with user_errors("benchmark.py"):
        main()
