"""Lines are run in order, shared out to the cores, and finished only when all is measured."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from made_runs import saw
from processes import wait_until

import runs
from experiments import Experiment, local, status
from experiments.lines import Line, is_finished, lines_of
from experiments.runner import LineRunner
from experiments.setting import rates
from options import FROM_RUN, Train, measure_options, train_options
from utils import UserError, is_alive

SMALL = Experiment(
    "x", "", Train(dataset="Digits", epochs=4, save_freq=2, metrics=True, gpu=-1), rates((0.5,))
)


@pytest.fixture
def line(tmp_path, monkeypatch):
    """A line in a folder of its own, before anything is run."""
    monkeypatch.chdir(tmp_path)
    return lines_of(SMALL)[0]


def leave(line, epochs=(0, 2, 4), measured=(0, 2, 4), losses=(1, 1, 1, 1), **config):
    """What a run of the line leaves: empty checkpoints, metrics, a log."""
    runs.write_config(line.folder, {**asdict(line.options), **config})
    for epoch in epochs:
        torch.save({}, runs.checkpoint_path(line.folder, epoch))
    for name in runs.METRICS:
        runs.Metrics({e: {"loss": 1.0} for e in measured}).write(line.folder / f"{name}.npz")
    rows = [{"epoch": i, "train_loss": loss, "test_acc": 0.5, "seconds": 2.0}
            for i, loss in enumerate(losses, 1)]  # fmt: skip
    runs.write_log(line.folder, rows)


@pytest.mark.parametrize("left, state", [
    ({}, "done"),
    ({"epochs": (0, 2), "measured": (0, 2)}, "stopped"),  # not at its end
    ({"measured": (0, 2)}, "stopped"),  # the last one is not measured
    ({"measured": (0, 4)}, "stopped"),  # one in the middle
    ({"measured": (2, 4)}, "stopped"),
    ({"epochs": (0, 2), "measured": (0, 2), "losses": (1, float("inf"))}, "diverged"),
    ({"epochs": (0, 2), "measured": (0,), "losses": (1, float("inf"))}, "stopped"),
])  # fmt: skip
def test_a_line_is_finished_when_all_up_to_its_end_is_measured(line, left, state, capsys):
    assert not is_finished(line)
    leave(line, **left)
    assert status.state_of(line, None) == state
    assert is_finished(line) == (state != "stopped")
    assert status.to_do([line]) == ([line] if state == "stopped" else [])
    assert ("is finished" in capsys.readouterr().out) == (state != "stopped")


def test_a_line_without_a_file_or_with_another_run_is_not_finished(line):
    for path in (line.folder / f"{name}.npz" for name in runs.METRICS):
        for spoil in (Path.unlink, lambda path: path.write_bytes(b"damaged")):
            leave(line)
            spoil(path)
            assert not is_finished(line)
    leave(line, epochs=(0, 6), measured=(0, 2, 4, 6))  # it was longer
    assert is_finished(line)
    leave(line)
    runs.checkpoint_path(line.folder, 6).unlink()
    last = runs.checkpoint_path(line.folder, 4)
    os.truncate(last, last.stat().st_size // 2)
    assert not is_finished(line)
    leave(line, wd=0.5)
    with pytest.raises(UserError, match="wd"):
        is_finished(line)
    assert status.state_of(line, None) == "another run is there"


def scripted(folder, **bodies):
    """A line whose commands are these Python texts."""
    trial = folder / "trial_0"
    trial.mkdir(parents=True)
    commands = {step: [str(folder / f"{step}.py"), "--word"] for step in bodies}
    for step, body in bodies.items():
        Path(commands[step][0]).write_text(body)
    return Line("it", trial, Train(epochs=1, save_freq=1), commands)


def run_line(line, **more):
    runner = LineRunner(line, **more)
    runner.run()
    return runner


def test_commands_run_in_order_and_their_output_is_kept(tmp_path, capsys):
    note = "import os, sys; print(sys.argv[1:], os.environ['OMP_NUM_THREADS'])"
    line = scripted(tmp_path, first=note, second=note)
    assert run_line(line, threads=3).failed is None
    assert runs.read_state(line.folder) == {
        "state": "done", "host": socket.gethostname(), "process": os.getpid(), "job": None,
    }  # fmt: skip
    for step in ("first", "second"):
        first, second = line.log(step).read_text().splitlines()
        assert first.startswith("$ python ") and second == "['--word'] 3"
    assert capsys.readouterr().out.count("[it] ['--word'] 3") == 2


@pytest.mark.parametrize("step, body, how", [
    ("train", "exit(1)", "failed"), ("other", "exit(3)", "failed"),
    ("train", "exit(3)", None),  # diverged: it is measured all the same
    ("train", "import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
])  # fmt: skip
def test_nothing_follows_a_failed_command(tmp_path, capsys, step, body, how):
    line = scripted(tmp_path, **{step: body, "second": ""})
    message = how and f"{step} {how}: {line.log(step)}"
    assert run_line(line).failed == message
    record = runs.read_state(line.folder)
    expected = ("failed", step, False) if how else ("done", None, True)
    assert (record["state"], record.get("step"), line.log("second").exists()) == expected
    assert capsys.readouterr().out == (f"[it] {message}\n" if how else "")


def shown(line):
    return line.log("train").read_text() if line.log("train").exists() else ""


def started(runner):
    """Runs a line in a thread, until its command has printed something."""
    thread = threading.Thread(target=runner.run)
    thread.start()
    wait_until(lambda: shown(runner.line).count("\n") > 1)
    return thread


def test_a_line_that_is_stopped_ends_its_command_in_good_order(tmp_path, request):
    """Also where SIGINT is ignored, as in `nohup python ... &`. Its second command does not run,
    and the next call appends to the same log."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    body = (
        "import sys, time\ntry:\n    print('begun', flush=True)\n    time.sleep(30)\n"
        "except KeyboardInterrupt:\n    print('tidied', file=sys.stderr)\n    sys.exit(130)\n"
    )
    line = scripted(tmp_path, train=body, second="")
    runner = LineRunner(line)
    thread = started(runner)
    runner.stop()
    thread.join(60)
    assert runs.read_state(line.folder)["state"] == "stopped" and runner.failed is None
    assert shown(line).splitlines()[1:] == ["begun", "tidied"] and not line.log("second").exists()
    (tmp_path / "train.py").write_text("")
    run_line(line)
    assert shown(line).count("$ python") == 2 and "tidied" in shown(line)
    assert line.log("second").exists()
    never = LineRunner(scripted(tmp_path / "never", train=""))
    never.stop()
    never.run()
    assert runs.read_state(never.line.folder) is None and not shown(never.line)


