"""Official command lines are understood; mistakes cost one line and exit status 2."""

import argparse

import pytest

import command_line
import options

# Lines in the form of the official code's driver.
OFFICIAL_TRAIN = (
    "--dir ./Experiments/x --dataset CIFAR10 --data_path ~/datasets/ --model ConvNetSI "
    "--num_channels 32 --depth 3 --init_scale 10. --noninvlr 0.0 --lr_init 0.01 --wd 0.001 "
    "--momentum 0.0 --epochs 1001 --batch_size 128 --use_test --no_schedule --noaug --fbgd "
    "--fix_si_pnorm --fix_si_pnorm_value -1 --save_freq 1 --save_freq_int 0 --eval_freq 1000 "
    "--seed 1 --trial 0 --gpu 0 --num_workers 4 --corrupt_train 0.0 --use_data_size 50000"
)
ALIASES = "--initscale 10 --fix_noninvlr 0 --no_aug --noschedule"


def test_official_line():
    args = options.train_options(OFFICIAL_TRAIN.split())
    assert (args.init_scale, args.noninvlr, args.fix_si_pnorm_value) == (10, 0, -1)
    assert args.fbgd and args.noaug and args.use_test and args.epochs == 1001


def test_aliases():
    args = options.train_options(ALIASES.split())
    assert (args.init_scale, args.noninvlr, args.noaug, args.no_schedule) == (10, 0, True, True)


def test_official_defaults():
    args = options.train_options([])
    defaults = {
        "dataset": "CIFAR10", "batch_size": 128, "num_channels": 64, "depth": 3, "epochs": 1001,
        "lr_init": 0.01, "momentum": 0.9, "wd": 1e-4, "init_scale": -1, "noninvlr": -1,
        "eval_freq": 10, "seed": 1, "trial": 0, "num_workers": 4, "no_schedule": False,
        "noaug": False, "use_test": False, "gpu": 0,
    }  # fmt: skip
    assert {key: getattr(args, key) for key in defaults} == defaults


def test_every_option_of_the_specification_is_there():
    train = """dir dataset data_path model num_channels depth init_scale initscale noninvlr
        fix_noninvlr lr_init wd momentum epochs batch_size use_data_size use_test corrupt_train
        noaug no_aug fbgd fix_si_pnorm fix_si_pnorm_value no_schedule noschedule c_schedule
        d_schedule cosan_schedule save_freq save_freq_int eval_freq seed trial gpu num_workers
        resume_epoch fix_elr elr same_last_layer"""
    test = """models_dir save_path use_test train_mode eval_model all_pnorm calc_grad_norms
        calc_grads prebn_only fisher_trace fisher_evals hess_trace hess_evals update
        eval_on_train_subsets eval_on_random_subset use_aug dataset data_path batch_size model
        num_channels depth init_scale corrupt_train use_data_size num_workers gpu seed"""
    for words, declared in ((train, options.TRAIN), (test, options.TEST)):
        names = {name for option in declared for name in option.names.split()}
        assert {f"--{word}" for word in words.split()} <= names


