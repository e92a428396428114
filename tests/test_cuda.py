"""What only a GPU can show: pytest -q -s tests/test_cuda.py (see docs/gpu.md).

Every check prints its figure. Without a GPU all are skipped; GPU_CHECKS=dry runs their code on the
CPU at a tiny size, where graphs are replayed operation by operation (conftest.py).
"""

import os

import numpy as np
import pytest
import torch
from conftest import TINY, measure, state_of
from steps import content_of, meter_of, train_epochs, trainer_of
from torch.nn import functional as F

import data
import models
import runs
import train
from training.device import memory_format, products, select_device

DRY = os.environ.get("GPU_CHECKS") == "dry"
pytestmark = pytest.mark.skipif(
    not (DRY or torch.cuda.is_available()), reason="needs a CUDA GPU (GPU_CHECKS=dry: their code)"
)
GPU = torch.device("cpu") if DRY else torch.device("cuda", 0)
CPU = torch.device("cpu")
NUMBER = -1 if DRY else 0
WIDTH, BATCH = (2, 16) if DRY else (32, 128)  # on a GPU those of the papers' figures
COUNT = 6 * BATCH + BATCH // 3  # images: six batches and a smaller one
SIZE = {"width": WIDTH, "batch_size": BATCH}
SMALL = f"--num_channels {WIDTH} --batch_size {BATCH} --use_data_size {COUNT} --lr_init 0.01"


@pytest.fixture(autouse=True)
def device(request):
    """Exact float32, and the same bits in every run, unless a check asks for something else."""
    if DRY:
        request.getfixturevalue("replays")
    select_device(NUMBER, deterministic=True)
    yield
    select_device(NUMBER)


def report(name, **figures):
    shown = (f"{k} {v:.2g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
    print(f"\n  {name}: {', '.join(shown)}", flush=True)


def distance(a, b):
    """‖a - b‖ / ‖b‖ of two lists of tensors, each as one vector."""
    a, b = (torch.cat([t.detach().double().cpu().flatten() for t in part]) for part in (a, b))
    return ((a - b).norm() / b.norm()).item()


def images_on(device, count=COUNT, norm="batch"):
    random = np.random.RandomState(0)
    pixels = random.randint(256, size=(count, data.SIZE, data.SIZE, 3), dtype=np.uint8)
    images = data._image_set(pixels, random.randint(10, size=count), 10)
    return images.to(device, memory_format(device, 32, norm))


def called(function, *arguments):
    """Takes the place of a captured graph."""
    function(*arguments)


# --- is float32 exact, and are batches those of the CPU? ---


def test_float32_is_exact_and_tf32_is_not():
    """Relative error of a convolution: about 2e-7, and 3e-4 in TF32."""
    x, w = torch.randn(64, 64, 16, 16), torch.randn(128, 64, 3, 3)
    true = F.conv2d(x.double(), w.double(), padding=1)
    x, w = (v.to(GPU).contiguous(memory_format=torch.channels_last) for v in (x, w))
    errors = {"outside": distance([F.conv2d(x, w, padding=1)], [true])}
    for precision in ("fp32", "tf32"):
        with products(precision):
            errors[precision] = distance([F.conv2d(x, w, padding=1)], [true])
    report("error of a convolution", **errors)
    assert errors["outside"] < 2e-6 and errors["fp32"] < 2e-6
    assert DRY or errors["tf32"] > 1e-5


@pytest.mark.parametrize("augment", [False, True])
def test_batches_are_those_of_the_cpu(augment):
    how = {"shuffle": True, "augment": augment}
    gpu, cpu = (images_on(d).batches(BATCH, torch.Generator().manual_seed(1), **how)
                for d in (GPU, CPU))  # fmt: skip
    worst = 0.0
    for (x, y), (u, v) in zip(gpu, cpu, strict=True):
        assert torch.equal(y.cpu(), v)
        worst = max(worst, (x.cpu() - u).abs().max().item())
    report("batches", augment=augment, difference=worst)
    assert worst < 1e-6


# --- graphs: replayed = called, to the bit ---


@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.9}, {"momentum": 0.9, "noninvlr": -1.0, "model": "ConvNetSIAf"},
    {"fix_elr": True, "elr": 1e-3}, {"fix_si_pnorm": True}, {"trace": True},
    {"fix_elr": True, "elr": 1e-3, "noninvlr": 0.01, "trace": True},
    {"optimizer": "adam"}, {"optimizer": "adam", "noninvlr": -1.0},
    {"fbgd": True}, {"fbgd": True, "fix_si_pnorm": True, "trace": True},
    {"model": "ResNet18SI"}, {"precision": "tf32"}, {"precision": "bf16"},
    *({"norm": norm} for norm in ("layer", "group", "weight")),
], ids=str)  # fmt: skip
def test_replayed_steps_are_the_called_ones(options):
    """Also with a smaller last batch, a changing rate, and freed memory overwritten."""
    images = images_on(GPU, norm=options.get("norm", "batch"))
    plain, trainer = (trainer_of(images, **SIZE, **options) for _ in range(2))
    plain.captured = called
    expected, found = (train_epochs(t, images, range(3), True) for t in (plain, trainer))
    assert trainer.captured.graph is not None
    state, again = content_of(plain), content_of(trainer)
    report(f"replayed steps, {options}", difference=distance(again, state), loss=found[0]["loss"])
    assert found == expected and all(map(torch.equal, again, state))


