"""Lines are run in order, shared out to the cores, and finished only when all is measured."""

import argparse
import os
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import runs
from experiments import Experiment, local, queue, status
from experiments.lines import Line, is_finished, lines_of
from experiments.runner import LineRunner
from utils import UserError

SMALL = Experiment(
    "x", "", dataset="Digits", lrs=(0.5,),
    params={"epochs": 4, "save_freq": 2, "metrics": True, "gpu": -1},
)  # fmt: skip


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A line in a folder of its own, before anything is run."""
    monkeypatch.chdir(tmp_path)
    return lines_of(SMALL)[0]


# --- when a line is finished ---


def leave(line, epochs=(0, 2, 4), measured=(0, 2, 4), losses=(1, 1, 1, 1), **config):
    """What a run of the line leaves: empty checkpoints, metrics, a log."""
    runs.write_config(line.folder, {**vars(line.options), **config})
    for epoch in epochs:
        runs.checkpoint_path(line.folder, epoch).touch()
    for name in runs.METRICS:
        runs.Metrics({e: {"loss": 1.0} for e in measured}).write(line.folder / f"{name}.npz")
    rows = [{"epoch": i, "train_loss": loss, "test_acc": 0.5, "seconds": 2.0}
            for i, loss in enumerate(losses, 1)]  # fmt: skip
    runs.write_log(line.folder, rows)


def test_a_line_is_finished_when_its_last_checkpoint_is_measured(line):
    assert not is_finished(line)
    leave(line)
    assert is_finished(line)
    assert status.state_of(line, None) == "done"


@pytest.mark.parametrize("state", [
    {"epochs": (0, 2), "measured": (0, 2)},  # not at its end
    {"measured": (0, 2)},  # the last one is not measured
    {"measured": (0, 4)},  # one in the middle
    {"measured": (2, 4)},
])  # fmt: skip
def test_a_line_of_which_something_is_missing_is_not_finished(line, state):
    leave(line, **state)
    assert not is_finished(line)
    assert queue.to_do([line]) == [line]


@pytest.mark.parametrize("name", runs.METRICS)
def test_a_line_without_one_of_its_files_is_not_finished(line, name):
    leave(line)
    (line.folder / f"{name}.npz").unlink()
    assert not is_finished(line)
    (line.folder / f"{name}.npz").write_bytes(b"damaged")
    assert not is_finished(line)


def test_a_diverged_line_ends_where_it_diverged(line):
    leave(line, (0, 2), (0, 2), (1, float("inf")))
    assert is_finished(line) and status.state_of(line, None) == "diverged"
    leave(line, (0, 2), (0,), (1, float("inf")))
    assert not is_finished(line)


def test_another_run_in_the_folder_is_not_this_line(line):
    leave(line, wd=0.5)
    with pytest.raises(UserError, match="wd"):
        is_finished(line)
    assert status.state_of(line, None) == "another run is there"


# --- running one ---


def scripted(tmp_path, **bodies):
    """A line whose commands are these Python texts."""
    commands = {}
    for step, body in bodies.items():
        path = tmp_path / f"{step}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(body)
        commands[step] = [str(path), "--word"]
    folder = tmp_path / "run" / "trial_0"
    folder.mkdir(parents=True)
    return Line("it", folder, argparse.Namespace(epochs=1, save_freq=1), commands)


NOTE = "import os, pathlib, sys; print(sys.argv[1:], os.environ['OMP_NUM_THREADS'])"


def test_commands_run_in_order_and_their_output_is_kept(tmp_path, capsys):
    line = scripted(tmp_path, first=NOTE, second=NOTE)
    runner = LineRunner(line, threads=3)
    runner.run()
    assert runner.failed is None and not runner.diverged
    assert runs.read_state(line.folder) == {
        "state": "done", "host": socket.gethostname(), "process": os.getpid(), "job": None,
    }  # fmt: skip
    for step in ("first", "second"):
        first, second = line.log(step).read_text().splitlines()
        assert first.startswith("$ python ") and second == "['--word'] 3"
    assert capsys.readouterr().out.count("[it] ['--word'] 3") == 2


@pytest.mark.parametrize("status_of_first, second_runs, state", [
    (0, True, "done"), (1, False, "failed"), (2, False, "failed"), (3, True, "done"),
])  # fmt: skip
def test_what_follows_a_failed_command_is_not_run(tmp_path, status_of_first, second_runs, state):
    """But what follows divergence, the status 3 of train.py, is: it is a result."""
    body = f"import sys; sys.exit({status_of_first})"
    line = scripted(tmp_path, train=body, second=f"open({str(tmp_path / 'ran')!r}, 'w')")
    runner = LineRunner(line)
    runner.run()
    assert (tmp_path / "ran").exists() == second_runs
    assert runner.failed == (None if second_runs else "train")
    assert runner.diverged == (status_of_first == 3)
    note = runs.read_state(line.folder)
    assert note["state"] == state and note.get("step") == (None if second_runs else "train")


@pytest.mark.parametrize("measured", [True, False])
def test_what_train_py_has_measured_is_not_measured_again(tmp_path, measured):
    line = scripted(tmp_path, train="", second=f"open({str(tmp_path / 'ran')!r}, 'w')")
    for name in runs.METRICS[: None if measured else 2]:
        runs.Metrics({0: {"loss": 1.0}}).write(line.folder / f"{name}.npz")
    runs.checkpoint_path(line.folder, 0).touch()
    LineRunner(line).run()
    assert (tmp_path / "ran").exists() == (not measured)


def test_only_training_diverges(tmp_path):
    line = scripted(tmp_path, other="import sys; sys.exit(3)")
    runner = LineRunner(line)
    runner.run()
    assert runner.failed == "other" and not runner.diverged


@pytest.mark.parametrize("jobs, lines, cores, threads", [
    (1, 3, 8, None), (2, 3, 8, "4"), (3, 3, 8, "2"), (9, 3, 8, "2"),
    (4, 9, 2, "1"), (5, 1, 8, None),
])  # fmt: skip
def test_lines_that_run_at_once_share_the_cores(line, monkeypatch, jobs, lines, cores, threads):
    monkeypatch.setattr(local, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    pool = local.Pool([line] * lines, jobs)
    assert pool.jobs == min(jobs, lines)
    assert {r.environment.get("OMP_NUM_THREADS") for r in pool.runners} == {threads}


def test_a_failed_line_is_the_status_of_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(local, "say_cost", lambda lines, gpu: None)
    monkeypatch.setattr(local, "to_do", list)
    monkeypatch.setitem(sys.modules, "figures", argparse.Namespace(report=lambda folder: None))
    good = scripted(tmp_path / "a", train="")
    bad = scripted(tmp_path / "b", train="raise SystemExit(1)")
    assert local.run_here(SMALL, [good], 1) == 0
    assert local.run_here(SMALL, [good, bad], 2) == 1
    assert f"train failed: {bad.log('train')}" in capsys.readouterr().out


def test_a_line_that_is_stopped_ends_its_command_in_good_order(tmp_path, capsys):
    """Its second command does not run, and the next call goes on in the same log."""
    body = (
        "import sys, time\ntry:\n    print('begun', flush=True)\n    time.sleep(30)\n"
        "except KeyboardInterrupt:\n    print('tidied', file=sys.stderr)\n    sys.exit(130)\n"
    )
    line = scripted(tmp_path, train=body, second=f"open({str(tmp_path / 'ran')!r}, 'w')")
    runner = LineRunner(line)
    thread = threading.Thread(target=runner.run)
    thread.start()
    while "begun" not in (line.log("train").read_text() if line.log("train").exists() else ""):
        time.sleep(0.01)
    runner.stop()
    thread.join()
    assert runs.read_state(line.folder)["state"] == "stopped" and runner.failed is None
    assert line.log("train").read_text().splitlines()[1:] == ["begun", "tidied"]
    (tmp_path / "train.py").write_text("")
    LineRunner(line).run()
    text = line.log("train").read_text()
    assert text.count("$ python") == 2 and "tidied" in text and (tmp_path / "ran").exists()


def test_the_time_left_is_shared_by_the_lines_at_once(line, monkeypatch, capsys):
    runs.write_log(line.folder, [{"epoch": e, "seconds": 3.0} for e in (1, 2)])
    monkeypatch.setattr(local.cost, "in_epochs", lambda line, left: 100)
    pool = local.Pool([line] * 4, 2)
    monkeypatch.setattr(pool.over, "wait", lambda seconds: False)
    pool._estimate()
    assert "about 10 min to train and measure 4 lines: 3.00 s" in capsys.readouterr().out


def test_divergence_and_failures_are_said_after_the_figure(tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(local, "say_cost", lambda lines, gpu: None)
    monkeypatch.setattr(local, "to_do", list)
    stub = argparse.Namespace(report=lambda folders: drawn.append(folders))
    monkeypatch.setitem(sys.modules, "figures", stub)
    away = scripted(tmp_path / "a", train="raise SystemExit(3)")
    bad = scripted(tmp_path / "b", train="raise SystemExit(1)")
    assert local.run_here(SMALL, [away, bad], 2) == 1
    assert f"diverged: {away.log('train')}" in capsys.readouterr().out
    assert drawn == [[Path("Experiments/x")]]
    assert local.run_here(SMALL, [bad], 1) == 1 and len(drawn) == 1  # nothing to draw


# --- which are to be run ---


@pytest.mark.parametrize("shown, status_of_squeue, queued", [
    ("7_1 RUNNING", 0, {"7_1": "RUNNING"}), ("", 0, {}), ("7_1 RUNNING", 1, None),
])  # fmt: skip
def test_the_queue_is_what_slurm_says(tmp_path, monkeypatch, shown, status_of_squeue, queued):
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\necho {shown}\nexit {status_of_squeue}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert queue.squeue() == queued


def test_neither_finished_lines_nor_jobs_are_to_be_run(line, monkeypatch, capsys):
    assert queue.to_do([line]) == [line]
    runs.write_state(line.folder, {"state": "running", "job": "7_1"})
    for jobs, todo in (({"7_1": "RUNNING"}, []), ({"8_1": "RUNNING"}, [line]), (None, [line])):
        monkeypatch.setattr(queue, "squeue", lambda jobs=jobs: jobs)
        assert queue.to_do([line]) == todo
    assert "is job 7_1 already: running" in capsys.readouterr().out
    leave(line)
    assert queue.to_do([line]) == [] and "is finished" in capsys.readouterr().out


def test_commands_measure_as_precisely_as_asked_and_add_to_the_files():
    params = {**SMALL.params, "metrics_precision": "tf32"}
    (made,) = lines_of(Experiment("x", "", dataset="Digits", params=params))
    for words in made.commands.values():
        assert words[words.index("--metrics_precision") + 1] == "tf32"
    assert all("--update" in made.commands[name] for name in ("train-tm", "test-em"))


# --- its state ---


def test_the_row_of_a_line_has_its_error_and_the_usual_time_of_an_epoch(line):
    usual = {"train_loss": 1.0, "test_acc": 0.75, "si_norm": 5.0, "seconds": 1.0}
    rows = [{"epoch": e, **usual} for e in (1, 2)]
    runs.write_log(line.folder, [*rows, {**rows[0], "epoch": 3, "seconds": 99.0}])
    left = 1 + 3 * (1 + 297 / 1500 / 3)  # an epoch, and the metrics of three checkpoints
    assert status.row(line, None)[2:] == ["3/4", "1", "25.00", "0", "", "1.00", f"{left:.1f} s"]


@pytest.mark.parametrize("note, queued, state", [
    ({"state": "queued", "job": "7_1"}, {"7_1": "PENDING"}, "queued"),
    ({"state": "running", "job": "7_1"}, {"7_1": "RUNNING"}, "running"),
    ({"state": "running", "job": "7_1"}, {"7_1": "PENDING"}, "queued"),  # to be run again
    ({"state": "queued", "job": "7_1"}, {"7_1": "RUNNING"}, "queued"),  # has not begun yet
    ({"state": "running", "job": "7_1"}, {"8_1": "RUNNING"}, "failed"),  # killed
    ({"state": "running", "job": "7_1"}, None, "running"),  # SLURM does not answer
    ({"state": "running", "host": "elsewhere", "process": 10**9}, None, "running"),
    ({"state": "failed", "step": "train"}, None, "failed"),
    ({"state": "stopped"}, None, "stopped"),
    ({"state": "done"}, None, "stopped"),  # but not finished
])  # fmt: skip
def test_the_state_of_a_line_is_what_its_note_and_the_queue_say(line, note, queued, state):
    runs.write_state(line.folder, {"host": socket.gethostname(), "process": os.getpid(), **note})
    assert status.state_of(line, queued) == state


def test_a_line_without_a_note_is_judged_by_its_log(line):
    assert status.state_of(line, None) == "not started"
    runs.write_log(line.folder, [{"epoch": 1, "train_loss": 1.0, "seconds": 1.0}])
    assert status.state_of(line, None) == "stopped"


@pytest.mark.parametrize("changed, message", [
    ({"lrs": (0.1, 0.1)}, "share the folder Experiments/x/lr_0.1"),
    ({"add_params": "--trial '1"}, "add_params --trial '1: No closing quotation"),
])  # fmt: skip
def test_lines_that_cannot_be_are_refused(changed, message):
    with pytest.raises(UserError, match=message):
        lines_of(replace(SMALL, **changed))