@pytest.mark.parametrize("line, message", [
    ("--lr_init 0", "--lr_init: 0 is not a finite number > 0"),
    ("--lr_init 0 --elr 0.1", "--lr_init: 0 is not a finite number > 0"),
    ("--dataset Digits --save_freq_int 30 --epochs 1 --use_data_size 256", "an epoch has 2 steps"),
    ("--split_classes 2", "2 is not a whole number >= 0 and <= 1"),
    ("--norm_eps 0", "> 0"),
    ("--lr_init nan", "nan is not"),
    ("--lr_init inf", "inf is not"),
    ("--lr_init ten", "invalid number value: 'ten'"),
    ("--wd -0.1", "-0.1 is not a finite number >= 0"),
    ("--momentum 1", "< 1"),
    ("--epochs 0", ">= 1"),
    ("--epochs 1.5", "invalid whole number value"),
    ("--batch_size 0", ">= 1"),
    ("--depth 0", ">= 1"),
    ("--num_channels -3", ">= 1"),
    ("--corrupt_train 1.5", "<= 1"),
    ("--noninvlr -0.5", "or -1"),
    ("--init_scale 0", "or -1"),
    ("--model ConvNetSl", "did you mean ConvNetSI?"),
    ("--dataset cifar10", "did you mean CIFAR10?"),
    ("--lerning_rate 1", "unknown option --lerning_rate"),
    ("--lr 1", "did you mean --lr_init?"),
    ("--no_schedule --d_schedule 3", "contradict"),
    ("--d_schedule 2 --c_schedule 2 --no_schedule", "contradict"),
    ("--fix_si_pnorm_value five", "invalid number value"),
    ("--resume --overwrite", "contradict"),
    ("--fix_elr", "go together"),
    ("--fix_all_elr", "go together"),
    ("--fix_elr --fix_all_elr --elr 1", "contradict"),
    ("--fix_all_elr --elr 1 --optimizer adam", "needs --optimizer sgd"),
    ("--fix_elr --elr 0", "> 0"),
    ("--fix_elr --elr nan", "nan is not"),
    ("--fix_elr --elr 0.1 --fix_si_pnorm --fix_si_pnorm_value 5", "leave out --fix_si_pnorm_value"),
    ("--fbgd --save_freq_int 3", "nothing to save"),
    ("--optimizer adam --momentum 0.9", "--momentum belongs to --optimizer sgd"),
    ("--optimizer adamw --momentum=0", "--momentum belongs to --optimizer sgd"),
    ("--optimizer adam --fix_elr --elr 0.1", "--fix_elr needs --optimizer sgd"),
    ("--optimizer adamw --fix_elr --elr 0.1", "--fix_elr needs --optimizer sgd"),
    ("--optimizer amad", "did you mean adam?"),
    ("--gpu 77", "no such GPU"),
    ("--dataset Digits --use_data_size 99999", "more than the 1350 training images"),
    ("--dataset ImageFolder --data_path /nowhere", "no folder"),
    ("--dir", "expected one argument"),
    ("--lr_init -1e-3", "-1e-3 is not a finite number >= 0"),
    ("--lr_init -inf", "-inf is not"),
    ("--lr_init=", "invalid number value: ''"),
    ("--wd nan", "nan is not"),
    ("--momentum -0.5", ">= 0"),
    ("--momentum inf", "< 1"),
    ("--epochs -1", ">= 1"),
    ("--epochs many", "invalid whole number value: 'many'"),
    ("--batch_size 12.8", "invalid whole number value"),
    ("--use_data_size 0", ">= 1"),
    ("--corrupt_train -0.1", ">= 0"),
    ("--corrupt_train nan", "nan is not"),
    ("--init_scale -2", "or -1"),
    ("--init_scale inf", "or -1"),
    ("--noninvlr nan", "or -1"),
    ("--save_freq 0", ">= 1"),
    ("--save_freq_int -1", ">= 0"),
    ("--eval_freq 0", ">= 1"),
    ("--c_schedule -1", ">= 0"),
    ("--d_schedule -5", ">= 0"),
    ("--c_schedule 2 --cosan_schedule", "contradict"),
    ("--no_schedule --c_schedule 3", "contradict"),
    ("--fix_si_pnorm --fix_si_pnorm_value nan", "nan is not"),
    ("--keep 0", ">= 1"),
    ("--keep_epochs 3", "needs --keep"),
    ("--keep 2 --keep_epochs 1,x", "invalid"),
    ("--precision fp16", "unknown name 'fp16'"),
    ("--seed -1", ">= 0"),
    ("--trial -1", ">= 0"),
    ("--gpu -2", ">= -1"),
    ("--gpu first", "invalid whole number value"),
    ("--resume_epoch -2", ">= -1"),
    ("--dataset Digits --resume_epoch 5", "checkpoint-5.pt to branch off"),
    ("--dataset MNIST", "known: CIFAR10"),
    ("--model resnet18si", "did you mean ResNet18SI?"),
    ("--use_tset", "did you mean --use_test?"),
    ("train me", "unknown option train"),
    ("--dataset Digits --use_data_size 1351", "more than the 1350"),
    ("--use_test yes", "unknown option yes"),
])  # fmt: skip
def test_mistakes(line, message, capsys, tmp_path, monkeypatch):
    import train

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        train.main(line.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())  # nothing was written