@pytest.mark.parametrize("flags", [
    ("train_mode", "eval_model", "calc_grad_norms", "all_pnorm"), ("eval_model",),
    ("train_mode", "calc_grads"),
], ids=["train", "eval", "moments"])  # fmt: skip
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_measurements_are_the_called_ones(flags, precision, monkeypatch):
    """Training continues and weights are loaded in between; buffers and mode do not change."""
    monkeypatch.setattr("measuring.meter.EVALUATION_BATCH", {"cpu": BATCH, "cuda": BATCH})
    images = images_on(GPU)
    trainer, other = trainer_of(images, **SIZE), trainer_of(images, **SIZE, lr_init=0.1)
    train_epochs(other, images, [5])
    asked = {"batch_size": BATCH, "precision": precision, **dict.fromkeys(flags, True)}
    replayed = meter_of(trainer.model, images, **asked)
    for number in range(3):
        train_epochs(trainer, images, [number])
        if number == 1:
            trainer.model.load_state_dict(other.model.state_dict())
        before = content_of(trainer)
        plain = meter_of(trainer.model, images, **asked)
        plain.captured = called
        np.testing.assert_equal(replayed.measure()["si"], plain.measure()["si"])
        assert all(map(torch.equal, content_of(trainer), before)) and trainer.model.training
    assert replayed.captured.graph is not None
    report(f"replayed measurement, {flags[-1]}, {precision}", differences=0)


