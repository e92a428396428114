"""Lines of the official code's drivers run, and one note says what had no effect."""

import itertools
import shlex

import pytest

import options
import runs
from experiments.lines import lines_of
from experiments.setting import Experiment
from utils import UserError

# As P2's driver gives them.
P2_SPHERE = (
    "--dir ./Experiments/x/checkpoints --dataset CIFAR10 --data_path ~/datasets/ "
    "--model ConvNetSI --num_channels 32 --depth 3 --init_scale 10.0 --noninvlr 0.0 "
    "--fix_elr --elr 1e-3 --lr_init 0.0 --wd 0.0 --momentum 0.0 --batch_size 128 --epochs 1000 "
    "--corrupt_train 0.0 --save_freq 1 --use_test --no_schedule --no_aug --use_data_size 50000 "
    "--eval_freq 1000 --save_freq_int 0 --trial 0 --gpu 0 --num_workers 4"
)


def accept(line, capsys):
    """The options of a line of train.py, and the lines that it prints."""
    args = options.train_options(shlex.split(line))
    return args, capsys.readouterr().out.splitlines()


def test_p2s_shipped_line(capsys):
    args, notes = accept(P2_SPHERE, capsys)
    assert args.fix_elr and args.elr == 1e-3
    (note,) = notes
    assert "--lr_init" in note and "--wd" not in note


@pytest.mark.parametrize("line, named, expected", [
    ("--fix_elr --elr 1e-3 --lr_init 0.0 --wd 0.0", "--lr_init", {"elr": 1e-3, "wd": 0}),
    ("--fix_all_elr --elr 1e-3 --lr_init 0", "--lr_init", {"fix_all_elr": True}),
    ("--elr 0.001 --lr_init 0.1", "--elr", {"elr": None, "lr_init": 0.1}),
    ("--no_schedule --cosan_schedule", "--no_schedule", {"cosan_schedule": True}),
    ("--no_schedule --c_schedule 0", "--c_schedule", {"no_schedule": True, "c_schedule": None}),
    ("--d_schedule 0.0", "--d_schedule", {"d_schedule": None}),
    ("--c_schedule 0 --d_schedule 5", "--c_schedule", {"d_schedule": 5}),
    ("--c_schedule 3 --d_schedule 5", "--d_schedule", {"c_schedule": 3, "d_schedule": None}),
    ("--fix_si_pnorm_value 10", "--fix_si_pnorm_value", {"fix_si_pnorm": False}),
    ("--fix_elr --elr 1 --fix_si_pnorm", "--fix_si_pnorm", {"fix_elr": True}),
    ("--fix_elr --elr 1 --fix_si_pnorm_value 9", "value", {"fix_si_pnorm_value": -1}),
    ("--resume_epoch -1", "--resume_epoch", {"resume_epoch": None}),
    ("--elr 0.001 --resume_epoch -1 --c_schedule 0 --num_workers 4", "--elr", {"elr": None}),
])  # fmt: skip
def test_what_has_no_effect_is_said_once(line, named, expected, capsys):
    args, notes = accept(line, capsys)
    assert len(notes) == 1 and "changes nothing" in notes[0] and named in notes[0]
    assert {key: getattr(args, key) for key in expected} == expected
    assert runs.differences(vars(args), {**vars(args), **expected}) == {}


@pytest.mark.parametrize("line", ["", "--fix_elr --elr 1", "--c_schedule 3", "--resume_epoch 0"])
def test_what_has_an_effect_is_not_mentioned(line, capsys):
    assert accept(line, capsys)[1] == []


def test_the_size_of_the_whole_set_stands_for_what_is_not_held_out(capsys):
    import data

    train, held_out = data.load("Digits", "", use_data_size=1500)
    assert (len(train), len(held_out)) == (1350, 150)
    assert capsys.readouterr().out.count("note:") == 1
    for wrong in (1351, 1501):
        with pytest.raises(UserError, match="more than the 1350"):
            data.load("Digits", "", use_data_size=wrong)


@pytest.mark.parametrize("first, second", list(itertools.permutations(
    ["--lr_init 0.05", "--lr_init 0.2", "--momentum 0.5 --lr_init 0.05"], 2
)))  # fmt: skip
def test_branches_off_one_official_checkpoint_have_folders_of_their_own(tmp_path, first, second):
    folders = []
    for line in (first, second, first):
        asked = vars(options.train_options([*line.split(), "--resume_epoch", "7"]))
        folders.append(runs.branch_folder(tmp_path, 7, asked))
        if not folders[-1].exists():
            folders[-1].mkdir()
            runs.write_config(folders[-1], {**asked, "norm_eps": 1e-5})
    assert folders[0] == folders[2] != folders[1]


# --- the driver ---


def test_lists_are_zipped_and_one_goes_with_all():
    def pairs(lrs, wds):
        found = Experiment("x", "", lrs=lrs, wds=wds, combine="zip").lines()
        return [(line["lr_init"], line["wd"]) for line in found]

    assert pairs((1, 2), (3, 4)) == [(1, 3), (2, 4)]
    assert pairs((1, 2), (3,)) == [(1, 3), (2, 3)]
    assert pairs((1,), (3, 4)) == [(1, 3), (1, 4)]
    with pytest.raises(ValueError, match="2 lrs and 3 wds cannot be zipped"):
        pairs((1, 2), (3, 4, 5))


@pytest.mark.parametrize("mode", ["fix_lr", "fix_elr", "fix_all_elr"])
def test_modes_of_the_driver(mode):
    (line,) = lines_of(Experiment("x", "", fix_elr=mode, elrs=(0.1,)))
    found = {
        "fix_lr": False,
        "fix_elr": line.options.fix_elr,
        "fix_all_elr": line.options.fix_all_elr,
    }
    assert [key for key, value in found.items() if value] == [mode] * (mode != "fix_lr")


def test_what_official_drivers_put_into_params():
    params = {
        "num_channels": 32, "depth": 3, "initscale": 10.0, "momentum": 0.0, "batch_size": 128,
        "epochs": 2, "save_freq": 1, "use_data_size": 50000, "corrupt_train": 0.2, "trial": 3,
        "resume_epoch": -1, "fix_si_pnorm_value": 10.0, "eval_freq": 1000, "num_workers": 4,
        "gpu": 0, "same_last_layer": True, "save_freq_int": 0, "c_schedule": 0, "seed": 5,
    }  # fmt: skip
    add = "--use_test --no_aug --noschedule --fbgd --fix_si_pnorm --eval_freq 100"
    (line,) = lines_of(Experiment("x", "", params=params, add_params=add))
    assert line.options.same_last_layer and line.options.init_scale == 10
    assert line.options.fix_si_pnorm_value == 10 and line.options.eval_freq == 100
    assert line.folder.name == "trial_3"


def test_same_last_layer_is_a_variable_of_the_driver(monkeypatch):
    import run_train_and_test as driver

    for value in (True, False):
        monkeypatch.setattr(driver, "same_last_layer", value)
        (line,) = lines_of(driver.edited_experiment())
        assert line.options.same_last_layer == value
        assert ("--same_last_layer" in line.commands["train"]) == value
    monkeypatch.setattr(driver, "same_last_layer", "yes")
    with pytest.raises(UserError, match="same_last_layer is True or False, not 'yes'"):
        driver.edited_experiment()


def test_a_trial_named_among_the_flags_is_where_it_is_measured():
    (line,) = lines_of(Experiment("x", "", add_params="--use_test --trial 4"))
    assert line.folder.name == "trial_4"
    words = line.commands["test-em"]
    assert words[words.index("--models_dir") + 1] == str(line.folder)
