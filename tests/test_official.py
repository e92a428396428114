"""What users of the official code bring along: command lines, checkpoints, drivers.

docs/official-code.md describes it. The rows of COMPAT in what is trained and measured are held by
test_reference.py, whose conventions are the official ones.
"""

import itertools
import re
import shutil
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import reference
import torch
from conftest import ROOT, load_images, measure

import models
import options
import runs
from options import Measure, Model, Train
from runs import checkpoints

PAGE = (ROOT / "docs" / "official-code.md").read_text()


def accept(line):
    """The options of a line of train.py, and its notes."""
    return options.train_options(line.split())


# --- command lines ---


@pytest.mark.parametrize("script, declared", [("train", Train), ("test", Measure)])
def test_official_options_are_all_here(script, declared):
    part = PAGE.split(f"<!-- official {script} -->")[1].split("<!--")[0]
    official = set(re.findall(r"--\w+", part))
    names = {f"--{name}" for each in fields(declared) for name in options.spellings(each)}
    assert len(official) >= 40 and official <= names


def test_lines_of_the_official_drivers():
    args, _ = accept(
        "--dir ./Experiments/x --dataset CIFAR10 --data_path ~/datasets/ --model ConvNetSI "
        "--num_channels 32 --depth 3 --initscale 10. --fix_noninvlr 0.0 --lr_init 0.01 --wd 0.001 "
        "--momentum 0.0 --epochs 1001 --batch_size 128 --use_test --noschedule --no_aug --fbgd "
        "--fix_si_pnorm --fix_si_pnorm_value -1 --save_freq 1 --save_freq_int 0 --eval_freq 1000 "
        "--seed 1 --trial 0 --gpu 0 --num_workers 4 --corrupt_train 0.0 --use_data_size 50000"
    )  # P1's
    assert (args.init_scale, args.noninvlr, args.fix_si_pnorm_value) == (10, 0, -1)
    assert args.fbgd and args.noaug and args.no_schedule and args.use_test and args.epochs == 1001
    args, (note,) = accept("--fix_elr --elr 1e-3 --lr_init 0.0 --wd 0.0 --su_init")  # P2's
    assert args.fix_elr and args.elr == 1e-3
    assert "--lr_init" in note and "--wd" not in note
    line = (
        "--models_dir x --initscale -1. --fix_noninvlr -1 --no_aug --calc_grad_norms_small_memory "
        "--eval_on_random_subset"
    )  # of get_info.py
    args, given = options.measure_options(line.split())
    assert given >= {"init_scale", "noninvlr", "noaug", "calc_grad_norms"}
    assert args.eval_on_random_subset == 0 and args.calc_grad_norms and args.init_scale == -1


@pytest.mark.parametrize("line, named, expected", [
    ("--fix_elr --elr 1e-3 --lr_init 0.0 --wd 0.0", "--lr_init", {"elr": 1e-3, "wd": 0}),
    ("--fix_all_elr --elr 1e-3 --lr_init 0", "--lr_init", {"fix_all_elr": True}),
    ("--elr 0.001 --lr_init 0.1", "--elr", {"elr": None, "lr_init": 0.1}),
    ("--no_schedule --cosan_schedule", "--no_schedule", {"cosan_schedule": True}),
    ("--no_schedule --c_schedule 0", "--c_schedule", {"no_schedule": True, "c_schedule": None}),
    ("--d_schedule 0.0", "--d_schedule", {"d_schedule": None}),
    ("--c_schedule 3 --d_schedule 5", "--d_schedule", {"c_schedule": 3, "d_schedule": None}),
    ("--fix_si_pnorm_value 10", "--fix_si_pnorm_value", {"fix_si_pnorm": False}),
    ("--fix_elr --elr 1 --fix_si_pnorm", "--fix_si_pnorm", {"fix_elr": True}),
    ("--fix_elr --elr 1 --fix_si_pnorm_value 9", "value", {"fix_si_pnorm_value": -1}),
    ("--resume_epoch -1", "--resume_epoch", {"resume_epoch": None}),
    ("--fix_elr --elr 1e-3 --wd 0.5", "--wd", {"wd": 0.5}),  # it acts on the other weights
    ("--su_init", "--su_init", {"su_init": False}),
    ("--elr 0.001 --resume_epoch -1 --c_schedule 0 --num_workers 4", "--elr", {"elr": None}),
])  # fmt: skip
def test_options_without_effect_are_named_in_one_note(line, named, expected):
    args, notes = accept(line)
    assert len(notes) == 1 and "changes nothing" in notes[0] and named in notes[0]
    assert {key: getattr(args, key) for key in expected} == expected


