"""The minutes of a GPU: pieces end in time, the next one goes on, results are kept."""

import os
import shlex
import signal
import threading
import time

import pytest
import torch

import runs
from experiments import Experiment, gpu
from experiments.lines import lines_of
from options import PRECISIONS
from utils import UserError

TINY = Experiment(
    "tiny",
    "",
    dataset="Digits",
    params={
        "num_channels": 1, "use_data_size": 150, "epochs": 40, "save_freq": 1, "metrics": True,
        "gpu": -1,
    },
    lrs=(0.1,),
)  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch, at_once):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "WANTED", (TINY,))
    monkeypatch.setattr(gpu, "COMMANDS", {"checks": "-c \"print('checked')\""})
    return tmp_path


def alarm_after(log_rows, folder):
    """The minutes are over when the log has so many rows."""

    def wait():
        while len(runs.read_log(folder)) < log_rows:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGALRM)

    threading.Thread(target=wait, daemon=True).start()


def test_a_piece_that_is_cut_goes_on_and_leaves_the_small_files(place, capfd):
    (line,) = lines_of(gpu.on_gpu(TINY, "fp32", compiled=False))
    kept = place / "results/tiny_fp32/lr_0.1_wd_0.001/trial_0"
    words = ["--precision", "fp32", "--jobs", "1"]
    alarm_after(3, line.folder)
    assert gpu.main(words) == 0
    assert "goes on" in capfd.readouterr().out
    assert 3 <= len(runs.read_log(kept)) < 40
    assert gpu.main(words) == 0
    assert "all is done" in capfd.readouterr().out
    assert [row["epoch"] for row in runs.read_log(kept)] == list(range(1, 41))
    assert list(runs.Metrics.read(kept / "train-tm.npz").rows) == list(range(41))
    assert not list((place / "results").rglob("*.pt"))
    assert len(runs.checkpoints_in(line.folder)) == 1
    assert (place / "results/gpu/checks.txt").read_text() == "checked\nexit status 0\n"
    assert list((place / "results/tiny_fp32").glob("*.png"))


def test_a_command_that_is_cut_is_run_again(place, monkeypatch, capfd):
    slow = "import time; print('begun', flush=True); time.sleep(60)"
    monkeypatch.setattr(gpu, "COMMANDS", {"checks": shlex.join(["-c", slow])})
    assert gpu.main(["--minutes", "0.03"]) == 0
    assert "goes on" in capfd.readouterr().out
    assert not (place / "results/gpu/checks.txt").exists() and not (place / "Experiments").exists()


def test_without_a_gpu_nothing_counts_as_done(place, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU"):
        gpu.main([])
    assert not list(place.iterdir())


def test_images_that_are_not_there_cost_no_minutes(place):
    with pytest.raises(UserError, match="no folder nowhere/train"):
        gpu.main(["--image_folder", "nowhere"])
    assert not list(place.iterdir())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_full_length_and_one_checkpoint_a_line(precision):
    for experiment in gpu.WANTED:
        for line in lines_of(gpu.on_gpu(experiment, precision, compiled=True)):
            o = line.options
            assert o.epochs == 1000 and o.keep == 1 and o.metrics and o.compile
            assert o.precision == o.metrics_precision == precision
            assert experiment.name in line.folder.parts[1] and o.keep_epochs == []
