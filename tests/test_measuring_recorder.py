"""Metrics measured while training are those of test.py; --keep bounds the disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY

import runs
import test as test_script
import train
from experiments import Experiment
from experiments.lines import lines_of
from measuring import recorder


def arrays(folder):
    return {name: dict(np.load(folder / f"{name}.npz")) for name in runs.METRICS}


def same(a, b):
    return all(
        a[file].keys() == b[file].keys()
        and all(np.array_equal(a[file][key], b[file][key]) for key in a[file])
        for file in runs.METRICS
    )


def measure_with_test_script(folder):
    """What the driver runs after a training without --metrics."""
    corrupt = runs.read_config(folder)["corrupt_train"]
    experiment = Experiment("x", "", params={"epochs": 1, "corrupt_train": corrupt})
    for words in list(lines_of(experiment)[0].commands.values())[1:]:
        words = [str(folder) if "trial_0" in w and ".npz" not in w else w for w in words]
        words = [str(folder / w.split("/")[-1]) if ".npz" in w else w for w in words]
        test_script.main([*words[1:], "--gpu", "-1"])


@pytest.mark.parametrize("extra", [
    "--save_freq_int 2 --corrupt_train 0.5", "--model ResNet18SIAf --noninvlr -1",
    "--num_channels 8 --fbgd",
])  # fmt: skip
def test_same_numbers_as_test_script(run, extra):
    folder = run(f"{extra} --save_freq 1 --epochs 2")
    measure_with_test_script(folder)
    expected = arrays(folder)
    folder = run(f"{extra} --save_freq 1 --epochs 2 --overwrite --metrics")
    assert same(expected, arrays(folder))


def test_without_use_test_the_test_set_is_measured_all_the_same(run):
    base = TINY.replace("--use_test", "")
    extra = "--save_freq 1 --epochs 1 --split_classes 0 --use_test_size 50"
    folder = run(extra, base=base)
    measure_with_test_script(folder)
    expected = arrays(folder)
    folder = run(f"{extra} --overwrite --metrics", base=base)
    assert same(expected, arrays(folder))
    assert runs.read_log(folder)[0]["test_acc"] != expected["test-em"]["acc"][1]  # held-out images


def test_keep_the_newest_and_those_asked_for(run):
    folder = run("--save_freq 1 --epochs 6 --metrics --keep 2 --keep_epochs 0,3")
    assert [epoch for epoch, _ in runs.checkpoints_in(folder)] == [0, 3, 5, 6]
    assert arrays(folder)["train-tm"]["report_epochs"].tolist() == list(range(7))
    folder = run("--save_freq 1 --epochs 6 --overwrite --keep 1")
    assert [epoch for epoch, _ in runs.checkpoints_in(folder)] == [6]


def test_metrics_of_a_resumed_run_are_those_of_a_whole_one(run):
    folder = run("--save_freq 1 --epochs 5 --metrics")
    expected = arrays(folder)
    run("--save_freq 1 --epochs 3 --metrics --keep 1 --overwrite")
    run("--save_freq 1 --epochs 5 --metrics --keep 1 --resume")
    assert same(expected, arrays(folder))


@pytest.mark.parametrize("extra", ["", "--save_freq_int 2"])
def test_checkpoints_not_yet_measured_are_caught_up(run, extra):
    folder = run(f"--save_freq 1 --metrics {extra}")
    expected = arrays(folder)
    run(f"--save_freq 1 --overwrite {extra}")
    run(f"--save_freq 1 --resume --metrics {extra}")
    assert same(expected, arrays(folder))


def test_a_run_that_catches_up_goes_on_from_its_latest_state(run, cut):
    """Not from the last checkpoint that it has measured; one that is damaged is passed over."""
    folder = run("--save_freq 2 --epochs 5")
    expected = torch.load(folder / "checkpoint-5.pt")["state_dict"]
    cut(3, "--save_freq 2 --epochs 5 --overwrite")
    (folder / "checkpoint-0.pt").write_bytes(b"damaged")
    run("--save_freq 2 --epochs 5 --resume --metrics")
    found = torch.load(folder / "checkpoint-5.pt")["state_dict"]
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert list(runs.Metrics.read(folder / "test-em.npz").rows) == [2, 4, 5]


@pytest.mark.parametrize("extra", ["", "--save_freq_int 2 --keep 3"])
@pytest.mark.parametrize("seconds", [0, 1e9])  # between two writings
def test_a_checkpoint_goes_only_when_its_metrics_are_on_disk(run, monkeypatch, extra, seconds):
    """So that a run killed at any moment can measure what it had not written."""
    removed, unlink = [], Path.unlink

    def watched(path, missing_ok=False):
        if path.name.startswith("checkpoint-"):
            epoch, _, step = path.stem.removeprefix("checkpoint-").partition("-")
            time = int(epoch) + int(step or 0) / 2
            for name in runs.METRICS:
                assert time in runs.Metrics.read(path.parent / f"{name}.npz").rows
            removed.append(time)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    monkeypatch.setattr(recorder, "WRITE_EVERY", seconds)
    folder = run(f"--save_freq 1 --epochs 4 --metrics --keep 1 --keep_epochs 2 {extra}")
    left = [(2, 0), (2, 1), (3, 1), (4, 0)] if extra else [(2, 0), (4, 0)]
    assert [key for key in runs.checkpoints_in(folder) if key != (3, 0)] == left
    assert len(removed) + len(runs.checkpoints_in(folder)) == (9 if extra else 5)


def test_metrics_are_written_while_the_run_goes_on(run, monkeypatch):
    seen, real = [], train.Training.epoch

    def epoch(self, number, progress):
        if (self.folder / "train-tm.npz").exists():
            seen.append(max(runs.Metrics.read(self.folder / "train-tm.npz").rows))
        return real(self, number, progress)

    monkeypatch.setattr(train.Training, "epoch", epoch)
    monkeypatch.setattr(recorder, "WRITE_EVERY", 0)
    run("--save_freq 1 --epochs 4 --metrics")
    assert seen == [0, 1, 2, 3]