@pytest.mark.skipif(DRY, reason="asks the driver")
@pytest.mark.parametrize("options", [{}, {"fix_elr": True, "elr": 1e-3, "trace": True}], ids=str)
def test_steps_do_not_wait_for_the_device(options):
    images = images_on(GPU, 40 * BATCH)
    trainer = trainer_of(images, **SIZE, **options)
    batches = images.batches(BATCH, torch.Generator().manual_seed(0), shuffle=True, augment=True)
    for _ in range(6):
        trainer.step(*next(batches))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            trainer.step(*next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    report(f"steps without waiting, {options}", steps=20)


# --- whole runs ---


def start(folder, extra="", gpu=NUMBER):
    left_out = "--momentum 0", "--no_schedule"
    base = TINY.replace("--gpu -1", f"--gpu {gpu}").replace("--noaug", "")
    for words, names in zip(left_out, (("momentum", "adam"), ("d_schedule",)), strict=True):
        base = base.replace(words, "") if any(name in extra for name in names) else base
    train.main(f"{base} {SMALL} --dir {folder} {extra}".split())
    return runs.trial_folder(folder, 0)


def weights(folder, epoch):
    kinds = ("weight", "original")  # the latter: of which weight normalisation makes weights
    return [value for key, value in state_of(folder, epoch).items() if key.endswith(kinds)]


def moved_apart(one, two, epoch):
    """The distance of two runs, divided by how far they have come."""
    first, second, initial = weights(one, epoch), weights(two, epoch), weights(two, 0)
    way, apart = ([a - b for a, b in zip(second, each, strict=True)] for each in (initial, first))
    return (models.norm(apart) / models.norm(way)).item()


@pytest.mark.parametrize("extra", [
    "--momentum 0.9", "--optimizer adam", "--fix_elr --elr 0.001 --trace", "--fbgd --momentum 0.5",
])  # fmt: skip
def test_resumed_run_is_the_whole_one(tmp_path, extra):
    extra = f"{extra} --save_freq 1 --deterministic"
    whole = start(tmp_path / "whole", f"{extra} --epochs 4")
    start(tmp_path / "cut", f"{extra} --epochs 2")
    cut = start(tmp_path / "cut", f"{extra} --epochs 4 --resume")
    report(f"resumed, {extra.split(' --save')[0]}", apart=moved_apart(cut, whole, 4))
    assert all(map(torch.equal, weights(whole, 4), weights(cut, 4)))


@pytest.mark.parametrize("extra", [
    "--trace", "--momentum 0.9 --d_schedule 2", "--fix_si_pnorm", "--fix_elr --elr 0.0001",
    "--fbgd", "--model ResNet18SIAf --noninvlr -1", "--optimizer adam", "--norm layer",
    "--norm weight",
])  # fmt: skip
def test_runs_are_those_of_the_cpu(tmp_path, extra):
    """Schedules, norms and summed gradients survive the capture; only rounding differs."""
    options = f"{extra} --lr_init 0.001 --epochs 3 --save_freq 3"
    gpu, cpu = start(tmp_path / "gpu", options), start(tmp_path / "cpu", options, gpu=-1)
    apart = moved_apart(gpu, cpu, 3)
    report(f"run, {extra}", apart=apart)
    assert apart < 0.02
    if extra == "--trace":
        one, two = runs.read_trace(gpu), runs.read_trace(cpu)
        assert one.keys() == two.keys() and len(one["loss"]) == 3 * 7
        for key in one:
            np.testing.assert_allclose(one[key], two[key], rtol=5e-2, err_msg=key)


def test_a_run_of_the_cpu_continues_on_a_gpu(tmp_path):
    options = "--momentum 0.9 --num_channels 4 --lr_init 0.001 --save_freq 1"
    cpu = start(tmp_path / "cpu", f"{options} --epochs 4", gpu=-1)
    start(tmp_path / "both", f"{options} --epochs 2", gpu=-1)
    both = start(tmp_path / "both", f"{options} --epochs 4 --resume")
    apart = moved_apart(both, cpu, 4)
    report("two epochs on the CPU, two on the GPU", apart=apart)
    assert apart < 0.02


EVERYTHING = (
    "--eval_model --all_pnorm --calc_grad_norms --calc_grads --fisher_trace --hess_trace "
    + "--sharpness --fisher_evals --hess_evals" * (not DRY)  # these take many passes
)


@pytest.mark.parametrize("mode", ["--train_mode", "--use_test"])
def test_metrics_are_those_of_the_cpu(tmp_path, mode):
    """Every quantity of test.py, of the same network."""
    folder = start(tmp_path / "run", "--num_channels 4 --epochs 2 --save_freq 2", gpu=-1)
    gpu, cpu = (
        measure(folder, f"--epochs 2 {mode} {EVERYTHING} --gpu {number}", f"{name}.npz")
        for name, number in (("gpu", NUMBER), ("cpu", -1))
    )
    errors = {key: np.abs(gpu[key] - cpu[key]).max() / np.abs(cpu[key]).max() for key in cpu}
    key = max(errors, key=errors.get)
    report(f"metrics, {mode}", quantities=len(errors), worst=f"{key} {errors[key]:.1e}")
    assert errors[key] < 1e-3
