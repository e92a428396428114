"""The driver: what it would run, what it runs, what it skips, and how it reports mistakes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import processes
import pytest
from conftest import ROOT
from processes import wait_until

import options
import run_train_and_test as driver
import runs
import train
import utils
from experiments import EXPERIMENTS, Experiment, block
from experiments.lines import lines_of
from experiments.setting import PAPER
from options import Train
from utils import UserError

# The driver's parameters, edited to a run of seconds.
FAST = {
    'dataset = "CIFAR10"': 'dataset = "Digits"',
    "lrs = [0.01]": "lrs = [0.1]",
    '"num_channels": 32': '"num_channels": 1, "use_data_size": 150, "gpu": -1',
    '"epochs": 1000': '"epochs": 7',
}


def edited(folder, changes):
    """A copy of the driver with other parameters at its top, as a user edits it."""
    text = (ROOT / "run_train_and_test.py").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "run_train_and_test.py"
    path.write_text(text)
    return path


@pytest.fixture
def start(tmp_path, drive):
    """Run an edited driver in this process; what it starts are processes all the same."""

    def run(changes, *arguments):
        return drive(*arguments, script=edited(tmp_path, changes))

    return run


def test_dry_run_prints_the_papers_setting_and_runs_nothing(start, tmp_path):
    done = start({}, "--test")
    assert done.returncode == 0
    train, train_tm, test_em = done.stdout.splitlines()
    asked, _ = options.train_options(train.split()[2:])
    place = {"dir": "Experiments/my_experiment/lr_0.01_wd_0.001", "resume": True}
    assert asked == replace(PAPER, lr_init=0.01, wd=0.001, **place)
    assert "--train_mode" in train_tm and "train-tm-prebn.npz" in train_tm
    assert "--use_test" in test_em and "--train_mode" not in test_em
    assert [p.name for p in tmp_path.iterdir()] == ["run_train_and_test.py"]


def test_an_interrupted_line_is_trained_measured_drawn_and_then_finished(start, tmp_path):
    """The result is that of a training that nothing interrupts."""
    experiment = tmp_path / "Experiments" / "my_experiment"
    folder = experiment / "lr_0.1_wd_0.001" / "trial_0"

    def metrics(folder):
        return {name: runs.Metrics.read(folder / f"{name}.npz").rows for name in runs.METRICS}

    process = processes.Started(
        [sys.executable, edited(tmp_path, FAST)], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    wait_until((folder / "checkpoint-2.pt").exists)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in out
    assert not (folder / "checkpoint-7.pt").exists()

    # An experiment below this one is no part of its figures
    shutil.copytree(folder, experiment / "below" / "lr_0.1" / "trial_0")
    done = start(FAST)
    assert done.returncode == 0 and re.search(r"0\.1 +0\.001 +0 ", done.stdout), done.stderr
    assert (experiment / "periods.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("t*-*m.log"))
    words = shlex.split((folder / "train.log").read_text().splitlines()[0])
    assert words[:3] == ["$", "python", "train.py"]
    train.main([*words[3:], "--dir", str(tmp_path / "whole")])
    whole = metrics(runs.trial_folder(tmp_path / "whole", 0))
    np.testing.assert_equal(metrics(folder), whole)

    # What is missing is measured, from the checkpoints
    table = runs.Metrics.read(folder / "test-em.npz")
    del table.rows[1]
    table.write(folder / "test-em.npz")
    assert start(FAST).returncode == 0
    np.testing.assert_equal(metrics(folder), whole)
    assert not list(folder.glob("t*-*m.log"))  # without test.py

    before = {p: p.stat().st_mtime_ns for p in experiment.rglob("*") if p.suffix in (".pt", ".npz")}
    again = start(FAST)
    assert again.returncode == 0 and again.stdout.count("is finished") == 1
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_trials_folders_of_images_and_jobs_on_the_command_line(drive, monkeypatch):
    def lines(*words):
        return drive("--experiment", "demo", "--test", *words).stdout.splitlines()

    plain, twice = lines(), lines("--trials", "2")
    assert lines("--trials", "1") == plain and len(plain) == 12
    assert not any("--trial " in line for line in plain)
    assert len(twice) == 24 and sum("--trial 1" in line for line in twice) == 4
    own = "\n".join(lines("--image_folder", "mine"))
    assert own.count("--dataset ImageFolder") == own.count("--data_path mine") == 4
    asked = []
    monkeypatch.setattr("experiments.lines.check_data", lambda lines: None)
    monkeypatch.setattr("experiments.local.run_here", lambda *words: asked.append(words[2]) or 0)
    for words in ((), ("--jobs", "3")):
        assert drive("--experiment", "demo", *words).returncode == 0
    assert asked == [1, 3]


def test_the_list_of_experiments_fits_a_terminal_and_the_status_writes_nothing(drive, tmp_path):
    done = drive("--list")
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= 100
    shown = re.findall(r"^(\w+) +(\d+) +\d", done.stdout, re.MULTILINE)
    assert shown == [(name, str(len(lines_of(e)))) for name, e in EXPERIMENTS.items()]
    assert "4 not started" in drive("--experiment", "demo", "--status").stdout
    assert not (tmp_path / "Experiments").exists()


@pytest.mark.parametrize("words, message", [
    ("--experiment Figure2", "unknown name 'Figure2' (did you mean figure2?)"),
    ("--time 0", "--time: 0.0 is not a finite number > 0"),
    ("--image_folder=", "--image_folder: it is empty"),
    ("--experiment demo --image_folder nowhere", "no folder nowhere/train"),
    ("--sbatch partition=main", "--sbatch belongs to --launcher slurm"),
    ("--launcher slurm --time 60", "--time belongs to --launcher local"),
    ("--launcher slurm --sbatch account", "is not name=value"),
    ("--launcher slurm --sbatch time=1-0", "whole numbers"),
    ("--launcher slurm", "needs a SLURM cluster"),
])  # fmt: skip
def test_mistakes_on_the_command_line(drive, monkeypatch, tmp_path, words, message):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no SLURM
    done = drive(*words.split())
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_other_runs_are_refused_or_overwritten_unless_there_is_a_mistake(
    drive, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    lines, left = lines_of(EXPERIMENTS["demo"]), []

    def run_here(*_):
        left.append([path for line in lines for path in line.folder.iterdir()])

    monkeypatch.setattr("experiments.local.run_here", run_here)
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM
    for line in lines:
        runs.write_config(line.folder, {**asdict(line.options), "momentum": 0.9, "depth": 2})
    for words, message in (
        ("", "depth (saved 2, asked 3), momentum (saved 0.9, asked 0.0)"),
        ("", "exp_name), or start anew with --overwrite"),
        ("--overwrite --launcher slurm", "SLURM"), ("--overwrite --image_folder mine", "no folder"),
        ("--overwrite", "for example branch-2: remove them"),
    ):  # fmt: skip
        if "branch" in message:  # it would be taken for one of the new run
            runs.write_config(lines[-1].folder / "branch-2", {})
        done = drive("--experiment", "demo", *words.split())
        assert done.returncode == 2 and message in done.stderr
    shutil.rmtree(lines[-1].folder / "branch-2")
    with utils.locked(tmp_path / "Experiments" / "demo" / runs.LOCK, "it"):
        done = drive("--experiment", "demo", "--overwrite")  # two at once
    assert done.returncode == 2 and f"demo is in use by process {os.getpid()}" in done.stderr
    assert all((line.folder / runs.CONFIG).exists() for line in lines)
    assert drive("--experiment", "demo", "--overwrite").returncode == 0 and left == [[]]


def test_a_name_without_quotes_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, edited(tmp_path, {'network = "ConvNetSI"': "network = ConvNetSI"})],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    hint = "name 'ConvNetSI' is not defined; a text is in quotes, as in \"ConvNetSI\"\n"
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.endswith(hint)


def test_a_mistake_inside_a_function_keeps_its_traceback(capsys):
    with pytest.raises(json.JSONDecodeError) as error:
        json.loads("")
    block.explain(error.type, error.value, error.tb)
    assert "Traceback" in capsys.readouterr().err


ABSENT = object()


def lines_with(params=(), **changes):
    """The lines of the block as it stands, with some of its parameters changed."""
    changes["params"] = {**driver.params, **dict(params)} if params != 3 else 3
    found = {**vars(driver), **changes}
    return lines_of(block.experiment({k: v for k, v in found.items() if v is not ABSENT}))


ON_SPHERE = {"fix_elr": "fix_elr"}


@pytest.mark.parametrize("changes, message", [
    ({"lrs": ABSENT}, "lrs is missing from the parameters"),
    ({"lrs": 0.01}, "lrs: 0.01 is not a list of numbers, as in [0.01]"),
    ({"lrs": [1, "2"]}, "lrs: [1, '2'] is not a list of numbers"),
    ({"lrs": [1, -1]}, "lrs: -1 is not a finite number >= 0"),
    ({"lrs": []}, "lrs and wds need at least one value"),
    ({"lrs": [1, 2], "wds": [1, 2, 3]}, "2 lrs and 3 wds cannot be zipped"),
    ({"lrs": [0.1, 0.1]}, "two lines would share the folder Experiments/my_experiment/lr_0.1"),
    ({"fix_elr": "elr"}, 'fix_elr: \'elr\' is not "fix_lr", "fix_elr" or "fix_all_elr"'),
    (ON_SPHERE, "elrs needs at least one value"), ({"elrs": [0.1]}, "elrs has no effect"),
    ({**ON_SPHERE, "elrs": [1], "wds": [1, 2]}, "leave at most one value"),
    ({"exp_name": ""}, "exp_name: '' is not the name of a folder in Experiments/"),
    ({"exp_name": "../x"}, "not the name"), ({"exp_name": "/tmp/x"}, "not the name"),
    ({"exp_name": 7}, "not the name"), ({"data_path": 7}, "data_path: 7 is not a text in quotes"),
    ({"fix_noninvlr": True}, "fix_noninvlr: True is not a number"),
    ({"fix_noninvlr": -0.5}, "fix_noninvlr: -0.5 is not a finite number >= 0, or -1"),
    ({"network": "ConvNet"}, "network: unknown name 'ConvNet' (did you mean ConvNetSI?)"),
    ({"network": "nowhere.py:f"}, "network: there is no file nowhere.py"),
    ({"network": "ConvNetSIAf"}, "set fix_noninvlr = -1"),
    ({"params": 3}, "params: 3 is not a dictionary"),
    ({"params": {3: 3}}, "params: unknown option 3"),
    ({"params": {"num_chanels": 3}}, "'num_chanels' (did you mean num_channels?)"),
    ({"params": {"optimizer": "adam", "momentum": 0.9}}, "momentum belongs to SGD"),
    ({"params": {"c_schedule": 3}}, "--no_schedule and --c_schedule contradict each other"),
    ({"params": {"use_test": False}}, "use_test is both in params and in add_params"),
    ({"params": {"dir": "elsewhere"}}, "params holds dir: use exp_name instead"),
    ({"params": {"overwrite": True}}, "use --overwrite of the driver"),
    ({"params": {"resume_epoch": 3}}, "branch off one with train.py"),
    ({"params": {"resume": False}}, "resume: the driver goes on with what is there"),
    ({"add_params": "--wd 1"}, "add_params holds wd: use wds instead"),
    ({"add_params": "--trial '1"}, "No closing quotation"),
    ({"add_params": "--use_test --help"}, "python train.py --help lists the options"),
    ({"add_params": "--keeep 1"}, "did you mean --keep?); train.py --help lists"),
])  # fmt: skip
def test_mistakes_in_the_block_are_told_in_its_names(changes, message, capsys):
    with pytest.raises(UserError) as error:
        lines_with(**changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")


def test_what_has_no_effect_beside_the_rest_is_named(capsys):
    (line,) = lines_with(params={"fix_si_pnorm_value": 10, "num_channels": 8})
    assert line.options.fix_si_pnorm_value == Train().fix_si_pnorm_value
    note = "note: fix_si_pnorm_value changes nothing: it belongs to --fix_si_pnorm\n"
    assert capsys.readouterr() == ("", note)


def test_a_network_below_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "net.py").touch()
    assert lines_with(network="~/net.py:make")[0].options.model == "~/net.py:make"


def test_lists_are_zipped_and_one_goes_with_all_or_crossed():
    for changes, pairs in (
        ({"lrs": [1, 2], "wds": [3, 4]}, [(1, 3), (2, 4)]),
        ({"lrs": [1, 2], "wds": [3]}, [(1, 3), (2, 3)]),
        ({"lrs": [1], "wds": [3, 4]}, [(1, 3), (1, 4)]),
        ({"lrs": [1, 2], "wds": [3, 4], "combine": "cross"}, [(1, 3), (1, 4), (2, 3), (2, 4)]),
    ):
        assert [(line.options.lr_init, line.options.wd) for line in lines_with(**changes)] == pairs


def test_lines_on_the_sphere():
    for mode in ("fix_elr", "fix_all_elr"):
        one, two = lines_with(fix_elr=mode, elrs=[0.1, 0.2])
        assert (one.name, two.name) == ("elr_0.1", "elr_0.2") and two.options.elr == 0.2
        assert getattr(one.options, mode) and getattr(two.options, mode)
    # Weight decay is that of the other weights, if they are trained
    for noninvlr, wd in ((-1, 0.0), (0.0, Train().wd)):
        one, _ = lines_with(fix_elr="fix_elr", elrs=[1, 2], wds=[0.0], fix_noninvlr=noninvlr)
        assert one.options.wd == wd


def test_what_official_drivers_put_into_params():
    params = {
        "initscale": 10.0, "momentum": 0.0, "epochs": 1e3, "use_data_size": 50000,
        "corrupt_train": 0.2, "trial": 3, "resume_epoch": -1, "fix_si_pnorm_value": 10.0,
        "eval_freq": 1000, "num_workers": 4, "gpu": 0, "same_last_layer": True, "save_freq_int": 0,
        "c_schedule": 0, "seed": 5, "batch_size": None,
    }  # fmt: skip
    flags = "--use_test --no_aug --noschedule --fbgd --fix_si_pnorm"
    (line,) = lines_with(params=params, add_params=flags)
    asked, notes = options.train_options(line.commands["train"][1:])
    assert asked == line.options and not notes
    assert asdict(asked).items() >= {
        "init_scale": 10, "fix_si_pnorm_value": 10, "eval_freq": 1000, "epochs": 1000,
        "same_last_layer": True, "resume_epoch": None, "batch_size": 128, "seed": 5, "noaug": True,
    }.items()  # fmt: skip
    assert line.folder.name == "trial_3"
    assert "--eval_on_train_subsets" in line.commands["train-tm"]  # since labels are corrupted
    assert f"--models_dir {line.folder}" in " ".join(line.commands["test-em"])
    (line,) = lines_with(same_last_layer=True)  # a variable of the driver
    assert line.options.same_last_layer
    assert "--eval_on_train_subsets" not in line.commands["train-tm"]


def test_variants_on_a_folder_and_quick_ones():
    many = Experiment(
        "x", "", Train(epochs=9, depth=2), ({"dataset": "CIFAR100", "norm": "layer"}, {}),
        {"epochs": 1, "lines": ({"depth": 1},)},
    )  # fmt: skip
    found = many.on_folder("mine")
    assert (found.options.dataset, found.options.data_path) == ("ImageFolder", "mine")
    assert found.lines == ({"norm": "layer"}, {}) and many.on_folder(None) is many
    quick = many.at_quick()
    assert (quick.options.epochs, quick.options.depth, quick.lines) == (1, 2, ({"depth": 1},))
    third = replace(many, options=Train(trial=3)).in_trials(range(2))
    assert [line["trial"] for line in third.lines] == [3, 3, 4, 4]
    found = EXPERIMENTS["sphere_minima_cpu"].in_trials(range(2)).lines  # they have trials 0 and 1
    assert [line["trial"] for line in found] == [0] * 7 + [1] * 2 + [2] * 7 + [3] * 2
