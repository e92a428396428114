"""The first ten minutes on a GPU, the most telling check first: pytest -q -s tests/test_cuda.py

Every check prints its figure. Without a GPU all are skipped; GPU_CHECKS=dry runs their code on the
CPU at a tiny size, where a graph is a function that is called again (conftest.py), and
GPU_CHECKS=compile those, too, that go through torch.compile (minutes).
"""

import os

import numpy as np
import pytest
import torch
from conftest import TINY
from torch.nn import functional as F

import data
import models
import runs
import test as test_script
import train
from measuring import Meter, parameter_names
from options import Measure, Model, Train
from runs import checkpoints
from training import Trainer
from training.device import memory_format, products, select_device

DRY = os.environ.get("GPU_CHECKS") in ("dry", "compile")
pytestmark = pytest.mark.skipif(
    not (DRY or torch.cuda.is_available()), reason="needs a CUDA GPU (GPU_CHECKS=dry: their code)"
)
compiles = pytest.mark.skipif(
    DRY and os.environ["GPU_CHECKS"] != "compile", reason="takes minutes on a CPU"
)
GPU = torch.device("cpu") if DRY else torch.device("cuda", 0)
CPU = torch.device("cpu")
NUMBER = -1 if DRY else 0
WIDTH, BATCH = (2, 16) if DRY else (32, 128)  # those of the papers' figures
COUNT = 6 * BATCH + BATCH // 3  # images: six batches and a smaller one
ON_GPU = TINY.replace("--gpu -1", f"--gpu {NUMBER}").replace("--use_data_size 200", "")
SMALL = f"--num_channels {WIDTH} --batch_size {BATCH} --use_data_size {COUNT} --lr_init 0.01"


@pytest.fixture(autouse=True)
def device(request):
    """Exact and the same bits in every run, unless a check says otherwise."""
    if DRY:
        request.getfixturevalue("replays")
    select_device(NUMBER, deterministic=True)
    yield
    select_device(NUMBER)
    if "compile" in request.node.name:  # it gives up on a network after 8 versions in a process
        torch.compiler.reset()


def say(name, **figures):
    shown = ", ".join(f"{k} {v:.2g}" if isinstance(v, float) else f"{k} {v}"
                      for k, v in figures.items())  # fmt: skip
    print(f"\n  {name}: {shown}", flush=True)


def far(a, b):
    """‖a - b‖ / ‖b‖ of two lists of tensors, each as one vector."""
    a, b = (torch.cat([t.detach().double().cpu().flatten() for t in part]) for part in (a, b))
    return ((a - b).norm() / b.norm()).item()


def images_on(device, count=COUNT, norm="batch"):
    generator = torch.Generator().manual_seed(0)
    shape = (count, data.SIZE, data.SIZE, 3)
    return data.ImageSet(
        torch.randint(256, shape, generator=generator, dtype=torch.uint8),
        torch.randint(10, (count,), generator=generator),
        10,
        torch.tensor(data.CIFAR_MEAN),
        torch.tensor(data.CIFAR_STD),
        torch.zeros(count, dtype=torch.bool),
    ).to(device, memory_format(device, 32, norm))


def network_of(words, device):
    torch.manual_seed(0)
    name, width = words.pop("model", "ConvNetSI"), words.pop("width", WIDTH)
    norm = words.pop("norm", "batch")
    model = models.build(Model(name, width, norm=norm, init_scale=10), 10)
    return model.to(device, memory_format=memory_format(device, 32, norm))


def trainer_of(device=GPU, **words):
    model = network_of(words, device)
    asked = {"lr_init": 0.01, "wd": 0.001, "momentum": 0.0, "noninvlr": 0.0, **words}
    return Trainer(model, Train(batch_size=BATCH, **asked), COUNT, device)


def state_of(trainer):
    """Weights, statistics and moments, and what was found on the way."""
    moments = [v for s in trainer.optimizer.state.values() for v in s.values() if v is not None]
    state = [*trainer.model.state_dict().values(), *map(torch.as_tensor, moments)]
    return [value.detach().cpu().clone() for value in state]


def epochs(trainer, images, numbers, augment=False, called=False):
    """Train; after every step NaN is written over freed memory. Losses, traces; the state."""
    found = []
    for number in numbers:
        trainer.set_lr(trainer.base_lr / (1 + number))
        generator = torch.Generator().manual_seed(number)
        for x, y in images.batches(BATCH, generator, shuffle=True, augment=augment):
            if called:
                trainer.take_step(x, y)
                trainer.seen += len(y)
            else:
                trainer.step(x, y)
            torch.full((2**10 if DRY else 2**20,), float("nan"), device=images.images.device)
        found.append(trainer.finish_epoch())
        if trainer.trace:
            found.append(trainer.trace.take())
    return found, state_of(trainer)