@pytest.mark.parametrize("line", ["", "--fix_elr --elr 1", "--c_schedule 3", "--resume_epoch 0"])
def test_options_with_an_effect_are_not_named(line):
    assert accept(line)[1] == []


# --- data ---


@pytest.mark.parametrize("half, classes", [(0, [0, 1, 2, 8, 9]), (1, [3, 4, 5, 6, 7])])
def test_half_of_the_classes(half, classes):
    whole = load_images("Digits", use_test=True)
    halves = load_images("Digits", use_test=True, split_classes=half)
    for images, part in zip(whole, halves, strict=True):
        kept = [i for i, label in enumerate(images.labels.tolist()) if label in classes]
        assert torch.equal(part.images, images.images[kept]) and part.num_classes == 5
        assert [classes[label] for label in part.labels] == images.labels[kept].tolist()
    corrupted, _ = load_images("Digits", use_test=True, split_classes=half, corrupt_train=1.0)
    assert torch.equal(corrupted.images, halves[0].images) and corrupted.corrupted.all()
    assert set(corrupted.labels.tolist()) == {0, 1, 2, 3, 4}


def test_svhn_comes_through_torchvision(tmp_path, monkeypatch):
    from torchvision import datasets

    pixels = np.random.RandomState(0).randint(256, size=(9, 3, 32, 32)).astype(np.uint8)

    class Fake:
        split_list = datasets.SVHN.split_list

        def __init__(self, root, split, download):
            assert download and root == str(tmp_path / "svhn")
            self.data = pixels[:6] if split == "train" else pixels[6:]
            self.labels = np.arange(len(self.data))

    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn" / "train_32x32.mat").touch()
    monkeypatch.setattr(datasets, "SVHN", Fake)
    for part, expected in zip(load_images("SVHN", tmp_path, use_test=True), (6, 3), strict=True):
        assert (len(part), part.num_classes) == (expected, 10)
        assert torch.allclose(part.mean, torch.tensor([0.4914, 0.4822, 0.4465]))
    assert part.images[2, 5, 7].tolist() == pixels[8, :, 5, 7].tolist()


def test_branches_off_one_official_checkpoint_have_folders_of_their_own(tmp_path):
    lines = ("--lr_init 0.05", "--lr_init 0.2", "--momentum 0.5 --lr_init 0.05")
    branches = [replace(accept(f"{line} --resume_epoch 7")[0], norm_eps=1e-5) for line in lines]
    for number, order in enumerate(itertools.permutations(branches)):
        found = []
        for asked in order * 2:
            found.append(runs.branch_folder(tmp_path / f"{number}", 7, asked))
            if not found[-1].exists():
                found[-1].mkdir(parents=True)
                runs.write_config(found[-1], asdict(asked))
        assert found[:3] == found[3:] and len(set(found)) == 3


# --- checkpoints without a configuration, measured ---

LINE = (
    "--dataset Digits --data_path ~/datasets/ --use_data_size 200 --batch_size 64 --num_channels 2 "
    "--depth 3 --init_scale 10. --noninvlr 0.0 --num_workers 4 --seed 1 --model ConvNetSI"
)


