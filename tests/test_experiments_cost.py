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
    epochs = (99.0, *[seconds] * 3)  # the first includes what happens once
    rows = [{"epoch": i, "seconds": s} for i, s in enumerate(epochs, 1)]
    runs.write_log(folder, rows)


@pytest.mark.parametrize("architecture, width", [
    (name, width) for name, widths in cost.REFERENCE.items() for width in widths
])  # fmt: skip
def test_the_table_holds_the_networks_parameters(architecture, width):
    network = models.build(Model(f"{architecture}SI", width), 10)
    assert sum(p.numel() for p in network.parameters()) == cost.REFERENCE[architecture][width][0]


def test_between_and_beyond_the_widths_of_the_table():
    def of(width, model="ConvNetSIAf", depth=3):
        return cost.reference(model, width, depth, "batch")

    widths = cost.REFERENCE["ConvNet"]
    assert of(16) == pytest.approx((widths[16][0], widths[16][1] / 1e3))
    middle = of(8 * 2**0.5)
    assert middle[0] == pytest.approx((widths[8][0] * widths[16][0]) ** 0.5)
    assert of(64) == pytest.approx(tuple(4 * v for v in of(32)))
    true = sum(p.numel() for p in models.build(Model("ConvNetSI", 64), 10).parameters())
    assert of(64)[0] == pytest.approx(true, rel=0.02)
    assert of(8, depth=5) is None and of(8, "own.py:network") is None


def test_the_list_of_experiments_needs_no_torch():
    code = (
        "import sys, run_train_and_test as d; d.main(['--list']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0


def test_a_line_takes_its_start_its_epochs_and_its_checkpoints():
    def seconds(**params):
        return cost.total([line_of(epochs=100, use_data_size=5000, **params)]).seconds

    epoch = 5000 * cost.reference("ConvNetSI", 8, 3, "batch")[1]
    test_pass = 10_000 / 5000 / 3
    assert seconds(save_freq=1) == pytest.approx(cost.START + epoch * (201 + 101 * test_pass))
    assert seconds(save_freq=100) == pytest.approx(cost.START + epoch * (102 + 2 * test_pass))
    separate = seconds(save_freq=100, metrics=False)  # three commands
    assert separate == pytest.approx(2 * cost.START + seconds(save_freq=100))
    svhn = line_of("SVHN", epochs=10, save_freq=10)
    assert cost.in_epochs(svhn) == pytest.approx(10 + 2 * (1 + 26_032 / 73_257 / 3))


def test_what_is_left_of_a_line():
    line = line_of(epochs=100, save_freq=10, use_data_size=5000, use_test_size=1500)
    assert cost.in_epochs(line) == pytest.approx(100 + 11 * 1.1) == cost.in_epochs(line, left=True)
    runs.write_log(line.folder, [{"epoch": epoch, "seconds": 2.0} for epoch in range(1, 41)])
    runs.Metrics({e: {"loss": 1.0} for e in range(0, 41, 10)}).write(line.folder / "train-tm.npz")
    assert cost.in_epochs(line, left=True) == pytest.approx(60 + 6 * 1.1)
    epoch = 5000 * cost.reference("ConvNetSI", 8, 3, "batch")[1]
    left = cost.total([line], left=True).seconds
    assert left == pytest.approx(cost.START + epoch * (60 + 6 * 1.1))
    (line.folder / "train-tm.npz").write_bytes(b"damaged")
    runs.write_log(line.folder, [{"epoch": epoch} for epoch in range(1, 109)])
    assert cost.in_epochs(line, left=True) == pytest.approx(11 * 1.1)
    runs.Metrics({e: {"loss": 1.0} for e in range(0, 101, 10)}).write(line.folder / "train-tm.npz")
    assert cost.total([line], left=True).seconds == 0


def test_times_are_those_of_runs_on_this_machine():
    line = line_of(epochs=1, use_data_size=1000, save_freq=1, use_test_size=3000)
    work = 1 + 2 * 2
    past_run("a", 0.5)
    known = cost.total([line])
    assert known.seconds == pytest.approx(cost.START + work * 0.5 * 2)  # of two threads
    assert "as in runs here" in known.on(gpu=False)
    wide = line_of(num_channels=32, epochs=1, use_data_size=1000, save_freq=1, use_test_size=3000)
    narrow, wider = (cost.reference("ConvNetSI", w, 3, "batch")[1] for w in (8, 32))
    scaled = cost.total([wide])
    assert scaled.seconds == pytest.approx(cost.START + work * 1.0 * wider / narrow)
    assert "other networks" in scaled.on(gpu=False)
    past_run("b", 0.001, device="NVIDIA H200")
    assert cost.total([line], gpu=True).seconds == pytest.approx(cost.START + work * 0.001)
    assert cost.total([line]).seconds == known.seconds


def test_damaged_and_old_runs_are_passed_over():
    past_run("a", 0.5)
    seconds = cost.total([line_of()]).seconds
    for name, content in (("b", b"{"), ("c", b'{"device": "CPU, 2 threads"}'), ("d", b"[]")):
        past_run(name, 0.1)
        (cost.ROOT / "y" / name / "trial_0" / runs.CONFIG).write_bytes(content)
    assert cost.total([line_of()]).seconds == seconds


def test_what_has_never_been_timed_is_not_estimated():
    line = line_of(model="own.py:network")
    for gpu in (False, True):
        assert cost.total([line], gpu).seconds is None
        assert "unknown before the second epoch" in cost.total([line], gpu).on(gpu)
    assert cost.total([line_of()], gpu=True).seconds is None  # no run on a GPU
    past_run("a", 0.5, model="own.py:network")
    assert cost.total([line]).seconds > 0


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