@pytest.mark.parametrize("line, message", [
    ("", "--models_dir is missing"),
    ("--models_dir nowhere", "no checkpoint-<epoch>.pt in nowhere"),
    ("--models_dir x --train_mdoe", "did you mean --train_mode?"),
    ("--models_dir x --prebn_only --prebn_save_path y", "contradict"),
    ("--models_dir x --batch_size 0", ">= 1"),
    ("--models_dir x --eval_on_random_subset 0", ">= 1"),
    ("--models_dir x --model Resnet", "did you mean ResNet18SI?"),
    ("--models_dir x --hess_eval", "did you mean --hess_evals?"),
])  # fmt: skip
def test_mistakes_in_measuring(line, message, capsys, tmp_path, monkeypatch):
    import test

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        test.main(line.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_options_without_effect_say_so(run, capsys):
    run("--num_workers 8 --epochs 1")
    said = "note: changes nothing: --num_workers (the images stay on the device)"
    assert said in capsys.readouterr().out
    notes = []
    options.train_options(
        ["--fix_elr", "--elr", "0.1", "--lr_init", "1", "--num_workers", "8"], notes.append
    )
    assert len(notes) == 1 and "--lr_init" in notes[0] and "--num_workers" in notes[0]
    sphere = ["--fix_elr", "--elr", "0.1", "--lr_init", "1", "--wd", "0.5"]
    args = options.train_options(sphere, notes.append)
    assert args.wd == 0.5 and args.lr_init == 0.01  # wd acts on the other weights
    _, words = options.test_options(["--models_dir", "x", "--noaug", "--init_scale", "10"])
    assert len(options.without_effect(words)) == 2


def test_an_error_comes_without_notes(run, capsys):
    run("--epochs 1")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("--epochs 1 --num_workers 8")
    captured = capsys.readouterr()
    assert "already holds a run" in captured.err and not captured.out


def test_command_lines_are_read_back():
    values = {"lr_init": 0.5, "wd": 0.0, "fbgd": True, "noaug": False, "save_freq": None}
    words = command_line.command("train.py", values, ["--use_test"])
    assert words == ["train.py", "--lr_init", "0.5", "--wd", "0.0", "--fbgd", "--use_test"]
    args = options.train_options(words[1:])
    assert (args.lr_init, args.wd, args.fbgd, args.use_test) == (0.5, 0, True, True)


def test_values_in_lists():
    assert command_line.key_values("account=me,--mem=8G,x=a=b") == {
        "account": "me", "mem": "8G", "x": "a=b",
    }  # fmt: skip
    assert command_line.whole_numbers("0,12,3") == [0, 12, 3]


def test_what_the_command_line_itself_gives():
    declared = options.TRAIN
    assert command_line.given(["--wd", "0.1", "--initscale=3", "--noaug", "x"], declared) == {
        "wd", "init_scale", "noaug",
    }  # fmt: skip
    assert command_line.given([], declared) == set()


@pytest.mark.parametrize("text, value", [("1", 1), ("1e-3", 1e-3), (".5", 0.5), ("0", None)])
def test_numbers_above_an_open_bound(text, value):
    parse = command_line.number(0, 1, open_low=True)
    if value is None:
        with pytest.raises(argparse.ArgumentTypeError, match="> 0 and <= 1"):
            parse(text)
    else:
        assert parse(text) == value
