"""Estimates of what lines take rest on runs that there are, else on the measured table."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

import models
import runs
import train
from experiments import Experiment, cost
from experiments.lines import lines_of
from options import Model, Train


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def line_of(dataset="CIFAR10", **params):
    asked = Train(**{"metrics": True, "num_channels": 8, "dataset": dataset, **params})
    (line,) = lines_of(Experiment("x", "", asked))
    return line


def past_run(name, seconds, device="CPU, 2 threads", **network):
    """A run in Experiments/ that took so many seconds for an epoch of 1,000 images."""
    folder = cost.ROOT / "y" / name / "trial_0"
    network = {"model": "ConvNetSI", "num_channels": 8, "depth": 3, "norm": "batch", **network}
    runs.write_config(folder, {**network, "device": device, "train_images": 1000})
    epochs = (99.0, *[seconds] * 3, 9 * seconds)  # the first includes what happens once
    runs.write_log(folder, [{"epoch": i, "seconds": s} for i, s in enumerate(epochs, 1)])


def parameters(model, width):
    return sum(p.numel() for p in models.build(Model(model, width), 10).parameters())


def reference(width, model="ConvNetSI", depth=3):
    return cost.reference(model, width, depth, "batch")


def test_parameters_and_times_are_those_of_the_table_or_between_and_beyond_its_widths():
    for architecture, widths in cost.REFERENCE.items():
        for width, (numel, ms) in widths.items():
            assert parameters(f"{architecture}SI", width) == numel
            assert reference(width, f"{architecture}SIAf") == pytest.approx((numel, ms / 1e3))
    assert reference(12)[0] == pytest.approx(parameters("ConvNetSI", 12), rel=0.02)
    assert reference(64)[0] == pytest.approx(parameters("ConvNetSI", 64), rel=0.02)
    assert reference(8)[1] < reference(12)[1] < reference(16)[1]
    assert reference(64)[1] == pytest.approx(4 * reference(32)[1])
    assert reference(8, depth=5) is None and reference(8, "own.py:network") is None


def test_the_list_of_experiments_needs_no_torch():
    code = "import run_train_and_test as d, sys; d.main(['--list']); exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0


def test_a_line_takes_its_start_its_epochs_and_its_checkpoints():
    def seconds(**params):
        return cost.total([line_of(epochs=100, use_data_size=5000, **params)]).seconds

    epoch, test_pass = 5000 * reference(8)[1], 10_000 / 5000 / 3
    assert seconds(save_freq=1) == pytest.approx(cost.START + epoch * (201 + 101 * test_pass))
    separate = seconds(save_freq=100, metrics=False)  # three commands
    assert separate == pytest.approx(3 * cost.START + epoch * (102 + 2 * test_pass))
    svhn = line_of("SVHN", epochs=10, save_freq=10)
    assert cost.in_epochs(svhn) == pytest.approx(10 + 2 * (1 + 26_032 / 73_257 / 3))


def test_an_image_folder_has_as_many_images_as_there_are_files(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / "own" / "train" / name).mkdir(parents=True)
        (tmp_path / "own" / "train" / name / "a.png").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for path, images in ((f"{tmp_path}/own", 3), ("~/own", 3), ("none", 50_000)):
        assert cost.images(Train(dataset="ImageFolder", data_path=path)) == (images, 10_000)


def test_what_is_left_of_a_line():
    line = line_of(epochs=100, save_freq=10, use_data_size=5000, use_test_size=1500)
    assert cost.in_epochs(line) == pytest.approx(100 + 11 * 1.1) == cost.in_epochs(line, left=True)
    for trained, left in ((40, 60 + 6 * 1.1), (108, 0)):
        runs.write_log(line.folder, [{"epoch": trained, "seconds": 2.0}])
        metrics = runs.Metrics({e: {"loss": 1.0} for e in range(0, trained + 1, 10)})
        metrics.write(line.folder / "train-tm.npz")
        assert cost.in_epochs(line, left=True) == pytest.approx(left)
        seconds = cost.START + 5000 * reference(8)[1] * left if left else 0
        assert cost.total([line], left=True).seconds == pytest.approx(seconds)
    (line.folder / "train-tm.npz").write_bytes(b"damaged")
    assert cost.in_epochs(line, left=True) == pytest.approx(11 * 1.1)


def test_times_are_those_of_runs_on_this_machine():
    size = {"epochs": 1, "use_data_size": 1000, "save_freq": 1, "use_test_size": 3000}
    line, wide = line_of(**size), line_of(**size, num_channels=32)
    work = 1 + 2 * 2
    past_run("a", 0.5)
    for name, content in (("c", b"{"), ("d", b'{"device": "CPU, 2 threads"}'), ("e", b"[]")):
        past_run(name, 0.1)  # damaged and old ones are passed over
        (cost.ROOT / "y" / name / "trial_0" / runs.CONFIG).write_bytes(content)
    known, scaled = cost.total([line]), cost.total([wide])
    assert known.seconds == pytest.approx(cost.START + work * 0.5 * 2)  # of two threads
    assert "as in runs here" in known.on(gpu=False)
    ratio = reference(32)[1] / reference(8)[1]
    assert scaled.seconds == pytest.approx(cost.START + work * ratio)
    assert "other networks" in scaled.on(gpu=False)
    past_run("b", 0.001, device="NVIDIA H200")
    assert cost.total([line], gpu=True).seconds == pytest.approx(cost.START + work * 0.001)
    assert cost.total([line]) == known


def test_what_has_never_been_timed_is_not_estimated():
    own = line_of(model="own.py:network")
    for lines, gpu in (([line_of(), own], False), ([line_of()], True)):  # no run on a GPU
        assert cost.total(lines, gpu).seconds is None
        assert "unknown before the second epoch" in cost.total(lines, gpu).on(gpu)
    past_run("a", 0.5, model="own.py:network")
    assert cost.total([own]).seconds > 0


@pytest.mark.parametrize("more", [{"momentum": 0.0}, {"momentum": 0.9}, {"optimizer": "adam"}])
def test_disk_is_what_the_checkpoints_take(more):
    params = {"num_channels": 16, "use_data_size": 32, "epochs": 9, "save_freq": 1, "gpu": -1,
              "metrics": False, "noaug": True, "use_test": True, **more}  # fmt: skip
    line = line_of("Digits", **params)
    train.main(line.commands["train"][1:])
    saved = sum(path.stat().st_size for path in line.folder.glob("*.pt"))
    whole = cost.total([line]).disk
    assert whole == pytest.approx(saved, rel=0.1)  # the first has no moments yet
    assert cost.total([line_of("Digits", **params, keep=1)]).disk == pytest.approx(whole / 10)


def test_the_second_epoch_tells_training_and_measuring():
    run = object.__new__(train.Training)
    run.options = SimpleNamespace(save_freq=None, eval_freq=10, use_test=True)
    run.images, run.evaluator = range(300), SimpleNamespace(images=range(900))
    run.first, run.last, run.recorder, run.record_seconds = 0, 60, None, 0.0
    assert run.left(1, 2.0) == pytest.approx(59 * 2 + 6 * 2)  # evaluated 6 times, 2 s each
    run.recorder, run.record_seconds = "there", 5.0
    saved = sum(runs.is_saved(epoch, None) for epoch in range(2, 61))
    assert run.left(1, 2.0) == pytest.approx(59 * 2 + saved * 5)  # the metrics hold the test
