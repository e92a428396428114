"""What a training step does to the weights, and what a run leaves on disk."""

import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, measure
from torch.nn import functional as F
from torch.testing import assert_close

import models
import runs
from measuring.rebuild import measure_checkpoint
from options import Model
from runs import checkpoints
from theory.dynamics import effective_gradient_norm, effective_lr, next_norm
from training.table import print_row


def states(folder):
    found = runs.checkpoints_in(folder)
    return {key: checkpoints.load(path)["state_dict"] for key, path in found.items()}


def assert_same(found, expected):
    assert_close(found, expected, rtol=0, atol=0)


def si_names(name="ConvNetSI", norm="batch"):
    return list(models.si_parameters(models.build(Model(name, 2, norm=norm), 10)))


@pytest.mark.parametrize("extra, steps", [
    ("", 4), ("--fix_si_pnorm --momentum 0.9", 4), ("--fbgd", 1), ("--norm weight", 4),
    ("--fix_elr --elr 0.01", 4), ("--fix_all_elr --elr 0.01", 4),
])  # fmt: skip
def test_trace_is_what_the_steps_did(run, extra, steps):
    within = "" if "--fbgd" in extra else "--save_freq_int 4"
    folder = run(f"--trace --epochs 2 --save_freq 1 {within} {extra}")
    trace = runs.read_trace(folder)
    assert trace["epoch"].tolist() == [i / steps for i in range(2 * steps)]
    assert set(trace["lr"]) == {runs.read_log(folder)[0]["lr"]}
    si = si_names(norm="weight" if "weight" in extra else "batch")
    weights = [torch.cat([s[k].double().flatten() for k in si]) for s in states(folder).values()]
    norms = [w.norm().item() for w in weights[:-1]]
    assert trace["si_norm"] == pytest.approx(norms, rel=1e-6)
    assert (np.ptp(norms) < 1e-6 * norms[0]) == ("fix" in extra)  # held after every step
    turned = [1 - F.cosine_similarity(a, b, 0).item() for a, b in itertools.pairwise(weights)]
    assert trace["one_minus_cosine"] == pytest.approx(turned, rel=1e-3, abs=1e-12)
    losses = trace["loss"].reshape(2, steps)
    batches = [64, 64, 64, 8] if steps == 4 else [200]
    logged = [row["train_loss"] for row in runs.read_log(folder)]
    assert np.average(losses, axis=1, weights=batches) == pytest.approx(logged, rel=1e-5)


@pytest.mark.parametrize("name", ["ConvNetSI", "ResNet18SI"])
def test_angle_and_norm_after_a_step_follow_from_its_gradient(run, name):
    """cos(w, w') and ρ' of P1, section 2, by real steps."""
    trace = runs.read_trace(run(f"--trace --epochs 2 --model {name}"))
    rate = effective_lr(trace["lr"], trace["si_norm"])
    gradient = effective_gradient_norm(trace["gradient_norm"], trace["si_norm"])
    kept = 1 - 0.1 * 0.001  # by weight decay
    expected = 1 - kept / np.hypot(kept, rate * gradient)
    assert trace["one_minus_cosine"] == pytest.approx(expected, rel=1e-4)
    assert expected.min() > 1e-8 and expected.max() > 1e-3
    after = next_norm(trace["si_norm"], gradient, 0.1, 0.001)[:-1]
    assert trace["si_norm"][1:] == pytest.approx(after, rel=1e-6)
    assert np.abs(after / trace["si_norm"][:-1] - 1).max() > 1e-3