# A command that starts a process of its own and prints its number.
FAMILY = """import signal, subprocess, time
{ignore}
print(subprocess.Popen(["sleep", "300"]).pid, flush=True)
time.sleep({seconds})
"""


def child(line):
    return int(shown(line).splitlines()[1])


def is_dead(pid):
    """Ended, or a zombie that nobody has waited for."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True).stdout
    return state[:1] in (b"", b"Z")


@pytest.mark.parametrize("ignore, seconds", [
    ("", 0),  # it ends by itself; else its child, which holds the pipe, would be waited for
    ("", 300), ("signal.signal(signal.SIGINT, signal.SIG_IGN)", 300),
])  # fmt: skip
def test_with_a_command_ends_all_that_it_has_started(tmp_path, monkeypatch, ignore, seconds):
    monkeypatch.setattr("experiments.runner.GRACE", 0.3)
    runner = LineRunner(scripted(tmp_path, train=FAMILY.format(ignore=ignore, seconds=seconds)))
    thread = started(runner)
    if seconds:
        runner.stop()
        assert not is_alive(runner.process.pid)
    thread.join(60)
    wait_until(lambda: is_dead(child(runner.line)))


@pytest.mark.skipif(sys.platform != "linux", reason="uses prctl")
def test_a_command_dies_with_the_process_that_runs_it(tmp_path):
    line = scripted(tmp_path, train=FAMILY.format(ignore="", seconds=300))
    program = (
        "from pathlib import Path; from experiments.lines import Line\n"
        "from experiments.runner import LineRunner\n"
        f"LineRunner(Line('it', Path({str(line.folder)!r}), None, {line.commands})).run()"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_until(lambda: shown(line).count("\n") > 1)
    command = int(subprocess.run(["pgrep", "-P", str(driver.pid)], capture_output=True).stdout)
    driver.kill()
    driver.wait()
    wait_until(lambda: is_dead(command))
    os.kill(child(line), signal.SIGKILL)


@pytest.fixture
def drawn(monkeypatch):
    """What figures would be drawn of; none are, and no cost is estimated."""
    found = []
    monkeypatch.setattr(local, "print_cost", lambda lines, gpu: None)
    figures = SimpleNamespace(report=lambda folders, nested: found.append((folders, nested)))
    monkeypatch.setitem(sys.modules, "figures", figures)
    return found


@pytest.mark.parametrize("jobs, cores, threads", [
    (1, 8, None), (2, 8, "4"), (3, 8, "2"), (4, 2, "1"),
])  # fmt: skip
def test_lines_that_run_at_once_share_the_cores(tmp_path, monkeypatch, jobs, cores, threads):
    monkeypatch.setattr(local, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    runners = local.run_lines([scripted(tmp_path / name, train="") for name in "ab"], jobs)
    assert [r.environment.get("OMP_NUM_THREADS") for r in runners] == [threads] * 2
    assert [runs.read_state(r.line.folder)["state"] for r in runners] == ["done"] * 2


def test_lines_are_stopped_when_their_time_is_over(tmp_path, drawn, capsys, monkeypatch):
    """What has not begun does not begin; the figures of what there is, if any, are drawn."""
    bodies = {"fast": "", "slow": "import time; time.sleep(300)", "never": ""}
    lines = [scripted(tmp_path / name, train=body) for name, body in bodies.items()]
    began = time.monotonic()
    assert local.run_here(SMALL, lines, 1, began + 2) == local.OUT_OF_TIME
    assert time.monotonic() - began < 30 and len(drawn) == 1
    fast, slow, never = (runs.read_state(line.folder) for line in lines)
    assert (fast["state"], slow["state"], never) == ("done", "stopped", None)
    assert "the same command continues" in capsys.readouterr().out

    def nothing(folders, nested):
        raise UserError("there are no measured runs")

    monkeypatch.setattr(sys.modules["figures"], "report", nothing)
    assert local.run_here(SMALL, lines[1:2], 1, time.monotonic()) == local.OUT_OF_TIME


def test_the_exit_status_tells_failed_and_diverged_lines(tmp_path, capsys, drawn):
    good, away, bad = (scripted(tmp_path / str(i), train=f"exit({i})") for i in (0, 3, 1))
    for line, loss in ((good, 1), (away, float("inf")), (bad, 1)):
        runs.write_log(line.folder, [{"epoch": 7, "train_loss": loss}])
    assert local.run_here(SMALL, [good], 1) == 0
    assert local.run_here(SMALL, [good, away], 9) == runs.DIVERGED_STATUS
    assert f"diverged in epoch 7: {away.log('train')}" in capsys.readouterr().out
    assert local.run_here(SMALL, [good, away, bad], 2) == 1
    assert capsys.readouterr().out.endswith(f"[it] train failed: {bad.log('train')}\n")
    assert drawn == [([Path("Experiments/x")], False)] * 3
    assert local.run_here(SMALL, [bad], 1) == 1 and len(drawn) == 3  # nothing to draw


def test_the_estimate_counts_the_start_of_every_line(line, monkeypatch, capsys):
    now = iter((100.0, 111.0))
    monkeypatch.setattr(local.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(local.cost, "in_epochs", lambda line, left: 100)
    rows = [{"epoch": 1, "seconds": 4.0}, {"epoch": 2, "seconds": 3.0}]
    over = SimpleNamespace(wait=lambda _: runs.write_log(line.folder, rows))
    local.print_estimate([line] * 4, 2, over)
    # 4 lines of 100 epochs of 3 s, 2 at once, and 2 more starts of 11 - 7 s
    expected = "about 10 min to train and measure 4 lines: 3.00 s an epoch, 4 s to start"
    assert expected in capsys.readouterr().out


def test_commands_give_the_options_of_the_line_and_add_to_the_files():
    (made,) = lines_of(SMALL)
    assert train_options(made.commands["train"][1:]) == (made.options, [])
    for name in ("train-tm", "test-em"):
        asked, given = measure_options(made.commands[name][1:])
        assert asked.update and asked.gpu == -1 and asked.models_dir == str(made.folder)
        assert not given & {*FROM_RUN}


def test_jobs_in_the_queue_are_not_to_be_run(line, monkeypatch, capsys):
    runs.write_state(line.folder, {"state": "running", "job": "7_1"})
    for jobs, todo in (({"7_1": "RUNNING"}, []), ({"8_1": "RUNNING"}, [line]), (None, [line])):
        monkeypatch.setattr(status, "squeue", lambda jobs=jobs: jobs)
        assert status.to_do([line]) == todo
    assert capsys.readouterr().out == f"[{line.name}] is job 7_1 already: running\n"


@pytest.mark.parametrize("note, queue, state", [
    (None, None, "not started"),
    ({"state": "queued", "job": "7_1"}, {"7_1": "PENDING"}, "queued"),
    ({"state": "running", "job": "7_1"}, {"7_1": "RUNNING"}, "running"),
    ({"state": "running", "job": "7_1"}, {"7_1": "PENDING"}, "queued"),  # to be run again
    ({"state": "queued", "job": "7_1"}, {"7_1": "RUNNING"}, "queued"),  # has not begun yet
    ({"state": "running", "job": "7_1"}, {"8_1": "RUNNING"}, "failed"),  # killed
    ({"state": "running", "job": "7_1"}, None, "running"),  # SLURM does not answer
    ({"state": "running"}, None, "running"),
    ({"state": "running", "process": 2**30}, None, "stopped"),  # killed
    ({"state": "running", "host": "elsewhere", "process": 2**30}, None, "running"),
    ({"state": "failed", "step": "train"}, None, "failed"), ({"state": "stopped"}, None, "stopped"),
    ({"state": "done"}, None, "stopped"),  # but not finished
])  # fmt: skip
def test_the_state_of_a_line_is_what_its_note_and_the_queue_say(line, note, queue, state):
    if note:
        here = {"host": socket.gethostname(), "process": os.getpid()}
        runs.write_state(line.folder, {**here, **note})
    assert status.state_of(line, queue) == state


def test_the_table_of_lines_has_errors_and_the_usual_time_of_an_epoch(line):
    columns = "epoch", "train_loss", "test_acc", "si_norm", "seconds"
    rows = (1, 4.0, 0.5, 5.0, 1.0), (2, 2.0, 0.75, 5.0, 1.0), (3, 1.0, None, 5.0, 99.0)
    runs.write_log(line.folder, [dict(zip(columns, row, strict=True)) for row in rows])
    left = 1 + 3 * (1 + 297 / 1500 / 3)  # an epoch, and the metrics of three checkpoints
    cells = ["stopped", "3/4", "1", "25.00", "0", "", "1.00", f"{left:.1f} s"]
    assert status.row(line, None)[1:] == cells
    assert status.table([line]).endswith("\n\n1 stopped")
    for length, shown in ((100, ["1", ""]), (200, ["3", "0.00"])):  # the CV needs three periods
        at, (loss, rho) = np.arange(1, length + 1), saw(50, length)
        rows = zip(at, loss, 0 * at + 0.5, rho, 0 * at + 1, strict=True)
        runs.write_log(line.folder, [dict(zip(columns, row, strict=True)) for row in rows])
        assert status.row(line, None)[5:7] == shown
