"""Options are read as they are given; mistakes cost one line and exit status 2."""

import itertools
import math
import shlex
from dataclasses import asdict
from typing import get_args

import pytest

import options
import test as measuring
import train
from options import Measure, Train, measure_options, train_options, words
from utils import UserError


def test_aliases_and_the_last_of_a_repeated_option():
    line = "--initscale 10 --fix_noninvlr=0 --no_aug --noschedule --wd 1 --wd 0.5"
    asked, _ = train_options(line.split())
    assert (asked.init_scale, asked.noninvlr, asked.noaug, asked.no_schedule) == (10, 0, True, True)
    assert asked.wd == 0.5


def test_official_defaults():
    defaults = {
        "dataset": "CIFAR10", "batch_size": 128, "num_channels": 64, "depth": 3, "epochs": 1001,
        "lr_init": 0.01, "momentum": 0.9, "wd": 1e-4, "init_scale": -1, "noninvlr": -1,
        "eval_freq": 10, "seed": 1, "trial": 0, "num_workers": 4, "no_schedule": False,
        "noaug": False, "use_test": False, "gpu": 0,
    }  # fmt: skip
    assert asdict(Train()).items() >= defaults.items() and train_options([]) == (Train(), [])


def test_an_error_comes_without_notes(run, capsys):
    run("--epochs 1 --num_workers 8")
    assert capsys.readouterr().out.count("changes nothing") == 1
    with pytest.raises(SystemExit):
        run("--epochs 1 --num_workers 8")
    captured = capsys.readouterr()
    assert "already holds a run" in captured.err and not captured.out


IN_TRAINING = [
    ("--lr_init 0", "> 0"),
    ("--lr_init nan", "--lr_init: nan is not"),
    ("--lr_init -inf", "-inf is not"),
    ("--lr_init -1e-3", "-0.001 is not"),
    ("--lr_init ten", "--lr_init: could not convert string to float: 'ten'"),
    ("--lr_init=", "--lr_init: could not convert string to float: ''"),
    ("--epochs 1.5", "--epochs: invalid literal for int() with base 10: '1.5'"),
    (f"--keep {'x' * 90}", "--keep: no type matching INT"),
    ("--dir", "Missing value for argument '--dir'"),
    ("--momentum 1", "< 1"),
    ("--epochs 0", ">= 1"),
    ("--epochs 9999999", "<= 1e+06"),
    (f"--seed 1{'0' * 400}", "is not a whole number"),
    ("--noninvlr -0.5", "or -1"),
    ("--model ConvNetSl", "did you mean ConvNetSI?"),
    ("--dataset cifar10", "did you mean CIFAR10?"),
    ("--optimizer amad", "did you mean adam?"),
    ("--lr 1", "unknown option --lr (did you mean --lr_init?)"),
    ("--use_tset", "did you mean --use_test?"),
    ("train me", "unknown option train"),
    ("--use_test yes", "unknown option yes"),
    ("--metrics=abc", "--metrics takes no value, and 'abc' is given"),
    ("'--metrics=\n'", r"--metrics takes no value, and '\n' is given"),
    ("--lr_init=0.1 0.1", "unknown option 0.1; "),
    ("'--a\nb'", r"unknown option '--a\nb'"),
    ("--no_schedule --d_schedule 3", "contradict"),
    ("--c_schedule 2 --cosan_schedule", "contradict"),
    ("--resume --overwrite", "contradict"),
    ("--fix_elr --fix_all_elr --elr 1", "contradict"),
    ("--fix_elr", "go together"),
    ("--fix_elr --elr 0", "> 0"),
    ("--fix_elr --elr 0.1 --fix_si_pnorm --fix_si_pnorm_value 5", "leave out --fix_si_pnorm_value"),
    ("--fix_all_elr --elr 1 --optimizer adam", "needs --optimizer sgd"),
    ("--optimizer adamw --momentum=0", "--momentum belongs to --optimizer sgd"),
    ("--fbgd --save_freq_int 3", "nothing to save"),
    ("--dataset Digits --save_freq_int 30 --epochs 1 --use_data_size 256", "an epoch has 2 steps"),
    ("--gpu 77", "no such GPU"),
    ("--dataset Digits --use_data_size 1351", "more than the 1350 training images"),
    ("--dataset ImageFolder --data_path /nowhere", "no folder"),
    ("--dataset Digits --resume_epoch 5", "checkpoint-5.pt to branch off"),
]  # fmt: skip
IN_MEASURING = [
    ("", "--models_dir is missing"),
    ("--models_dir nowhere", "no checkpoint-<epoch>.pt in nowhere"),
    ("--models_dir x --train_mdoe", "did you mean --train_mode?"),
    ("--models_dir x --hess_eval", "did you mean --hess_evals?"),
    ("--models_dir x --prebn_only --prebn_save_path y", "contradict"),
    ("--models_dir x --eval_on_random_subset -1", ">= 0"),
    ("--models_dir x --epochs 1,x", "is not epochs"),
    ("--models_dir x --epochs every-7", "is not epochs"),
    ("--models_dir x --save_path=", "--save_path: it is empty"),
]  # fmt: skip


@pytest.mark.parametrize("script, line, message", [
    *((train, *row) for row in IN_TRAINING), *((measuring, *row) for row in IN_MEASURING),
])  # fmt: skip
def test_mistakes_are_one_line_and_nothing_is_written(
    script, line, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        script.main(shlex.split(line))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [Train, Measure])
def test_every_option_has_a_meaning_and_refuses_what_is_not_of_its_type(kind):
    for each in options.fields(kind):
        assert each.metadata["help"]
        is_text = str in (each.type, *get_args(each.type))
        wrong = [1, "yes"] if isinstance(each.default, bool) else [True, "x", math.nan]
        for value in [] if is_text else wrong:
            with pytest.raises(UserError, match=f"--{each.name}: {value!r} is not"):
                kind(**{each.name: value})


def test_command_lines_are_read_back():
    for asked in (
        Train(),
        Train(lr_init=0.5, wd=0.0, fbgd=True, save_freq=3, corrupt_train=0.1, dir="a b"),
        Train(fix_si_pnorm=True, fix_si_pnorm_value=-1e-5),
    ):
        assert train_options(words(asked)) == (asked, [])
    assert words(Train()) == []
    given = {"models_dir": "x", "eval_model": True, "epochs": "0,5", "noninvlr": 0}
    assert measure_options(words(Measure(**given))) == (Measure(**given), set(given))


def test_chosen_epochs():
    assert options.chosen_epochs("0,12,3") == [0, 12, 3]
    for text in ("every10", "every 10", "every_10"):
        assert list(itertools.islice(options.chosen_epochs(text), 3)) == [0, 10, 20]
    for text in ("every", "every0", "every1,2", "-1", "1,x", ""):
        with pytest.raises(ValueError, match="is not epochs"):
            options.chosen_epochs(text)


def test_help_is_by_group_and_shows_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        train_options(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "  --keep INT " in shown
    for each in options.fields(Train):
        assert all(f"--{name}" in shown for name in options.spellings(each))
    assert shown.index("--dataset") < shown.index("--model") < shown.index("--lr_init")
    assert "The network and its initialisation" in shown
