"""Lines are run in order, shared out to the cores, and finished only when all is measured."""

import argparse
import os
import socket
import sys

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


# --- its state ---


@pytest.mark.parametrize("note, queued, state", [
    ({"state": "queued", "job": "7_1"}, {"7_1": "PENDING"}, "queued"),
    ({"state": "running", "job": "7_1"}, {"7_1": "RUNNING"}, "running"),
    ({"state": "running", "job": "7_1"}, {"7_1": "PENDING"}, "queued"),  # to be run again
    ({"state": "queued", "job": "7_1"}, {"7_1": "RUNNING"}, "queued"),  # has not begun yet
    ({"state": "running", "job": "7_1"}, {"8_1": "RUNNING"}, "failed"),  # killed
    ({"state": "running", "job": "7_1"}, None, "running"),  # SLURM does not answer
    ({"state": "running", "host": "elsewhere", "process": 1}, None, "running"),
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
