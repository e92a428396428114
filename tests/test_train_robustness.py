"""Kills, full disks, damaged files, two processes at once, divergence: nothing is lost."""

import errno
import functools
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import processes
import pytest
import torch
from conftest import ROOT, TINY, measure
from numpy.testing import assert_equal
from PIL import Image
from processes import wait_until
from torch.utils._pytree import tree_map_only

import runs
import test as test_script
import train
import utils
from measuring import Meter
from runs import checkpoints
from runs.resuming import newest_checkpoint

WORDS = "--epochs 3 --save_freq 1 --metrics"
LONG = TINY.replace("--noaug ", "") + (
    " --epochs 16 --save_freq 4 --metrics --keep 3 --momentum 0.9 --fix_si_pnorm"
)


def spawn(folder, extra=""):
    words = f"{LONG} --dir {folder} {extra}".split()
    return processes.Started([sys.executable, ROOT / "train.py", *words])


def contents(folder):
    """Everything of a run that must not depend on how often it was interrupted."""
    found = {"log": [{**row, "seconds": None} for row in runs.read_log(folder)]}
    for name in runs.METRICS:
        found[name] = runs.Metrics.read(folder / f"{name}.npz").rows
    for path in runs.checkpoints_in(folder).values():
        content = checkpoints.load(path)
        tensors = content["state_dict"], content["optimizer"]["state"]
        found[path.name] = tree_map_only(torch.Tensor, torch.Tensor.numpy, tensors)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run with these words leaves if nothing interrupts it."""

    @functools.cache
    def of(words):
        directory = tmp_path_factory.mktemp("whole")
        train.main(f"{TINY} {words} --dir {directory}".split())
        return contents(directory / "trial_0")

    return of


def test_killed_run_ends_in_the_same_bits(tmp_path):
    """Killed at random moments, each time after an epoch at least."""
    whole, generator, kills = spawn(tmp_path / "whole"), random.Random(0), 0
    folder = tmp_path / "cut" / "trial_0"
    for attempt in range(4):
        process, done = spawn(tmp_path / "cut", "--resume"), len(runs.read_log(folder))
        if attempt < 3:
            wait_until(lambda p=process, n=done: p.poll() == 0 or len(runs.read_log(folder)) > n)
            time.sleep(generator.uniform(0, 0.15))
            process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert whole.wait() == process.returncode == 0 and kills >= 2
    assert_equal(contents(folder), contents(tmp_path / "whole" / "trial_0"))
    assert not list(folder.glob(f".*{utils.PARTIAL}")) and not (folder / runs.LATEST).exists()


@pytest.mark.parametrize("number, where, when, newest, more", [
    (signal.SIGTERM, "epoch", (2,), 2, ""),  # in the middle of an epoch
    (signal.SIGINT, "save", (2,), 1, "--save_freq 9"),  # from a state that is not kept
    # However many states within an epoch came after it, a run goes on from a whole one
    (signal.SIGINT, "save", (2, 3), 2, "--save_freq_int 4 --keep 1 --use_test_size 20"),
])  # fmt: skip
def test_a_polite_stop_says_how_to_go_on(
    run, whole, capsys, monkeypatch, number, where, when, newest, more
):
    real = getattr(train.Training, where)

    def interrupted(self, *arguments, **options):
        if arguments[: len(when)] == when:
            os.kill(os.getpid(), number)
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(train.Training, where, interrupted)
        run(f"{WORDS} {more}")
    assert stop.value.code == 128 + number
    out, error = capsys.readouterr()
    assert "with --resume continues in" in out and error == f"train.py: stopped by {number.name}\n"
    assert not [*run.folder.glob(f".*{utils.PARTIAL}"), *run.folder.glob(runs.LOCK)]
    assert newest_checkpoint(run.folder)[0] == newest
    assert_equal(contents(run(f"{WORDS} {more} --resume")), whole(f"{WORDS} {more}"))


def without_torch(folder, line, instead):
    """Start a script where `import torch` does something else instead."""
    (folder / "torch.py").write_text(instead)
    script, *words = line.split()
    return subprocess.Popen(
        [sys.executable, ROOT / script, *words], cwd=folder, text=True, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip


@pytest.mark.parametrize("line", ["train.py", "test.py --models_dir x", "run_train_and_test.py"])
def test_a_stop_while_torch_is_imported_is_one_line(tmp_path, line):
    instead = "import pathlib, time; pathlib.Path('here').touch(); time.sleep(60)"
    process = without_torch(tmp_path, line, instead)
    wait_until((tmp_path / "here").exists)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and error == f"{line.split()[0]}: stopped by SIGINT\n"


@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_a_mistake_is_told_before_torch_is_imported(tmp_path, script):
    process = without_torch(tmp_path, f"{script} --epoch 3", "raise SystemExit('imported')")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2 and "did you mean --epochs?" in error and error.count("\n") == 1


@pytest.mark.parametrize("after", [3, 10])
def test_full_disk_costs_an_epoch_and_one_line(run, whole, monkeypatch, refused, after):
    """From the `after`-th file on, writing fails as it does on a full disk."""
    written, real = [], os.fsync

    def fsync(handle):
        written.append(handle)
        if len(written) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert "No space left on device" in refused(run, WORDS, status=1)
    assert not list(run.folder.glob(f".*{utils.PARTIAL}"))
    contents(run.folder)  # all files can be read
    assert_equal(contents(run(f"{WORDS} --resume")), whole(WORDS))


def test_a_file_in_the_place_of_a_folder_is_one_line(run, refused, tmp_path):
    (tmp_path / "file").write_text("")
    trained = f"{TINY} --dir {tmp_path}/file"
    assert f"{tmp_path}/file" in refused(train.main, trained.split())
    measured = f"--models_dir {run('--epochs 1')} --save_path {tmp_path}/file/x"
    assert f"{tmp_path}/file" in refused(test_script.main, measured.split())


def test_litter_of_the_dead_is_removed_and_of_the_living_is_not(tmp_path, monkeypatch):
    dead = subprocess.Popen(["true"])
    dead.wait()
    monkeypatch.setattr(utils.socket, "gethostname", lambda: "node.of.a.cluster")
    host = "node-of-a-cluster"
    owners = f"{host}.{os.getpid()}", f"elsewhere.{dead.pid}", f"{host}.{dead.pid}"
    paths = [tmp_path / f".checkpoint-1.pt.{owner}{utils.PARTIAL}" for owner in owners]
    for path in paths:
        path.touch()
    utils.remove_litter(tmp_path)
    assert {*tmp_path.iterdir()} == {*paths[:2]}


def test_damaged_checkpoints_and_lost_rows_of_the_log_are_named(run, whole, capsys):
    folder = run(WORDS)
    (folder / "checkpoint-3.pt").unlink()
    path = folder / "checkpoint-2.pt"
    path.write_bytes(path.read_bytes()[:1000])
    run(f"{WORDS} --resume")
    assert "passed over" in capsys.readouterr().out
    assert_equal(contents(folder), whole(WORDS))
    log = folder / "log.csv"
    log.write_bytes(log.read_bytes()[:-3])  # its last row is torn
    run("--epochs 4 --save_freq 1 --resume")
    assert "lacks 1 of the epochs up to 3" in capsys.readouterr().out
    assert [row["epoch"] for row in runs.read_log(folder)] == [1, 2, 4]


def stop_measuring(monkeypatch, folder, words, after):
    """Measure until SIGTERM arrives, when so many checkpoints have been read."""
    real, read = checkpoints.load, []

    def load(path):
        read.append(path)
        if len(read) > after:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(path)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(checkpoints, "load", load)
        measure(folder, *words)
    assert stop.value.code == 128 + signal.SIGTERM


def test_measuring_stopped_in_the_middle_keeps_what_it_had(run, monkeypatch):
    folder = run("--epochs 2 --save_freq 1")
    stop_measuring(monkeypatch, folder, ("--eval_model",), after=1)
    assert list(runs.Metrics.read(folder / "out.npz").rows) == [0]
    real, read = checkpoints.load, []
    monkeypatch.setattr(checkpoints, "load", lambda path: read.append(path.name) or real(path))
    measure(folder, "--eval_model --update")
    assert read == ["checkpoint-1.pt", "checkpoint-2.pt"]


def test_a_complete_metrics_file_is_replaced_by_a_complete_one_alone(run, monkeypatch, refused):
    folder = run("--epochs 2 --save_freq 1 --metrics")
    path, words = folder / "train-tm.npz", ("--train_mode --eval_model", "train-tm.npz")
    before = path.read_bytes()
    monkeypatch.setattr(test_script, "WRITE_EVERY", -1)
    stop_measuring(monkeypatch, folder, words, after=1)
    runs.checkpoint_path(folder, 1).unlink()
    assert "1 epoch whose checkpoints are gone" in refused(measure, folder, *words)
    assert path.read_bytes() == before
    measure(folder, "--train_mode --calc_grads --update", path.name)
    assert runs.Metrics.read(path).rows.keys() == {0, 1, 2}


@pytest.mark.parametrize("gone", [(0, 1), (1, 0)])
def test_no_part_of_an_epoch_is_lost_from_a_file_anywhere(run, refused, tmp_path, gone):
    folder = run("--epochs 2 --save_freq 1 --save_freq_int 2")
    path = runs.checkpoint_path(folder, *gone)
    measure(folder, "", tmp_path / "elsewhere.npz")
    whole = path.read_bytes()
    path.write_bytes(b"damaged")
    assert "whose checkpoints are damaged" in refused(measure, folder, "", tmp_path / "elsewhere")
    path.unlink()
    assert "1 epoch whose checkpoints are gone" in refused(
        measure, folder, "", tmp_path / "elsewhere"
    )
    path.write_bytes(whole)
    times = measure(folder, "", tmp_path / "elsewhere.npz")["report_epochs"]
    assert times.tolist() == [0, 0.5, 1, 1.5, 2]


def test_damaged_checkpoints_are_passed_over_while_one_can_be_measured(run, capsys, refused):
    folder = run("--save_freq 1 --epochs 2")
    found = runs.checkpoints_in(folder)
    whole = measure(folder, "", "whole.npz")
    found[1, 0].write_bytes(found[1, 0].read_bytes()[:1000])
    assert measure(folder, "")["report_epochs"].tolist() == [0, 2]
    assert "checkpoint-1.pt" in capsys.readouterr().out
    error = refused(measure, folder, "--eval_model", "whole.npz")  # which has epoch 1
    assert "--update adds to it, --save_path names another file" in error
    assert np.load(folder / "whole.npz").keys() == whole.keys()
    for path in found.values():
        path.write_bytes(b"damaged")
    error = refused(measure, folder, "--eval_model --update")
    assert f"none of the 3 checkpoints in {folder} can be read" in error


def test_a_second_process_is_refused_while_the_first_lives(run, refused):
    with utils.locked(run.folder / runs.LOCK, "run"):
        assert f"in use by process {os.getpid()}" in refused(run)
    (run.folder / runs.LOCK).write_text("process 1 on nowhere")  # a stale one stops nobody
    run("--epochs 1")


def test_a_run_without_its_checkpoints_is_trained_again_and_keeps_its_metrics(run, whole):
    folder = run(WORDS)
    measure(folder, "--hess_trace", "own.npz")
    before = (folder / "own.npz").read_bytes()
    for path in folder.glob("*.pt"):
        path.unlink()
    run(f"{WORDS} --resume")
    assert_equal(contents(folder), whole(WORDS))
    assert (folder / "own.npz").read_bytes() == before


def test_a_run_that_stops_earlier_than_planned_has_its_last_checkpoint(run, cut):
    cut(2, "--epochs 9 --save_freq 9 --metrics")
    run("--epochs 2 --save_freq 9 --metrics --resume")
    assert list(runs.checkpoints_in(run.folder)) == [(0, 0), (2, 0)]
    assert [*runs.Metrics.read(run.folder / "test-em.npz").rows] == [0, 2]
    assert checkpoints.load(run.folder / "checkpoint-2.pt")["train_res"]["loss"] > 0


def test_what_may_not_be_read_is_not_replaced_as_if_it_were_damaged(run, refused, monkeypatch):
    folder = run(WORDS)
    real = np.load

    def load(path, **how):
        if str(path).endswith("train-tm.npz"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **how)

    before = (folder / "train-tm.npz").read_bytes()
    monkeypatch.setattr(np, "load", load)
    for more in ("", "--update"):
        words = f"--models_dir {folder} --train_mode --eval_model --gpu -1 {more}".split()
        assert "Permission denied: " in refused(test_script.main, words, status=1)
    assert (folder / "train-tm.npz").read_bytes() == before


def test_other_images_do_not_continue_a_run(tmp_path, refused):
    words = "--dataset ImageFolder --use_test --num_channels 2 --noaug --no_schedule --gpu -1"
    words += f" --momentum 0 --wd 0 --batch_size 4 --save_freq 1 --dir {tmp_path}/run"
    for shade, name in enumerate("xy"):
        for i, part in enumerate(("train/a", "train/b", "test/a", "test/b")):
            path = tmp_path / name / part / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (32, 32), (60 * i, 9 * shade, 0)).save(path)
    train.main([*words.split(), "--data_path", f"{tmp_path}/x", "--epochs", "1"])
    more, branch = (
        [*words.split(), "--epochs", "2", *option.split(), "--data_path"]
        for option in ("--resume", "--resume_epoch 1")
    )
    for line in (more, branch):
        assert "on other training images" in refused(train.main, [*line, f"{tmp_path}/y"])
    train.main([*branch, f"{tmp_path}/y", "--use_data_size", "2"])  # that is asked for
    for path in (tmp_path / "run/trial_0").glob("*.pt"):
        path.unlink()
    assert "on other training images" in refused(train.main, [*more, f"{tmp_path}/y"])
    (tmp_path / "x").rename(tmp_path / "z")
    train.main([*more, f"{tmp_path}/z"])


def test_a_run_that_another_process_makes_meanwhile_is_not_continued(run, refused, monkeypatch):
    """Between the look at the folder and the lock on it."""
    real = train.data.load

    def load(*args, **options):
        monkeypatch.setattr(train.data, "load", real)
        run("--epochs 1")
        return real(*args, **options)

    monkeypatch.setattr(train.data, "load", load)
    assert "lr_init (saved 0.1, asked 0.7)" in refused(run, "--epochs 2 --lr_init 0.7")
    assert runs.read_config(run.folder)["epochs"] == len(runs.read_log(run.folder)) == 1


def test_metrics_without_a_test_set_are_refused_before_anything_is_written(run, tmp_path, refused):
    for label, name in enumerate("abab"):
        path = tmp_path / "data" / "train" / name / f"{label}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (60 * label, 0, 0)).save(path)
    words = f"--dataset ImageFolder --data_path {tmp_path}/data --epochs 1"
    base = TINY.replace("--use_data_size 200", "").replace("--use_test", "")
    error = refused(run, f"{words} --metrics", base=base)
    assert "which is needed for --use_test and --metrics" in error and not run.folder.exists()
    assert (run(words, base=base) / "checkpoint-1.pt").exists()


def test_divergence_is_recorded_and_stops_the_line(run, capsys, monkeypatch):
    base = TINY.replace("--lr_init 0.1", "--lr_init 1e30").replace("--noninvlr 0", "--noninvlr -1")
    for extra, states in (
        ("", "saved; --resume --metrics measures them"),
        ("--resume", "saved; --resume --metrics measures them"),
        ("--resume --metrics", "saved and measured"), ("--resume --metrics", "saved and measured"),
        ("--resume", "saved and measured"), ("--overwrite --metrics", "saved and measured"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            run(f"--epochs 5 --save_freq 2 {extra}", base)
        out = capsys.readouterr().out
        assert stop.value.code == runs.DIVERGED_STATUS and "diverged" in out and states in out
        assert list(runs.checkpoints_in(run.folder)) == [(0, 0), (1, 0)]
        (row,) = runs.read_log(run.folder)
        assert not math.isfinite(row["train_loss"])
        tables = [runs.Metrics.read(run.folder / f"{name}.npz").rows for name in runs.METRICS]
        finite = [[math.isfinite(row["loss"]) for row in rows.values()] for rows in tables]
        assert finite == ([[True, False]] * 3 if "and measured" in states else [[]] * 3)
    words = "--hess_evals --hess_trace --prebn_only --train_mode --epochs 1"
    curvature = measure(run.folder, words)
    assert np.isnan(curvature["hess_evals"]).all() and np.isnan(curvature["hess_trace"]).all()
    # NaN is a result, not a gap
    monkeypatch.setattr(Meter, "measure", lambda self: pytest.fail("measured again"))
    measure(run.folder, "--update --train_mode --eval_model", "train-tm.npz")
