"""Kills, full disks, damaged files, two processes at once, divergence: nothing is lost."""

import errno
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import processes
import pytest
from conftest import ROOT, TINY
from PIL import Image

import runs
import test as test_script
import train
import utils
from runs import checkpoints
from runs.resuming import newest_checkpoint

LONG = TINY.replace("--noaug ", "") + (
    " --epochs 24 --save_freq 4 --metrics --keep 3 --momentum 0.9 --fix_si_pnorm"
)


@pytest.fixture(autouse=True)
def interruptible():
    """Also where the tests run with SIGINT ignored, as behind `nohup ... &`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def spawn(folder, extra="", base=LONG):
    words = [*base.split(), "--dir", str(folder), *extra.split()]
    return processes.Started([sys.executable, ROOT / "train.py", *words])


def contents(folder):
    """Everything of a run that must not depend on how often it was interrupted."""
    states = {p.name: checkpoints.load(p) for p in runs.checkpoints_in(folder).values()}
    found = {
        f"{name} {key}": tensor.numpy()
        for name, content in states.items()
        for key, tensor in content["state_dict"].items()
    }
    for name, content in states.items():
        for i, state in content["optimizer"]["state"].items():
            if state.get("momentum_buffer") is not None:
                found[f"{name} momentum {i}"] = state["momentum_buffer"].numpy()
    for name in runs.METRICS:
        with np.load(folder / f"{name}.npz") as file:
            found |= {f"{name} {key}": array for key, array in file.items()}
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in runs.read_log(folder)]
    found["log"] = np.array([[math.nan if v is None else v for v in r.values()] for r in rows])
    return found


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def kill_until_done(folder, seed, most):
    """Resume and kill at random moments, up to `most` times, then let it finish."""
    generator, kills = random.Random(seed), 0
    log = folder / "trial_0" / runs.LOG
    while kills < most:
        process = spawn(folder, "--resume")
        before = log.stat().st_mtime_ns if log.exists() else 0
        # Until it has done an epoch, so that every start makes progress.
        wait_until(lambda p=process, b=before: (
            p.poll() is not None or (log.exists() and log.stat().st_mtime_ns != b)
        ))  # fmt: skip
        time.sleep(generator.uniform(0, 0.15))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            return kills
    process = spawn(folder, "--resume")
    process.communicate()
    assert process.returncode == 0
    return kills


def test_killed_run_ends_in_the_same_bits(tmp_path):
    whole = spawn(tmp_path / "whole")
    kills = kill_until_done(tmp_path / "cut", seed=0, most=4)
    assert whole.wait() == 0 and kills >= 2
    assert_same(contents(tmp_path / "whole/trial_0"), contents(tmp_path / "cut/trial_0"))
    assert not list((tmp_path / "cut/trial_0").glob(f".*{utils.PARTIAL}"))
    assert not (tmp_path / "cut/trial_0" / runs.LATEST).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["epoch", "save"])
def test_a_polite_stop_says_how_to_go_on(run, capsys, monkeypatch, number, where):
    """In the middle of an epoch, and of the saving after it."""
    real = getattr(train.Training, where)

    def interrupted(self, epoch, *more, **options):
        if epoch == 2:
            os.kill(os.getpid(), number)
        return real(self, epoch, *more, **options)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(train.Training, where, interrupted)
        run("--epochs 3 --metrics")
    assert stop.value.code == 128 + number
    out, error = capsys.readouterr()
    assert "with --resume continues in" in out and error == f"train.py: stopped by {number.name}\n"
    folder = run.folder
    assert not list(folder.glob(f".*{utils.PARTIAL}")) and not (folder / runs.LOCK).exists()
    _, content = newest_checkpoint(folder)
    assert content["epoch"] == (2 if where == "epoch" else 1)
    run("--epochs 3 --metrics --resume")
    resumed = contents(folder)
    run("--epochs 3 --metrics --overwrite")
    assert_same(resumed, contents(folder))


@pytest.mark.parametrize("line", ["train.py", "test.py --models_dir x", "run_train_and_test.py"])
def test_a_stop_while_torch_is_imported_is_one_line(tmp_path, line):
    script, *words = line.split()
    (tmp_path / "torch.py").write_text(
        f"import pathlib, time; pathlib.Path('{tmp_path}/here').touch(); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, ROOT / script, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    wait_until((tmp_path / "here").exists)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and error == f"{script}: stopped by SIGINT\n"


def full_disk(monkeypatch, after):
    """From the `after`-th file on, writing fails as it does on a full disk."""
    written = []
    real = os.fsync

    def fsync(handle):
        written.append(handle)
        if len(written) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("after", [3, 10])
def test_full_disk_costs_an_epoch_and_one_line(run, tmp_path, monkeypatch, capsys, after):
    extra = "--save_freq 1 --metrics"
    folder = run(f"{extra} --epochs 3")
    expected = contents(folder)
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        with pytest.raises(SystemExit) as stop:
            run(f"{extra} --epochs 3 --overwrite")
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and error.count("\n") == 1
    assert not list(folder.glob(f".*{utils.PARTIAL}"))
    for path in runs.checkpoints_in(folder).values():
        checkpoints.load(path)
    run(f"{extra} --epochs 3 --resume")
    assert_same(expected, contents(folder))


@pytest.mark.parametrize("words", ["train --dir file", "test --models_dir . --save_path file/x"])
def test_a_file_in_the_place_of_a_folder_is_one_line(run, capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    script, *line = words.split()
    if script == "test":
        monkeypatch.chdir(run("--epochs 1"))
        (run.folder / "file").write_text("")
    main, base = {"train": (train.main, TINY.split()), "test": (test_script.main, [])}[script]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*base, *line])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "file" in error


def test_litter_of_the_dead_is_removed_and_of_the_living_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = utils.socket.gethostname()
    gone = tmp_path / f".checkpoint-1.pt.{host}.{dead.pid}{utils.PARTIAL}"
    here = tmp_path / f".checkpoint-1.pt.{host}.{os.getpid()}{utils.PARTIAL}"
    elsewhere = tmp_path / f".checkpoint-1.pt.elsewhere.{dead.pid}{utils.PARTIAL}"
    for path in (gone, here, elsewhere):
        path.touch()
    utils.remove_litter(tmp_path)
    assert set(tmp_path.iterdir()) == {here, elsewhere}


def test_damaged_newest_checkpoint_is_passed_over(run, capsys):
    folder = run("--save_freq 1 --epochs 4 --metrics")
    expected = contents(folder)
    path = folder / "checkpoint-4.pt"
    path.unlink()
    path = folder / "checkpoint-3.pt"
    path.write_bytes(path.read_bytes()[:1000])
    run("--save_freq 1 --epochs 4 --metrics --resume")
    assert "passed over" in capsys.readouterr().out
    assert_same(expected, contents(folder))


def test_a_run_stopped_within_an_epoch_goes_on_with_keep(run, monkeypatch):
    """What it goes on from is a whole epoch, however many states within epochs came after it."""
    words = "--epochs 3 --save_freq 1 --save_freq_int 4 --keep 1 --metrics"
    expected = contents(run(words))
    shutil.rmtree(run.folder)
    save = train.Training.save

    def stop(self, epoch, part=0, **more):
        save(self, epoch, part, **more)
        if (epoch, part) == (2, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(train.Training, "save", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(words)
    monkeypatch.undo()
    assert runs.checkpoint_path(run.folder, 2).exists()
    run(f"{words} --resume")
    assert_same(expected, contents(run.folder))


def test_states_within_epochs_alone_are_not_taken_for_an_empty_folder(run, capsys):
    folder = run("--epochs 1 --save_freq_int 2")
    for epoch in (0, 1):
        runs.checkpoint_path(folder, epoch).unlink()
    with pytest.raises(SystemExit):
        run("--epochs 1 --save_freq_int 2 --resume")
    assert "no checkpoint of a whole epoch" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_gone_is_not_replaced_unasked(run):
    folder = run("--epochs 1 --metrics")
    for path in folder.glob("*.pt"):
        path.unlink()
    before = contents(folder)
    for words in ("--epochs 1", "--epochs 1 --lr_init 0.7 --resume"):
        with pytest.raises(SystemExit):
            run(words)
        assert_same(before, contents(folder))
    run("--epochs 1 --metrics --resume")  # the same run is trained again


def test_what_was_measured_of_a_run_that_is_replaced_does_not_stay(run, capsys):
    folder = run("--epochs 1 --metrics")
    (folder / "train-em.npz").write_bytes(b"of the old run")
    run("--epochs 1 --resume_epoch 1 --lr_init 0.2")
    with pytest.raises(SystemExit):
        run("--epochs 1 --lr_init 0.3 --overwrite")
    assert "has branches" in capsys.readouterr().err
    shutil.rmtree(next(folder.glob("branch-*")))
    run("--epochs 1 --lr_init 0.3 --overwrite")
    assert not (*folder.glob("*.npz"),)


def test_a_complete_metrics_file_is_replaced_by_a_complete_one_alone(run, monkeypatch, capsys):
    folder = run("--epochs 2 --save_freq 1 --metrics")
    before = (folder / "train-tm.npz").read_bytes()
    words = f"--models_dir {folder} --train_mode --eval_model --gpu -1".split()
    load, loaded = checkpoints.load, []

    def stop(path):
        if loaded:
            raise KeyboardInterrupt
        loaded.append(path)
        return load(path)

    monkeypatch.setattr(checkpoints, "load", stop)
    monkeypatch.setattr(test_script, "WRITE_EVERY", -1)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        test_script.main(words)
    monkeypatch.undo()
    assert (folder / "train-tm.npz").read_bytes() == before
    runs.checkpoint_path(folder, 1).unlink()
    with pytest.raises(SystemExit):
        test_script.main(words)
    assert "1 epoch whose checkpoints are gone" in capsys.readouterr().err
    assert (folder / "train-tm.npz").read_bytes() == before
    test_script.main([*words, "--calc_grads", "--update"])
    assert runs.Metrics.read(folder / "train-tm.npz").rows.keys() == {0, 1, 2}


def test_epochs_that_the_log_has_lost_are_counted(run, capsys):
    run("--epochs 2")
    (run.folder / "log.csv").write_bytes(b"")
    run("--epochs 3 --resume")
    assert "lacks 2 of the epochs up to 2" in capsys.readouterr().out


def test_damaged_checkpoints_are_passed_over_while_one_can_be_measured(run, capsys):
    folder = run("--save_freq 1 --epochs 2")
    found = runs.checkpoints_in(folder)
    found[1, 0].write_bytes(found[1, 0].read_bytes()[:1000])
    words = f"--models_dir {folder} --gpu -1".split()
    test_script.main(words)
    assert "checkpoint-1.pt" in capsys.readouterr().out
    assert list(runs.Metrics.read(folder / "train-em.npz").rows) == [0, 2]
    for path in found.values():
        path.write_bytes(b"damaged")
    with pytest.raises(SystemExit) as stop:
        test_script.main([*words, "--eval_model", "--update"])
    assert stop.value.code == 2
    assert f"none of the 3 checkpoints in {folder} can be read" in capsys.readouterr().err


def test_measuring_stopped_in_the_middle_keeps_what_it_had(run, monkeypatch):
    folder = run("--save_freq 1 --epochs 3")
    words = f"--models_dir {folder} --save_path {folder}/x.npz --gpu -1 --eval_model".split()
    real, calls = checkpoints.load, []

    def load(path):
        calls.append(path)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "load", load)
        with pytest.raises(SystemExit) as stop:
            test_script.main(words)
    assert stop.value.code == 128 + signal.SIGTERM
    assert list(runs.Metrics.read(folder / "x.npz").rows) == [0, 1]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "load", lambda p: calls.append(p) or real(p))
        calls.clear()
        test_script.main([*words, "--update"])
    assert [path.name for path in calls] == ["checkpoint-2.pt", "checkpoint-3.pt"]


def test_a_second_process_is_refused_while_the_first_lives(run, capsys, tmp_path):
    folder = runs.trial_folder(tmp_path / "run", 0)
    with utils.locked(folder / runs.LOCK, "run"), pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    (folder / runs.LOCK).write_text("process 1 on nowhere")  # a stale one stops nobody
    run()


DIVERGING = TINY.replace("--lr_init 0.1", "--lr_init 1e30").replace("--noninvlr 0", "--noninvlr -1")


def test_divergence_is_recorded_and_stops_the_line(run, capsys):
    def stopped(extra):
        with pytest.raises(SystemExit) as stop:
            run(f"--epochs 5 --save_freq 2 --metrics {extra}", base=DIVERGING)
        assert stop.value.code == runs.DIVERGED_STATUS
        assert "diverged" in capsys.readouterr().out

    stopped("")
    assert list(runs.checkpoints_in(run.folder)) == [(0, 0), (1, 0)]
    stopped("--resume")
    folder, rows = run.folder, runs.read_log(run.folder)
    assert len(rows) == 1 and not math.isfinite(rows[0]["train_loss"])
    with np.load(folder / "train-tm.npz") as file:
        assert not np.isfinite(file["loss"][1:]).any() and np.isfinite(file["loss"][0])
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_script.Meter, "measure", lambda self: calls.append(1) or {})
        test_script.main(
            f"--models_dir {folder} --save_path {folder}/train-tm.npz --update --train_mode "
            "--eval_model --gpu -1".split()
        )
    assert not calls  # NaN is a result, not a gap


def test_a_diverged_run_says_what_is_measured_and_can_be_measured_later(run, capsys):
    def stopped(extra):
        with pytest.raises(SystemExit) as stop:
            run(f"--epochs 5 --save_freq 2 {extra}", base=DIVERGING)
        assert stop.value.code == runs.DIVERGED_STATUS
        return capsys.readouterr().out

    for extra in ("", "--resume"):
        assert "saved; --resume --metrics measures them" in stopped(extra)
    log = runs.read_log(run.folder)
    for extra in ("--resume --metrics", "--resume --metrics", "--resume"):
        assert "saved and measured" in stopped(extra)
    for name in runs.METRICS:
        assert list(runs.Metrics.read(run.folder / f"{name}.npz").rows) == [0, 1]
    assert len(runs.read_log(run.folder)) == len(log) == 1


def test_metrics_without_a_test_set_are_refused_before_anything_is_written(run, tmp_path, capsys):
    for label, name in enumerate("abab"):
        path = tmp_path / "data" / "train" / name / f"{label}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (60 * label, 0, 0)).save(path)
    words = f"--dataset ImageFolder --data_path {tmp_path}/data --epochs 1"
    base = TINY.replace("--use_data_size 200", "").replace("--use_test", "")
    with pytest.raises(SystemExit) as stop:
        run(f"{words} --metrics", base=base)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "which is needed for --use_test and --metrics" in error
    assert not run.folder.exists()
    run(words, base=base)
    assert (run.folder / "checkpoint-1.pt").exists()


def test_curvature_of_a_diverged_network_is_nan(run):
    with pytest.raises(SystemExit):
        run("--epochs 1 --save_freq 1", base=DIVERGING)
    folder = run.folder
    test_script.main(
        f"--models_dir {folder} --save_path {folder}/x.npz --hess_evals --hess_trace "
        "--prebn_only --train_mode --eval_on_random_subset 20 --gpu -1".split()
    )
    with np.load(folder / "x.npz") as file:
        assert np.isnan(file["hess_evals"][1]).all() and np.isnan(file["hess_trace"][1])