def test_only_the_rate_times_the_decay_matters(run):
    """(η, λ) from w and (cη, λ/c) from w √c give the same run: v = w / √η obeys
    v' = (1 - ηλ) v - g(v). Up to rounding, which the dynamics enlarges."""
    whole = states(run("--epochs 2 --save_freq 1"))
    path = runs.checkpoint_path(run.folder, 0)
    content, si = checkpoints.load(path), si_names()
    for key in si:
        content["state_dict"][key] *= 2
    checkpoints.save(path, content)
    run("--resume_epoch 0 --save_freq 1 --epochs 2 --lr_init 0.4 --wd 0.00025")
    (branch,) = run.folder.glob("branch-0*")
    for epoch, state in states(branch).items():
        for key in si:
            assert_close(state[key], 2 * whole[epoch][key], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("parts", [3, 4])
def test_parts_of_an_epoch_lie_within_a_step_of_their_time(run, parts):
    """Of 6 steps an epoch; each part is reported at i/n, and lies there if n divides them."""
    folder = run(f"--batch_size 34 --epochs 2 --save_freq_int {parts} --save_freq 1 --trace")
    norms, found = runs.read_trace(folder)["si_norm"], runs.checkpoints_in(folder)
    assert list(found) == [(e, i) for e in (0, 1) for i in range(parts)] + [(2, 0)]
    for (epoch, i), path in list(found.items())[:-1]:
        content = checkpoints.load(path)
        norm = models.norm(content["state_dict"][k] for k in si_names()).item()
        steps = int(np.argmin(np.abs(norms - norm)))  # taken before this state
        assert norms[steps] == pytest.approx(norm, rel=1e-9)
        assert content["epoch"] == pytest.approx(epoch + i / parts)
        assert abs(steps - 6 * content["epoch"]) < (1 if 6 % parts else 1e-6)


@pytest.mark.parametrize("extra, epochs", [
    ("", [0, 1, 2, 3]), ("--save_freq 2 --epochs 5", [0, 2, 4, 5]), ("--save_freq 9", [0, 3]),
    ("--save_freq 2 --keep 1", [3]), ("--epochs 2 --keep 2", [1, 2]),
])  # fmt: skip
def test_files_of_a_run(run, extra, epochs):
    """The first, every nth and the last state are kept, with a log and the configuration."""
    folder = run(extra)
    files = {"config.json", "log.csv", *(f"checkpoint-{epoch}.pt" for epoch in epochs)}
    assert {path.name for path in folder.iterdir()} == files
    config = json.loads((folder / "config.json").read_text())
    assert (config["lr_init"], config["train_images"]) == (0.1, 200)
    assert config["commit"] == runs.code_version()


@pytest.mark.parametrize("watched", [False, True])
def test_the_table_shows_the_log(run, capsys, monkeypatch, watched):
    """Every epoch of it, as the official code does; on a terminal those that are evaluated."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: watched)
    folder = run("--epochs 4 --eval_freq 3")
    shown = [line for line in capsys.readouterr().out.splitlines() if line[:5].strip().isdigit()]
    rows = [row for row in runs.read_log(folder) if not watched or row["test_acc"] is not None]
    for line, row in zip(shown, rows, strict=True):
        values = [float(word) for word in line.split()]
        test = [] if row["test_acc"] is None else [row["test_loss"], 100 - 100 * row["test_acc"]]
        expected = [row["epoch"], row["lr"], row["train_loss"], 100 - 100 * row["train_acc"],
                    *test, row["si_norm"], row["seconds"]]  # fmt: skip
        assert values == pytest.approx(expected, abs=0.0051)


def test_columns_of_the_table_stay_in_place_when_training_diverges(capsys):
    for number, value in enumerate((1.0, 1.8e30, float("inf"))):
        print_row({"epoch": 1, "lr": 1, "train_loss": value, "train_acc": 1, "si_norm": value,
                   "test_loss": value, "test_acc": 1, "seconds": 1}, number)  # fmt: skip
    header, *rows = capsys.readouterr().out.splitlines()
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize("extra", [
    "--momentum 0.9 --fix_si_pnorm", "--model ConvNetSIAf --norm group", "--optimizer adam",
    "--fix_all_elr --elr 0.01 --momentum 0.9 --epochs 4",
])  # fmt: skip
def test_resumed_run_is_bit_identical(run, extra):
    augmented = TINY.replace("--noaug", "--save_freq 1")
    if "adam" in extra:
        augmented = augmented.replace("--momentum 0", "")
    folder = run(extra, base=augmented)
    whole = states(folder)
    for key in list(whole)[2:]:
        runs.checkpoint_path(folder, *key).unlink()
    run(f"{extra} --resume", base=augmented)
    assert_same(states(folder), whole)
    assert [row["epoch"] for row in runs.read_log(folder)] == [e for e, _ in whole][1:]


def test_a_run_is_complete_when_it_has_gone_as_far_and_all_is_measured(run, capsys):
    words = "--metrics --save_freq 1 --resume"
    folder = run(f"--epochs 2 {words}")
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    for epochs in (2, 1):
        run(f"--epochs {epochs} {words}")
        assert "complete: checkpoint-2.pt is its last" in capsys.readouterr().out
        assert before == {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    for path in (folder / f"{name}.npz" for name in runs.METRICS):
        rows = runs.Metrics.read(path).rows
        path.unlink()
        run(f"--epochs 2 {words}")
        assert runs.Metrics.read(path).rows == rows
    last, whole = folder / "checkpoint-2.pt", states(folder)
    os.truncate(last, last.stat().st_size // 2)
    run(f"--epochs 2 {words}")
    assert_same(states(folder), whole)
    run(f"--epochs 3 {words}")
    assert "epochs 2 to 3 on" in capsys.readouterr().out


def test_where_no_run_can_go_on_is_said(run, refused):
    folder = run("--epochs 1 --save_freq_int 2")
    again = "--epochs 2 --save_freq_int 2 --resume"
    config = (folder / runs.CONFIG).read_text()
    (folder / runs.CONFIG).unlink()
    assert "it is not known whether it is this run" in refused(run, again)
    (folder / runs.CONFIG).write_text(config)
    whole = [*runs.whole_epochs(folder).values()]
    for damage in (lambda path: path.write_bytes(b"damaged"), Path.unlink):
        for path in whole:
            damage(path)
        error = refused(run, again)
        assert "no checkpoint of a whole epoch" in error and "--overwrite starts the run" in error
    assert len(runs.read_log(folder)) == 1


def test_a_run_is_neither_mixed_nor_cut_nor_overwritten_unasked(run, refused):
    words = "--epochs 3 --save_freq 10 --metrics"
    folder = run(words)

    def files():
        return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    (folder / "checkpoint-3.pt").rename(folder / runs.LATEST)  # as if it were to go on for longer
    error = refused(run, "--epochs 2 --save_freq 10 --resume")
    assert "has come to epoch 3: --epochs 2 would end it before" in error
    run("--resume_epoch 0 --epochs 1 --lr_init 0.2")
    for path in folder.glob("*.pt"):  # its metrics are worth as much
        path.unlink()
    before = files()
    for more, message in (
        ("", "--resume or --overwrite"), ("--overwrite", "has branches"),
        ("--resume --wd 0.5 --epochs 9", "wd (saved 0.001, asked 0.5)"),
    ):  # fmt: skip
        assert message in refused(run, more) and files() == before
    run(f"{words} --resume")  # the same run is trained again
    shutil.rmtree(next(folder.glob("branch-*")))
    (folder / "train-em.npz").write_bytes(b"of the old run")
    run("--overwrite --wd 0.5 --epochs 1")
    assert runs.read_config(folder)["wd"] == 0.5 and not [*folder.glob("*.npz")]
    assert list(runs.checkpoints_in(folder)) == [(0, 0), (1, 0)]


def test_a_branch_goes_on_where_its_trial_would_also_after_a_stop(run, cut):
    """Its epochs to save and to evaluate are counted from where it begins."""
    trial = states(run("--momentum 0.5 --save_freq 1 --epochs 4"))
    expected = {key: trial[key] for key in ((1, 0), (3, 0), (4, 0))}
    words = "--momentum 0.5 --resume_epoch 1 --epochs 3 --save_freq 2 --eval_freq 2"
    run(words)
    branch = run.folder / "branch-1"
    assert_same(states(branch), expected)
    assert [row["test_loss"] is None for row in runs.read_log(branch)] == [True, False, False]
    cut(3, f"{words} --overwrite")
    run(f"{words} --resume")
    assert_same(states(branch), expected)


def test_branch_with_changed_options_has_its_own_folder(run, refused, capsys):
    folder = run()
    capsys.readouterr()
    run("--resume_epoch 1 --lr_init 0.5 --epochs 1 --fix_si_pnorm --fix_si_pnorm_value 3")
    assert "moments" not in capsys.readouterr().out  # there are none, and none is missed
    branch = folder / "branch-1_fix_si_pnorm=True_fix_si_pnorm_value=3.0_lr_init=0.5"
    assert list(runs.checkpoints_in(branch)) == [(1, 0), (2, 0)]
    assert runs.read_config(branch)["lr_init"] == 0.5
    # The function of its first checkpoint is the trial's, though its weights have another norm
    loss = measure_checkpoint(folder / "checkpoint-1.pt")["test_loss"]
    found = measure(branch, "--use_test --eval_model --epochs 1")["loss"].item()
    assert found == pytest.approx(loss, rel=1e-3)
    assert list(runs.checkpoints_in(folder)) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert "checkpoint-7.pt" in refused(run, "--resume_epoch 7")
    assert "belongs to another network" in refused(run, "--resume_epoch 1 --num_channels 3")
    assert [*folder.glob("branch-*")] == [branch]


def test_the_name_of_a_network_is_checked_before_the_data_are_loaded(run, monkeypatch, refused):
    folder = run("--epochs 1")
    monkeypatch.setattr("data.load", lambda *_, **__: pytest.fail("loaded"))
    for place, message in (("nothing.py:net", "there is no file"), ("theory:net", "no function")):
        assert message in refused(run, f"--overwrite --model {place}")
        assert message in refused(measure, folder, f"--model {place}")
