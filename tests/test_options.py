"""Official command lines are understood; mistakes cost one line and exit status 2."""

import pytest

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
        "noaug": False, "use_test": False,
    }  # fmt: skip
    assert {key: getattr(args, key) for key in defaults} == defaults


def test_every_option_of_the_specification_is_there():
    train = """dir dataset data_path model num_channels depth init_scale initscale noninvlr
        fix_noninvlr lr_init wd momentum epochs batch_size use_data_size use_test corrupt_train
        noaug no_aug fbgd fix_si_pnorm fix_si_pnorm_value no_schedule noschedule c_schedule
        d_schedule cosan_schedule save_freq save_freq_int eval_freq seed trial gpu num_workers
        resume_epoch"""
    test = """models_dir save_path use_test train_mode eval_model all_pnorm calc_grad_norms
        calc_grads prebn_only fisher_trace fisher_evals hess_trace hess_evals update
        eval_on_train_subsets eval_on_random_subset use_aug dataset data_path batch_size model
        num_channels depth init_scale corrupt_train use_data_size num_workers gpu seed"""
    for words, declared in ((train, options.TRAIN), (test, options.TEST)):
        names = {name for option in declared for name in option.names.split()}
        assert {f"--{word}" for word in words.split()} <= names


@pytest.mark.parametrize("line, message", [
    ("--lr_init 0", "--lr_init: 0 is not a finite number > 0"),
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
    ("--no_schedule --cosan_schedule", "contradict"),
    ("--d_schedule 2 --c_schedule 2", "contradict"),
    ("--fix_si_pnorm_value 5", "needs --fix_si_pnorm"),
    ("--resume --overwrite", "contradict"),
    ("--fbgd --save_freq_int 3", "nothing to save"),
    ("--gpu 77", "no such GPU"),
    ("--dataset Digits --use_data_size 99999", "more than the 1350 training images"),
    ("--dataset ImageFolder --data_path /nowhere", "no folder"),
    ("--dir", "expected one argument"),
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


def test_options_without_effect_say_so(capsys):
    options.train_options(["--num_workers", "8"])
    options.test_options(["--models_dir", "x", "--noaug", "--init_scale", "10"])
    out = capsys.readouterr().out
    assert out.count("changes nothing") == 3


def test_command_lines_are_read_back():
    values = {"lr_init": 0.5, "wd": 0.0, "fbgd": True, "noaug": False, "save_freq": None}
    words = options.command("train.py", values, ["--use_test"])
    assert words == ["train.py", "--lr_init", "0.5", "--wd", "0.0", "--fbgd", "--use_test"]
    args = options.train_options(words[1:])
    assert (args.lr_init, args.wd, args.fbgd, args.use_test) == (0.5, 0, True, True)
