"""The driver: what it would run, what it runs, what it skips, and how it reports failures."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

import experiments
import options
import runs
import utils
from experiments.lines import lines_of

SMALL = {
    'dataset = "CIFAR10"': 'dataset = "Digits"',
    "lrs = [0.01]": "lrs = [0.5, 0.1]",
    '"num_channels": 32': '"num_channels": 1, "use_data_size": 150, "gpu": -1',
    '"epochs": 1000': '"epochs": 3',
}
FAST = {**SMALL, '"save_freq": 1': '"save_freq": 1, "metrics": True'}


def edited(folder, changes):
    """A copy of the driver with other parameters at its top, as a user edits it."""
    text = (ROOT / "run_train_and_test.py").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "run_train_and_test.py"
    path.write_text(text)
    return path


def start(folder, changes=SMALL, *arguments):
    return subprocess.run(
        [sys.executable, edited(folder, changes), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_dry_run_prints_the_papers_setting_and_runs_nothing(tmp_path):
    done = start(tmp_path, {}, "--test")
    assert done.returncode == 0
    train, train_tm, test_em = done.stdout.splitlines()
    args = options.train_options(train.split()[2:])
    wanted = {
        "model": "ConvNetSI", "num_channels": 32, "depth": 3, "dataset": "CIFAR10",
        "lr_init": 0.01, "wd": 0.001, "batch_size": 128, "noaug": True, "momentum": 0,
        "no_schedule": True, "init_scale": 10, "noninvlr": 0, "epochs": 1000, "save_freq": 1,
    }  # fmt: skip
    assert {key: getattr(args, key) for key in wanted} == wanted
    assert "--train_mode" in train_tm and "train-tm-prebn.npz" in train_tm
    assert "--use_test" in test_em and "--train_mode" not in test_em
    assert [p.name for p in tmp_path.iterdir()] == ["run_train_and_test.py"]


def test_two_lines_at_once_then_nothing_to_do(tmp_path):
    done = start(tmp_path, SMALL, "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    experiment = tmp_path / "Experiments" / "my_experiment"
    for name in ("lr_0.5_wd_0.001", "lr_0.1_wd_0.001"):
        folder = experiment / name / "trial_0"
        assert all((folder / f"{m}.npz").exists() for m in runs.METRICS)
        with np.load(folder / "train-tm.npz") as file:
            assert file["report_epochs"].tolist() == [0, 1, 2, 3]
        assert "python train.py" in (folder / "train.log").read_text()
    assert (experiment / "periods.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"0\.5 +0\.001 +0 +none", done.stdout)

    before = {p: p.stat().st_mtime_ns for p in experiment.rglob("*") if p.suffix in (".pt", ".npz")}
    again = start(tmp_path, SMALL)
    assert again.returncode == 0 and again.stdout.count("is finished") == 2
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_failing_line_is_reported_and_stops_nothing_else(tmp_path):
    folder = tmp_path / "Experiments" / "my_experiment" / "lr_0.5_wd_0.001" / "trial_0"
    folder.mkdir(parents=True)
    (folder / "checkpoint-1.pt").write_bytes(b"damaged")
    done = start(tmp_path, FAST)
    assert done.returncode == 1
    assert f"train failed: {folder.relative_to(tmp_path) / 'train.log'}" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    other = tmp_path / "Experiments" / "my_experiment" / "lr_0.1_wd_0.001" / "trial_0"
    assert (other / "test-em.npz").exists()


def test_interrupted_driver_goes_on_to_the_same_result(tmp_path):
    changes = {**FAST, "lrs = [0.01]": "lrs = [0.1]", '"epochs": 1000': '"epochs": 20'}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    assert start(whole, changes).returncode == 0
    process = subprocess.Popen(
        [sys.executable, edited(cut, changes)], cwd=cut, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    trial = cut / "Experiments" / "my_experiment" / "lr_0.1_wd_0.001" / "trial_0"
    while not (trial / "checkpoint-5.pt").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "the same command goes on" in out
    assert not (trial / "checkpoint-20.pt").exists()
    assert start(cut, changes).returncode == 0
    for name in runs.METRICS:
        paths = [next(f.rglob(f"{name}.npz")) for f in (whole, cut)]
        one, two = (dict(np.load(path)) for path in paths)
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("changes, message", [
    ({'"num_channels": 32': '"num_chanels": 32'}, "did you mean --num_channels?"),
    ({"lrs = [0.01]": "lrs = [-1]"}, "--lr_init"),
    ({"lrs = [0.01]": "lrs = []"}, "at least one value"),
    ({'combine = "cross"': 'combine = "zip"', "lrs = [0.01]": "lrs = [1, 2]"}, "cannot be zipped"),
    ({'network = "ConvNetSI"': 'network = "ConvNet"'}, "did you mean ConvNetSI?"),
])  # fmt: skip
def test_mistakes_in_the_parameters_run_nothing(tmp_path, changes, message):
    done = start(tmp_path, changes)
    assert done.returncode == 2 and message in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "Experiments").exists()


def test_every_named_experiment_has_valid_lines():
    for experiment in experiments.EXPERIMENTS.values():
        lines = lines_of(experiment)
        assert len({line.folder for line in lines}) == len(lines) > 0
        assert all(line.checkpoints > 1 for line in lines)


def test_zip_and_cross():
    both = {"lrs": (1.0, 2.0), "wds": (3.0, 4.0)}
    cross = experiments.Experiment("x", "", **both)
    zipped = experiments.Experiment("x", "", combine="zip", **both)

    def pairs(experiment):
        return [(line["lr_init"], line["wd"]) for line in experiment.lines()]

    assert pairs(cross) == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert pairs(zipped) == [(1, 3), (2, 4)]


def test_all_commands_of_a_line_run_on_the_same_gpu():
    (line,) = lines_of(experiments.Experiment("x", "", params={"gpu": 3}))
    assert len(line.commands) == 3
    assert all(words[words.index("--gpu") + 1] == "3" for words in line.commands.values())


def test_fixed_elr_lines():
    experiment = experiments.Experiment("x", "", fix_elr="fix_elr", elrs=(0.1, 0.2))
    lines = lines_of(experiment)
    assert [line.name for line in lines] == ["elr_0.1", "elr_0.2"]
    assert all(line.options.fix_elr for line in lines)
    assert [line.options.elr for line in lines] == [0.1, 0.2]


def test_two_drivers_do_not_work_on_one_experiment(tmp_path):
    with utils.locked(tmp_path / "Experiments" / "my_experiment" / runs.LOCK, "it"):
        done = start(tmp_path)
    assert done.returncode == 2
    assert f"experiment my_experiment is in use by process {os.getpid()}" in done.stderr
    assert not list((tmp_path / "Experiments" / "my_experiment").glob("lr_*"))


def test_a_folder_with_another_run_is_refused(tmp_path):
    changes = {**FAST, "lrs = [0.01]": "lrs = [0.1]", '"epochs": 1000': '"epochs": 1'}
    assert start(tmp_path, changes).returncode == 0
    changes = {**changes, '"momentum": 0.0': '"momentum": 0.9', '"depth": 3': '"depth": 2'}
    done = start(tmp_path, changes)
    assert done.returncode == 2
    assert "depth (saved 3, asked 2), momentum (saved 0.0, asked 0.9)" in done.stderr


def test_a_diverged_line_is_measured_and_not_tried_again(tmp_path):
    changes = {**FAST, "lrs = [0.01]": "lrs = [1e30]", "fix_noninvlr = 0.0": "fix_noninvlr = -1"}
    done = start(tmp_path, changes)
    assert done.returncode == 0 and "diverged" in done.stdout
    again = start(tmp_path, changes)
    assert again.returncode == 0 and "is finished" in again.stdout