@pytest.fixture
def official(tmp_path):
    """Write checkpoints as the official code does: returns their folder."""
    network = models.build(Model("ConvNetSI", 2), 10)

    def write(*names):
        for name in names:
            content = {"epoch": 1, "state_dict": network.state_dict()}
            torch.save(content, tmp_path / f"checkpoint-{name}.pt")
        return tmp_path

    return write


def test_checkpoints_have_the_epsilon_that_they_were_trained_with(run):
    """That of the run; without a configuration the official one, in a branch off it too."""
    folder = run("--epochs 1 --norm_eps 0.5")
    images, _ = load_images("Digits", use_test=True, use_data_size=200)
    images = images.normalise(images.images), images.labels, images.corrupted
    content = checkpoints.load(folder / "checkpoint-1.pt")
    state = content["state_dict"]
    for key in reference.invariant(state):
        state[key] *= 1e-3  # so small that the loss depends on the epsilon
    checkpoints.save(folder / "checkpoint-1.pt", content)
    for extra, eps in (("", 0.5), ("", 1e-5), ("--norm_eps 0.1", 0.1)):
        flags = f"{LINE} --train_mode --eval_model --epochs 1 {extra}"
        found = measure(folder, flags, f"{eps}.npz")["loss"].item()
        expected = reference.measure(state, images, reference.trainable(state), 64, eps=eps)
        assert found == pytest.approx(expected["loss"].item(), rel=1e-4)
        if not extra:
            run("--resume_epoch 1 --epochs 1")
            assert runs.read_config(folder / "branch-1")["norm_eps"] == eps
            shutil.rmtree(folder / "branch-1")
            (folder / "config.json").unlink(missing_ok=True)
    assert options.NORM_EPS == models.NORM_EPS == 1e-12  # of other runs: scale invariance


def test_checkpoints_within_an_epoch_lie_evenly_or_at_the_time_that_they_state(
    official, run, refused
):
    """Older versions of this project counted steps in a file's name."""
    folder = official("0", "0-1", "0-2", "0-3", "1", "1-1")
    for option, n in (("", 4), ("--save_freq_int 8", 8)):
        found = measure(folder, f"{LINE} {option}")
        assert found["report_epochs"].tolist() == [0, 1 / n, 2 / n, 3 / n, 1, 1 + 1 / n]
    one = measure(folder, f"{LINE} --models_dir {folder}/checkpoint-1-1.pt", "one.npz")
    assert one["report_epochs"].tolist() == [1.25]
    error = refused(measure, folder, f"{LINE} --save_freq_int 3")
    assert "--save_freq_int 3: there is a checkpoint-<epoch>-3.pt" in error
    folder = run("--save_freq_int 2 --epochs 1")
    (folder / "checkpoint-0-1.pt").rename(folder / "checkpoint-0-37.pt")
    assert measure(folder, "--save_freq_int 5")["report_epochs"].tolist() == [0, 0.5, 1]


def test_flags_that_do_not_suit_the_images(official, capsys):
    folder = official("1")
    found = measure(folder, f"{LINE} --use_test --eval_on_train_subsets")
    assert "--eval_on_train_subsets (the labels" in capsys.readouterr().out
    assert found.keys() == {"report_epochs", "params_norm", "params_numel"}
    whole = measure(folder, f"{LINE} --eval_model")
    subset = measure(folder, f"{LINE} --eval_model --eval_on_random_subset")
    np.testing.assert_allclose(subset["loss"], whole["loss"], rtol=1e-5)  # 200 of 200


def test_arrays_over_other_batches_are_not_mixed(official, refused):
    folder = official("1")
    measure(folder, f"{LINE} --calc_grad_norms_all")
    official("2")
    line = LINE.replace("--batch_size 64", "--batch_size 40")
    error = refused(measure, folder, f"{line} --calc_grad_norms_all --update")
    assert "gnorm_all of other batches" in error
    with np.load(folder / "out.npz") as file:
        assert file["gnorm_all"].shape == (1, 4)