def meter_of(model, images, flags, **how):
    asked = Measure(batch_size=BATCH, **dict.fromkeys(flags, True), **how)
    return Meter(model, images, asked, {"si": parameter_names(model, si_only=True)})


# --- is float32 exact, and are the numbers those of the CPU? ---


def test_float32_is_exact_and_tf32_is_not():
    """Relative error of a convolution: about 2e-7, and 3e-4 in TF32."""
    x, w = torch.randn(64, 64, 16, 16), torch.randn(128, 64, 3, 3)
    true = F.conv2d(x.double(), w.double(), padding=1)
    x, w = (v.to(GPU).contiguous(memory_format=torch.channels_last) for v in (x, w))
    errors = {"outside": far([F.conv2d(x, w, padding=1)], [true])}
    for precision in ("fp32", "tf32"):
        with products(precision):
            errors[precision] = far([F.conv2d(x, w, padding=1)], [true])
    say("error of a convolution", **errors)
    assert errors["outside"] < 2e-6 and errors["fp32"] < 2e-6
    assert DRY or errors["tf32"] > 1e-5


@pytest.mark.parametrize("augment", [False, True])
def test_batches_are_those_of_the_cpu(augment):
    parts = [images_on(d).batches(BATCH, torch.Generator().manual_seed(1), shuffle=True,
                                  augment=augment) for d in (GPU, CPU)]  # fmt: skip
    worst = 0.0
    for (x, y), (u, v) in zip(*parts, strict=True):
        assert torch.equal(y.cpu(), v)
        worst = max(worst, (x.cpu() - u).abs().max().item())
    say("batches", augment=augment, difference=worst)
    assert worst < 1e-6


# --- graphs: replayed = called, to the bit ---

RECIPES = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "noninvlr": -1.0, "model": "ConvNetSIAf"},
    {"fix_elr": True, "elr": 1e-3},
    {"fix_elr": True, "elr": 1e-3, "noninvlr": 0.01, "trace": True},
    {"fix_si_pnorm": True},
    {"optimizer": "adam"},
    {"optimizer": "adam", "noninvlr": -1.0},
    {"fbgd": True},
    {"fbgd": True, "fix_si_pnorm": True, "trace": True},
    {"trace": True},
    {"model": "ResNet18SI"},
    {"precision": "tf32"},
    {"precision": "bf16"},
    *({"norm": norm} for norm in ("layer", "group", "weight")),
    pytest.param({"compile": True, "precision": "tf32"}, marks=compiles),
]


@pytest.mark.parametrize("words", RECIPES, ids=str)
@pytest.mark.parametrize("augment", [False, True], ids=["plain", "augmented"])
def test_replayed_steps_are_the_called_ones(words, augment):
    """Also across the smaller last batch, a changing rate, and memory that others overwrite."""
    if augment and words not in RECIPES[:2]:
        pytest.skip("augmentation comes before the step: twice is enough")
    images = images_on(GPU, norm=words.get("norm", "batch"))
    called, state = epochs(trainer_of(**words), images, range(3), augment, called=True)
    trainer = trainer_of(**words)
    replayed, again = epochs(trainer, images, range(3), augment)
    assert trainer.captured.graph is not None
    say(f"replayed steps, {words}", difference=far(again, state), loss=replayed[0]["loss"])
    assert replayed == called and all(map(torch.equal, again, state))


@pytest.mark.parametrize("train_mode, flags", [
    (True, ("train_mode", "eval_model", "calc_grad_norms", "all_pnorm")),
    (False, ("eval_model",)),
    (True, ("train_mode", "calc_grads")),
], ids=["train", "eval", "moments"])  # fmt: skip
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_measurements_are_the_called_ones(train_mode, flags, precision, monkeypatch):
    """Training goes on and weights are loaded in between; buffers and mode stay as they were."""
    monkeypatch.setattr("measuring.meter.EVALUATION_BATCH", {"cpu": BATCH, "cuda": BATCH})
    images, trainer = images_on(GPU), trainer_of()
    replayed = meter_of(trainer.model, images, flags, precision=precision)
    for number in range(3):
        epochs(trainer, images, [number])
        if number == 1:
            other = trainer_of(lr_init=0.1)
            epochs(other, images, [5])
            trainer.model.load_state_dict(other.model.state_dict())
        before = state_of(trainer)
        called = meter_of(trainer.model, images, flags, precision=precision)
        called.captured = lambda function, *arguments: function(*arguments)
        one, two = replayed.measure()["si"], called.measure()["si"]
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one)
        assert all(map(torch.equal, state_of(trainer), before)) and trainer.model.training
    assert replayed.captured.graph is not None
    say(f"replayed measurement, {flags[-1]}, {precision}", differences=0)


