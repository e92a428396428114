"""What only a GPU can show; skipped without one."""

import numpy as np
import pytest
import torch
from conftest import TINY

import runs
import train
from runs import checkpoints

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
ON_GPU = TINY.replace("--gpu -1", "--gpu 0").replace("--use_data_size 200", "--use_data_size 1000")


def weights(folder, epoch):
    state = checkpoints.load(folder / f"checkpoint-{epoch}.pt")["state_dict"]
    kinds = ("weight", "original")  # the latter is what weight normalisation makes weights from
    return torch.cat([v.flatten() for k, v in state.items() if k.endswith(kinds)])


def start(tmp_path, name, extra, base=ON_GPU):
    train.main(f"{base} --dir {tmp_path}/{name} {extra}".split())
    return runs.trial_folder(tmp_path / name, 0)


@pytest.mark.parametrize("extra", [
    "", "--momentum 0.9 --d_schedule 2", "--fix_si_pnorm", "--fbgd", "--model ResNet18SIAf",
    "--optimizer adam", "--norm layer", "--norm weight",
])  # fmt: skip
def test_captured_steps_are_those_of_the_cpu(tmp_path, extra):
    """Schedules, norms and accumulated gradients survive the capture; rounding alone differs."""
    extra = extra.replace("--d_schedule", "--epochs 4 --d_schedule")
    base = ON_GPU.replace("--no_schedule", "") if "d_schedule" in extra else ON_GPU
    base = base.replace("--lr_init 0.1", "--lr_init 0.001")
    if "adam" in extra:
        base = base.replace("--momentum 0", "")
    gpu = start(tmp_path, "gpu", extra, base)
    cpu = start(tmp_path, "cpu", f"{extra} --gpu -1", base)
    a, b = weights(gpu, 3), weights(cpu, 3)
    moved = (weights(cpu, 3) - weights(cpu, 0)).norm()
    assert (a - b).norm() < 0.02 * moved


def test_trace_agrees_with_the_cpu(tmp_path):
    """One row a step, in order, from captured steps and from the smaller last batch."""
    gpu = runs.read_trace(start(tmp_path, "gpu", "--trace --lr_init 0.001"))
    cpu = runs.read_trace(start(tmp_path, "cpu", "--trace --lr_init 0.001 --gpu -1"))
    assert gpu.keys() == cpu.keys() and len(gpu["loss"]) == 3 * 16
    for key in gpu:
        np.testing.assert_allclose(gpu[key], cpu[key], rtol=5e-2, err_msg=key)


def test_resumed_run_goes_on_alike(tmp_path):
    whole = start(tmp_path, "whole", "--epochs 4 --save_freq 1 --deterministic")
    cut = start(tmp_path, "cut", "--epochs 2 --save_freq 1 --deterministic")
    start(tmp_path, "cut", "--epochs 4 --save_freq 1 --deterministic --resume")
    assert torch.equal(weights(whole, 4), weights(cut, 4))


def test_metrics_agree_with_the_cpu(tmp_path):
    gpu = start(tmp_path, "gpu", "--epochs 1 --metrics --lr_init 0.001")
    cpu = start(tmp_path, "cpu", "--epochs 1 --metrics --lr_init 0.001 --gpu -1")
    for name in runs.METRICS:
        with np.load(gpu / f"{name}.npz") as a, np.load(cpu / f"{name}.npz") as b:
            for key in a:
                np.testing.assert_allclose(a[key], b[key], rtol=2e-2, err_msg=key)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precisions_train(tmp_path, precision):
    folder = start(tmp_path, "run", f"--precision {precision} --epochs 4 --lr_init 0.01")
    losses = [row["train_loss"] for row in runs.read_log(folder)]
    assert losses[-1] < losses[0]


def test_compiled_network_trains(tmp_path):
    plain = start(tmp_path, "plain", "--lr_init 0.001")
    compiled = start(tmp_path, "compiled", "--lr_init 0.001 --compile")
    moved = (weights(plain, 3) - weights(plain, 0)).norm()
    assert (weights(plain, 3) - weights(compiled, 3)).norm() < 0.02 * moved
