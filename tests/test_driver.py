"""The driver: what it would run, what it runs, what it skips, and how it reports failures."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import processes
import pytest
from conftest import ROOT

import experiments
import options
import runs
import train
import utils
from experiments import block
from experiments.lines import lines_of
from options import Train

# As the driver stands, and with the metrics left to test.py.
FAST = {
    'dataset = "CIFAR10"': 'dataset = "Digits"',
    "lrs = [0.01]": "lrs = [0.5, 0.1]",
    '"num_channels": 32': '"num_channels": 1, "use_data_size": 150, "gpu": -1',
    '"epochs": 1000': '"epochs": 3',
}
SMALL = {**FAST, '"metrics": True': '"metrics": False'}


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

    def run(changes=SMALL, *arguments):
        return drive(*arguments, script=edited(tmp_path, changes))

    return run


def test_dry_run_prints_the_papers_setting_and_runs_nothing(start, tmp_path):
    done = start({}, "--test")
    assert done.returncode == 0
    train, train_tm, test_em = done.stdout.splitlines()
    args, _ = options.train_options(train.split()[2:])
    wanted = {
        "model": "ConvNetSI", "num_channels": 32, "depth": 3, "dataset": "CIFAR10",
        "lr_init": 0.01, "wd": 0.001, "batch_size": 128, "noaug": True, "momentum": 0,
        "no_schedule": True, "metrics": True, "init_scale": 10, "noninvlr": 0,
        "epochs": 1000, "save_freq": 1,
    }  # fmt: skip
    assert {key: getattr(args, key) for key in wanted} == wanted
    assert "--train_mode" in train_tm and "train-tm-prebn.npz" in train_tm
    assert "--use_test" in test_em and "--train_mode" not in test_em
    assert [p.name for p in tmp_path.iterdir()] == ["run_train_and_test.py"]


def test_a_line_is_trained_measured_drawn_and_then_finished(start, tmp_path):
    changes = {**SMALL, "lrs = [0.01]": "lrs = [0.5]"}
    done = start(changes)
    assert done.returncode == 0, done.stdout + done.stderr
    experiment = tmp_path / "Experiments" / "my_experiment"
    folder = experiment / "lr_0.5_wd_0.001" / "trial_0"
    for name in runs.METRICS:
        with np.load(folder / f"{name}.npz") as file:
            assert file["report_epochs"].tolist() == [0, 1, 2, 3]
    assert "python train.py" in (folder / "train.log").read_text()
    assert (experiment / "periods.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"0\.5 +0\.001 +0 ", done.stdout)

    before = {p: p.stat().st_mtime_ns for p in experiment.rglob("*") if p.suffix in (".pt", ".npz")}
    again = start(changes)
    assert again.returncode == 0 and again.stdout.count("is finished") == 1
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_metrics_that_are_missing_are_measured_by_the_next_call(start, tmp_path):
    changes = {**FAST, "lrs = [0.01]": "lrs = [0.1]"}
    assert start(changes).returncode == 0
    folder = tmp_path / "Experiments" / "my_experiment" / "lr_0.1_wd_0.001" / "trial_0"
    assert not list(folder.glob("t*-*m.log"))  # nothing was missing: one process
    table = runs.Metrics.read(folder / "test-em.npz")
    del table.rows[1]
    table.write(folder / "test-em.npz")
    done = start(changes)
    logs = {path.name for path in folder.glob("t*-*m.log")}
    assert logs == {"train-tm.log", "test-em.log"}, done.stdout + done.stderr
    assert done.returncode == 0
    assert list(runs.Metrics.read(folder / "test-em.npz").rows) == [0, 1, 2, 3]


def test_interrupted_driver_goes_on_to_the_same_result(tmp_path, start):
    changes = {**FAST, "lrs = [0.01]": "lrs = [0.1]", '"epochs": 1000': '"epochs": 12'}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = [sys.executable, edited(tmp_path, changes)]
    process = processes.Started(driver, cwd=tmp_path, env=environment)
    trial = tmp_path / "Experiments" / "my_experiment" / "lr_0.1_wd_0.001" / "trial_0"
    limit = time.monotonic() + 120
    while not (trial / "checkpoint-3.pt").exists():
        assert time.monotonic() < limit and process.poll() is None, "it does not train"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in out
    assert not (trial / "checkpoint-12.pt").exists()
    assert start(changes).returncode == 0
    words = shlex.split((trial / "train.log").read_text().splitlines()[0])[3:]
    train.main([*words, "--dir", str(tmp_path / "whole")])
    for name in runs.METRICS:
        one, two = (
            dict(np.load(folder / f"{name}.npz")) for folder in (trial, tmp_path / "whole/trial_0")
        )
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("changes, message", [
    ({'"num_channels": 32': '"num_chanels": 32'}, "option 'num_chanels' (did you mean num_ch"),
    ({"lrs = [0.01]": "lrs = [-1]"}, "error: lrs: -1 is not"),
    ({"lrs = [0.01]": "lrs = [1, -1]"}, "error: lrs: -1 is not"),
    ({"lrs = [0.01]": ""}, "lrs is missing"),
    ({'combine = "zip"': 'combine = "Zip"'}, "combine: 'Zip' is not \"zip\" or \"cross\""),
    ({'"my_experiment"': '""'}, "exp_name: '' is not the name of a folder in Experiments/"),
    ({'"my_experiment"': '"../elsewhere"'}, "is not the name of a folder"),
    ({'"my_experiment"': '"/tmp/elsewhere"'}, "is not the name of a folder"),
    ({'"metrics": True': '"metrics": 1'}, "error: metrics: 1 is not True or False"),
    ({'"epochs": 1000': '"epochs": True'}, "error: epochs: True is not a whole number"),
    ({'"epochs": 1000': '"epochs": "ten"'}, "error: epochs: 'ten' is not a whole number"),
    ({'"epochs": 1000': '"epochs": 1.5'}, "error: epochs: 1.5 is not a whole number"),
    ({'"momentum": 0.0': '"optimizer": "adam", "momentum": 0.9'}, "momentum belongs to SGD"),
    ({'"save_freq": 1': '"overwrite": True'}, "use --overwrite of the driver"),
    ({"--noaug --no": "--help --no"}, "python train.py --help lists the options"),
    ({"--noaug --no": "--keep x --no"}, "--keep: no type matching INT"),
    ({"--noaug --no": "--keeep 1 --no"}, "did you mean --keep?); train.py --help lists"),
    ({'"metrics": True': '"use_test": False'}, "use_test is both in params and in add_params"),
    ({'network = "ConvNetSI"': 'network = "nowhere.py:f"'}, "there is no file nowhere.py"),
    ({"lrs = [0.01]": "lrs = []"}, "at least one value"),
    ({"lrs = [0.01]": "lrs = [1, 2]", "wds = [0.001]": "wds = [1, 2, 3]"}, "cannot be zipped"),
    ({'"save_freq": 1': '"dir": "elsewhere"'}, "params holds dir: use exp_name instead"),
    ({"--noaug --no": "--dir elsewhere --noaug --no"}, "add_params holds dir: use exp_name"),
    ({'"save_freq": 1': '"lr_init": 1'}, "params holds lr_init: use lrs instead"),
    ({"--noaug --no": "--wd 1 --noaug --no"}, "add_params holds wd: use wds instead"),
    ({"--noaug --no": "--epochs 5 --noaug --no"}, "epochs is both in params and in add_params"),
    ({"--noaug --no": "--trial '1 --no"}, "No closing quotation"),
    ({"elrs = []": "elrs = [0.1]"}, "elrs has no effect"),
    ({'fix_elr = "fix_lr"': 'fix_elr = "fix_elr"'}, "elrs needs at least one value"),
    ({'fix_elr = "fix_lr"': 'fix_elr = "elr"'}, "fix_elr: 'elr' is not \"fix_lr\", \"fix_elr\" or"),
    ({'fix_elr = "fix_lr"': 'fix_elr = "fix_elr"', "elrs = []": "elrs = [0.1]",
      "wds = [0.001]": "wds = [1, 2]"}, "lrs and wds have no effect with fix_elr"),
    ({'network = "ConvNetSI"': 'network = "ConvNetSIAf"'}, "set fix_noninvlr = -1"),
    ({"same_last_layer = False": 'same_last_layer = "yes"'}, "'yes' is not True or False"),
    ({'"save_freq": 1': '"resume_epoch": 3'}, "branch off one with train.py"),
    ({'network = "ConvNetSI"': 'network = "ConvNet"'}, "did you mean ConvNetSI?"),
    ({"lrs = [0.01]": "lrs = 0.01"}, "lrs: 0.01 is not a list of numbers, as in [0.01]"),
    ({"lrs = [0.01]": 'lrs = [1, "2"]'}, "lrs: [1, '2'] is not a list of numbers"),
    ({"fix_noninvlr = 0.0": "fix_noninvlr = True"}, "fix_noninvlr: True is not a number"),
    ({"fix_noninvlr = 0.0": 'fix_noninvlr = "0"'}, "fix_noninvlr: '0' is not a number"),
    ({"params = {": "params = 3\nlost = {"}, "params: 3 is not a dictionary"),
    ({'exp_name = "my_experiment"': "exp_name = 7"}, "exp_name: 7 is not the name of a folder"),
    ({'data_path = "./datasets"': "data_path = 7"}, "data_path: 7 is not a text in quotes"),
    ({'dataset = "CIFAR10"': 'dataset = "ImageFolder"', '"./datasets"': '"./nowhere"'},
     "no folder nowhere/train"),
])  # fmt: skip
def test_mistakes_in_the_parameters_run_nothing(start, tmp_path, changes, message):
    done = start(changes)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "Experiments").exists()


def test_whole_numbers_may_be_written_as_floats(start):
    done = start({'"epochs": 1000': '"epochs": 1e3'}, "--test")
    assert "--epochs 1000 " in done.stdout


def test_a_name_without_quotes_is_one_line(tmp_path):
    script = edited(tmp_path, {'network = "ConvNetSI"': "network = ConvNetSI"})
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    hint = "name 'ConvNetSI' is not defined; a text is in quotes, as in \"ConvNetSI\"\n"
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.endswith(hint)


def test_trials_and_folders_of_images_on_the_command_line(drive):
    def lines(*words):
        return drive("--experiment", "demo", "--test", *words).stdout.splitlines()

    plain = lines()
    assert lines("--trials", "1") == plain and len(plain) == 12
    assert not any("--trial " in line for line in plain)
    twice = lines("--trials", "2")
    assert len(twice) == 24 and sum("--trial 1" in line for line in twice) == 4
    own = [line for line in lines("--image_folder", "mine") if "train.py" in line]
    assert (
        all("--dataset ImageFolder" in line and "--data_path mine" in line for line in own)
        and len(own) == 4
    )


def test_lines_run_at_once_as_asked(drive, monkeypatch):
    asked = []
    monkeypatch.setattr("experiments.lines.check_data", lambda lines: None)
    monkeypatch.setattr("experiments.local.run_here", lambda *words: asked.append(words[2]) or 0)
    for words in ((), ("--jobs", "3")):
        assert drive("--experiment", "demo", *words).returncode == 0
    assert asked == [1, 3]


def test_variants_on_a_folder_and_quick_ones():
    many = experiments.Experiment(
        "x", "", Train(epochs=9, depth=2), ({"dataset": "CIFAR100", "norm": "layer"}, {}),
        {"epochs": 1, "lines": ({"depth": 1},)},
    )  # fmt: skip
    found = many.on_folder("mine")
    assert (found.options.dataset, found.options.data_path) == ("ImageFolder", "mine")
    assert found.lines == ({"norm": "layer"}, {}) and many.on_folder(None) is many
    quick = many.at_quick()
    assert (quick.options.epochs, quick.options.depth, quick.lines) == (1, 2, ({"depth": 1},))
    trials = [(line.get("norm"), line["trial"]) for line in many.in_trials(range(2)).lines]
    assert trials == [("layer", 0), (None, 0), ("layer", 1), (None, 1)]


def test_every_named_experiment_has_valid_lines():
    for experiment in experiments.EXPERIMENTS.values():
        lines = lines_of(experiment)
        assert len({line.folder for line in lines}) == len(lines) > 0
        assert all(len(line.checkpoints) > 1 for line in lines)


def test_a_mistake_inside_a_function_keeps_its_traceback(capsys):
    def inside():
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as error:
        inside()
    block.explain(error.type, error.value, error.tb)
    assert "Traceback" in capsys.readouterr().err


def edited_block(**changes):
    """The experiment of the block as it stands, with some of its parameters changed."""
    import run_train_and_test as driver

    return block.experiment({**vars(driver), **changes})


def rates_of(**changes):
    return [(line["lr_init"], line["wd"]) for line in edited_block(**changes).lines]


def test_lists_are_zipped_and_one_goes_with_all_or_crossed():
    assert rates_of(lrs=[1, 2], wds=[3, 4]) == [(1, 3), (2, 4)]
    assert rates_of(lrs=[1, 2], wds=[3]) == [(1, 3), (2, 3)]
    assert rates_of(lrs=[1], wds=[3, 4]) == [(1, 3), (1, 4)]
    assert rates_of(lrs=[1, 2], wds=[3, 4], combine="cross") == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_all_commands_of_a_line_run_on_the_same_gpu():
    (line,) = lines_of(experiments.Experiment("x", "", Train(gpu=3)))
    assert len(line.commands) == 3
    assert all(words[words.index("--gpu") + 1] == "3" for words in line.commands.values())


@pytest.mark.parametrize("mode", ["fix_elr", "fix_all_elr"])
def test_lines_on_the_sphere(mode):
    lines = lines_of(edited_block(fix_elr=mode, elrs=[0.1, 0.2]))
    assert [line.name for line in lines] == ["elr_0.1", "elr_0.2"]
    assert all(getattr(line.options, mode) and line.options.on_sphere for line in lines)
    assert [line.options.elr for line in lines] == [0.1, 0.2]


def test_what_official_drivers_put_into_params():
    params = {
        "num_channels": 32, "depth": 3, "initscale": 10.0, "momentum": 0.0, "batch_size": 128,
        "epochs": 2, "save_freq": 1, "use_data_size": 50000, "corrupt_train": 0.2, "trial": 3,
        "resume_epoch": -1, "fix_si_pnorm_value": 10.0, "eval_freq": 1000, "num_workers": 4,
        "gpu": 0, "same_last_layer": True, "save_freq_int": 0, "c_schedule": 0, "seed": 5,
    }  # fmt: skip
    flags = "--use_test --no_aug --noschedule --fbgd --fix_si_pnorm"
    (line,) = lines_of(edited_block(params=params, add_params=flags))
    assert line.options.same_last_layer and line.options.init_scale == 10
    assert line.options.fix_si_pnorm_value == 10 and line.options.eval_freq == 1000
    assert line.folder.name == "trial_3" and line.options.resume_epoch is None
    assert "--eval_on_train_subsets" in line.commands["train-tm"]  # since labels are corrupted
    assert f"--models_dir {line.folder}" in " ".join(line.commands["test-em"])


def test_same_last_layer_is_a_variable_of_the_driver():
    for value in (True, False):
        (line,) = lines_of(edited_block(same_last_layer=value))
        assert line.options.same_last_layer == value
        assert ("--same_last_layer" in line.commands["train"]) == value
        assert "--eval_on_train_subsets" not in line.commands["train-tm"]


def test_two_drivers_do_not_work_on_one_experiment(start, tmp_path):
    with utils.locked(tmp_path / "Experiments" / "my_experiment" / runs.LOCK, "it"):
        done = start()
    assert done.returncode == 2
    assert f"experiment my_experiment is in use by process {os.getpid()}" in done.stderr
    assert not list((tmp_path / "Experiments" / "my_experiment").glob("lr_*"))


def test_a_folder_with_another_run_is_refused(start):
    changes = {**SMALL, "lrs = [0.01]": "lrs = [0.1]"}
    words = start(changes, "--test").stdout.splitlines()[0].split()[2:]
    asked, _ = options.train_options(words)
    folder = runs.trial_folder(asked.dir, 0)
    runs.write_config(folder, {**asdict(asked), "momentum": 0.9, "depth": 2})
    done = start(changes)
    assert done.returncode == 2
    assert "depth (saved 2, asked 3), momentum (saved 0.9, asked 0.0)" in done.stderr
    assert [path.name for path in folder.iterdir()] == [runs.CONFIG]
    assert "exp_name), or start anew with --overwrite" in done.stderr
    done = start(changes, "--overwrite")
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs.read_config(folder)["depth"] == 3 and "is finished" in start(changes).stdout


def test_the_list_of_experiments_fits_a_terminal(drive):
    done = drive("--list")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    shown = re.findall(r"^(\w+) +(\d+) +\d", done.stdout, re.MULTILINE)
    assert shown == [(name, str(len(lines_of(e)))) for name, e in experiments.EXPERIMENTS.items()]