@compiles
def test_compiled_measurements_are_about_the_others():
    """Fused operations round elsewhere: loss and gradient norm agree to about 1e-7."""
    images, trainer = images_on(GPU), trainer_of()
    flags = ("train_mode", "eval_model", "calc_grad_norms")
    rows = [meter_of(trainer.model, images, flags, compile=compiled).measure()["si"]
            for compiled in (False, True)]  # fmt: skip
    errors = {key: abs(rows[1][key] / rows[0][key] - 1) for key in ("loss", "gnorm_m")}
    say("compiled measurement", **errors)
    assert max(errors.values()) < 1e-5


def test_captures_survive_what_earlier_runs_have_left():
    """A finished run's graph, even one in a circle, does not die during the next capture."""
    images = images_on(GPU)
    for _ in range(3):
        trainer = trainer_of()
        epochs(trainer, images, [0])
        assert trainer.captured.graph is not None
        trainer.circle = trainer  # what only the garbage collector frees
    say("captures beside dead graphs", broken=0)


@pytest.mark.skipif(DRY, reason="asks the driver")
@pytest.mark.parametrize("words", [{}, {"fix_elr": True, "elr": 1e-3, "trace": True}], ids=str)
def test_steps_do_not_wait_for_the_device(words):
    images, trainer = images_on(GPU, 40 * BATCH), trainer_of(**words)
    batches = images.batches(BATCH, torch.Generator().manual_seed(0), shuffle=True, augment=True)
    for _ in range(6):
        trainer.step(*next(batches))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            trainer.step(*next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    say(f"steps without waiting, {words}", steps=20)


# --- whole runs ---


def start(folder, extra="", base=ON_GPU):
    base = base.replace("--momentum 0", "") if "adam" in extra or "momentum" in extra else base
    train.main(f"{base} {SMALL} --dir {folder} {extra}".split())
    return runs.trial_folder(folder, 0)


def weights(folder, epoch):
    state = checkpoints.load(folder / f"checkpoint-{epoch}.pt")["state_dict"]
    kinds = ("weight", "original")  # the latter is what weight normalisation makes weights from
    return [value for key, value in state.items() if key.endswith(kinds)]


def moved_apart(one, two, epoch):
    """How far two runs are apart, over the way that they have come."""
    difference = [a - b for a, b in zip(weights(one, epoch), weights(two, epoch), strict=True)]
    way = [a - b for a, b in zip(weights(two, epoch), weights(two, 0), strict=True)]
    return sum(d.norm() ** 2 for d in difference).sqrt() / sum(w.norm() ** 2 for w in way).sqrt()


@pytest.mark.parametrize("extra", [
    "--momentum 0.9", "--optimizer adam", "--fix_elr --elr 0.001 --trace", "--fbgd --momentum 0.5",
])  # fmt: skip
def test_resumed_run_is_the_whole_one(tmp_path, extra):
    base = ON_GPU.replace("--noaug", "")
    extra = f"{extra} --save_freq 1 --deterministic"
    whole = start(tmp_path / "whole", f"{extra} --epochs 4", base)
    start(tmp_path / "cut", f"{extra} --epochs 2", base)
    cut = start(tmp_path / "cut", f"{extra} --epochs 4 --resume", base)
    apart = moved_apart(cut, whole, 4).item()
    say(f"resumed, {extra.split(' --save')[0]}", apart=apart)
    assert all(map(torch.equal, weights(whole, 4), weights(cut, 4)))


@pytest.mark.parametrize("extra", [
    "", "--momentum 0.9 --d_schedule 2", "--fix_si_pnorm", "--fix_elr --elr 0.0001", "--fbgd",
    "--model ResNet18SIAf --noninvlr -1", "--optimizer adam", "--norm layer", "--norm weight",
])  # fmt: skip
def test_runs_are_those_of_the_cpu(tmp_path, extra):
    """Schedules, norms and accumulated gradients survive the capture; rounding alone differs."""
    extra += " --lr_init 0.001 --epochs 3 --save_freq 3"
    base = ON_GPU.replace("--no_schedule", "") if "d_schedule" in extra else ON_GPU
    base = base.replace("--noaug", "")
    gpu = start(tmp_path / "gpu", extra, base)
    cpu = start(tmp_path / "cpu", f"{extra} --gpu -1", base)
    apart = moved_apart(gpu, cpu, 3).item()
    say(f"run, {extra.split(' --lr')[0] or 'plain'}", apart=apart)
    assert apart < 0.02


def test_a_run_of_the_cpu_goes_on_here(tmp_path):
    words = "--momentum 0.9 --num_channels 4 --lr_init 0.001 --save_freq 1"
    cpu = start(tmp_path / "cpu", f"{words} --epochs 4 --gpu -1")
    start(tmp_path / "both", f"{words} --epochs 2 --gpu -1")
    both = start(tmp_path / "both", f"{words} --epochs 4 --resume")
    apart = moved_apart(both, cpu, 4).item()
    say("two epochs on the CPU, two here", apart=apart)
    assert apart < 0.02


def test_traces_are_those_of_the_cpu(tmp_path):
    """One row a step, in order, from replayed steps and from the smaller last batch."""
    extra = "--trace --lr_init 0.001 --epochs 2"
    gpu = runs.read_trace(start(tmp_path / "gpu", extra))
    cpu = runs.read_trace(start(tmp_path / "cpu", f"{extra} --gpu -1"))
    assert gpu.keys() == cpu.keys() and len(gpu["loss"]) == 2 * 7
    for key in gpu:
        np.testing.assert_allclose(gpu[key], cpu[key], rtol=5e-2, err_msg=key)


EVERYTHING = (
    "--eval_model --all_pnorm --calc_grad_norms --calc_grads --fisher_trace --hess_trace "
    + "--sharpness --fisher_evals --hess_evals" * (not DRY)  # these take many passes
)


@pytest.mark.parametrize("mode", ["--train_mode", "--use_test"])
def test_metrics_are_those_of_the_cpu(tmp_path, mode):
    """Every quantity of test.py, of one and the same network; curvature included."""
    folder = start(tmp_path / "run", "--num_channels 4 --epochs 2 --save_freq 2 --gpu -1")
    rows = {}
    for name, number in (("gpu", NUMBER), ("cpu", -1)):
        path = tmp_path / f"{name}.npz"
        test_script.main(f"--models_dir {folder} --save_path {path} --gpu {number} {mode} "
                         f"{EVERYTHING}".split())  # fmt: skip
        rows[name] = runs.Metrics.read(path).rows[2]
    worst = {
        key: float(np.max(np.abs(rows["gpu"][key] - value) / np.max(np.abs(value))))
        for key, value in rows["cpu"].items()
    }
    key = max(worst, key=worst.get)
    say(f"metrics, {mode}", quantities=len(worst), worst=f"{key} {worst[key]:.1e}")
    assert worst[key] < 1e-3


def test_what_lower_precisions_do_to_the_metrics(capsys):
    """Relative error of loss and gradient norm against exact float32, early and later."""
    images, trainer = images_on(GPU), trainer_of(lr_init=0.1)
    flags = ("train_mode", "eval_model", "calc_grad_norms")
    for number in range(0, 8, 4):
        rows = {p: meter_of(trainer.model, images, flags, precision=p).measure()["si"]
                for p in ("fp32", "tf32", "bf16")}  # fmt: skip
        for precision in ("tf32", "bf16"):
            errors = {key: abs(rows[precision][key] / rows["fp32"][key] - 1)
                      for key in ("loss", "gnorm_m")}  # fmt: skip
            with capsys.disabled():
                say(f"metrics in {precision} after {number} epochs", **errors)
            assert max(errors.values()) < (0.01 if precision == "tf32" else 0.1)
            assert DRY or max(errors.values()) > 0
        epochs(trainer, images, range(number, number + 4))


@pytest.mark.parametrize("words", [
    {"precision": "tf32"}, {"precision": "bf16"},
    pytest.param({"compile": True}, marks=compiles),
], ids=str)  # fmt: skip
def test_faster_ways_train_alike(words):
    """The same data, rate and start: after four epochs the loss is about that of float32."""
    images = images_on(GPU)
    losses = [epochs(trainer_of(**w), images, range(4))[0][-1]["loss"] for w in ({}, words)]
    say(f"loss, {words}", fp32=losses[0], this=losses[1])
    assert abs(losses[1] / losses[0] - 1) < 0.05
