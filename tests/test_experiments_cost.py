"""The cost of a line is what its network and its files come to."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

import models
import options
import runs
import train
from experiments import Experiment, cost
from experiments.lines import lines_of

CONV, LINEAR = 2 * 9, 2  # operations of a 3x3 convolution and a linear layer, by channels and place


@pytest.mark.parametrize("model", options.MODEL_NAMES)
@pytest.mark.parametrize("width, depth", [(1, 3), (4, 1), (8, 3), (2, 7)])
def test_operations_and_parameters_are_those_of_the_network(model, width, depth):
    counted = cost.count_by_torch(model, 10, width, depth, "batch")
    assert cost.count(model, 10, width, depth, "batch") == counted
    assert counted[1] == sum(p.numel() for p in models.build(model, 10, width, depth).parameters())


def test_operations_by_hand():
    c = 8
    expected = CONV * (32**2 * (3 * c + c * 2 * c) + 16**2 * 2 * c * 4 * c + 8**2 * 4 * c * 8 * c)
    assert cost.count("ConvNetSI", 10, c, 3, "batch")[0] == expected + LINEAR * 8 * c * 10


def test_the_list_of_settings_does_without_torch():
    code = (
        "import sys, run_train_and_test as d; d.main(['--list']); sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
    )


def test_a_line_costs_its_epochs_and_the_passes_of_its_metrics():
    def of(**params):
        (line,) = lines_of(Experiment("x", "", params={"num_channels": 8, "epochs": 100, **params}))
        return cost.cost(line)

    often, rarely, longer = of(save_freq=1), of(save_freq=100), of(save_freq=100, epochs=200)
    test_pass = 10_000 / 50_000 / 3
    assert often.operations / rarely.operations == pytest.approx(
        (201 + 101 * test_pass) / (102 + 2 * test_pass)
    )
    assert 1.9 < longer.operations / rarely.operations < 2
    assert often.disk / rarely.disk == pytest.approx(101 / 2)
    assert of(save_freq=1, keep=3, keep_epochs="0,50,1000").disk == pytest.approx(2.5 * rarely.disk)
    assert of(momentum=0).disk == of(momentum=0.9).disk / 2


def test_what_is_left_of_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = {"epochs": 100, "save_freq": 10, "use_data_size": 5000, "use_test_size": 1500}
    (line,) = lines_of(Experiment("x", "", params=params))
    whole = cost.in_epochs(line)
    assert whole == pytest.approx(100 + 11 * 1.1) == cost.in_epochs(line, left=True)
    runs.write_log(line.folder, [{"epoch": epoch, "seconds": 2.0} for epoch in range(1, 41)])
    runs.Metrics({e: {"loss": 1.0} for e in range(0, 41, 10)}).write(line.folder / "train-tm.npz")
    assert cost.in_epochs(line, left=True) == pytest.approx(60 + 6 * 1.1)
    parts = [cost.total([line], left).operations for left in (True, False)]
    assert parts[0] / parts[1] == pytest.approx((60 + 6.6) / whole)


def test_costs_on_a_cpu_say_nothing_of_a_gpu():
    (line,) = lines_of(Experiment("x", ""))
    assert "GPU" not in cost.cost(line).on(gpu=False)
    assert "GPU (assumed rate)" in cost.cost(line).on(gpu=True)


def test_the_second_epoch_tells_training_and_measuring():
    run = object.__new__(train.Training)
    run.options = SimpleNamespace(save_freq=None, eval_freq=10, use_test=True)
    run.images, run.evaluator = range(300), SimpleNamespace(images=range(900))
    run.first, run.last, run.recorder, run.record_seconds = 0, 60, None, 0.0
    assert run.left(1, 2.0) == pytest.approx(59 * 2 + 6 * 2)  # evaluated 6 times, 2 s each
    run.recorder, run.record_seconds = "there", 5.0
    saved = sum(runs.is_saved(epoch, None) for epoch in range(2, 61))
    assert run.left(1, 2.0) == pytest.approx(59 * 2 + saved * 5)  # the metrics hold the test


def test_rates_between_the_measured_ones():
    rates = [cost.core_rate(w) for w in (2, 4, 6, 8, 32, 64)]
    assert rates[0] == rates[1] < rates[2] < rates[3] < rates[4] == rates[5]


def test_disk_is_what_the_checkpoints_take(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = {"num_channels": 16, "use_data_size": 64, "epochs": 2, "save_freq": 1, "gpu": -1,
              "metrics": True, "momentum": 0.0}  # fmt: skip
    experiment = Experiment("x", "", dataset="Digits", params=params)
    lines = lines_of(experiment)
    train.main(lines[0].commands["train"][1:])
    found = sum(path.stat().st_size for path in lines[0].folder.glob("*.pt"))
    assert cost.total(lines).disk == pytest.approx(found, rel=0.1)


def test_costs_follow_the_data_set_and_the_steps():
    def of(dataset="CIFAR10", **params):
        (line,) = lines_of(Experiment("x", "", dataset=dataset, params=params))
        return line, cost.cost(line)

    (line, ten), (_, hundred), (svhn, _) = of(), of("CIFAR100"), of("SVHN")
    classes = [cost.count("ConvNetSI", c, 64, 3, "batch") for c in (10, 100)]
    assert hundred.operations / ten.operations == pytest.approx(classes[1][0] / classes[0][0])
    assert hundred.disk / ten.disk == pytest.approx(classes[1][1] / classes[0][1])
    epochs, checkpoints = line.epochs, len(line.checkpoints)
    assert cost.in_epochs(svhn) == pytest.approx(
        epochs + checkpoints * (1 + 26_032 / 73_257 / 3)  # the sizes of SVHN's two parts
    )
    one, two = of(batch_size=100)[1], of(batch_size=50)[1]
    passes = epochs + checkpoints
    assert two.gpu_seconds - one.gpu_seconds == pytest.approx(passes * 500 * cost.GPU_STEP)
    middle = cost.core_rate(8 * 2**0.5)
    assert middle == pytest.approx((cost.core_rate(8) * cost.core_rate(16)) ** 0.5)


def test_nothing_is_left_of_a_line_that_went_further(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = lines_of(Experiment("x", "", params={"epochs": 4, "save_freq": 2}))
    runs.write_log(line.folder, [{"epoch": epoch} for epoch in range(1, 9)])
    (line.folder / "train-tm.npz").write_bytes(b"damaged")
    assert line.work(left=True) == (0, 3)
