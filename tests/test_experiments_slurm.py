"""Jobs of SLURM: killed, pre-empted and cancelled ones end with the bits of a local run."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import ROOT
from processes import wait_until
from torch.testing import assert_close

import run_train_and_test
import runs
from experiments import EXPERIMENTS, Experiment, local, status
from experiments import slurm as cluster_jobs
from experiments.lines import Line, lines_of
from experiments.setting import PAPER, rates
from runs import checkpoints
from utils import UserError

PROGRAMS = ("sbatch", "sinfo", "squeue", "scancel", "scontrol", "slurmctld", "munged")
START = ROOT / "tests" / "slurm-up"
SMALL = replace(PAPER, dataset="Digits", num_channels=2, use_data_size=256, gpu=-1, epochs=24)
EXPERIMENT = Experiment("jobs", "", SMALL, rates((0.5, 0.1, 0.2)))
ONE_CORE = "cpus-per-task=1,time=30"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if not all(map(shutil.which, PROGRAMS)):
        pytest.skip("SLURM is not installed here")
    if subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        yield
        return
    if not START.exists() or os.geteuid() != 0:
        pytest.skip("no SLURM is running here, and none can be started without root and slurm-up")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([START, folder], capture_output=True, text=True)
    if started.returncode != 0:
        pytest.skip(f"SLURM did not start: {started.stderr.strip()[-200:]}")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield
    subprocess.run([START.with_name("slurm-down"), folder], capture_output=True)
    del os.environ["SLURM_CONF"]


def call(*words):
    subprocess.run(words, capture_output=True, check=True)


def final(line):
    return checkpoints.load(runs.checkpoint_path(line.folder, line.options.epochs))["state_dict"]


def submit(lines, *more):
    options = cluster_jobs.job_options(",".join([ONE_CORE, *more]))
    cluster_jobs.submit(EXPERIMENT, lines, 3, options)


def state(line):
    return status.state_of(line, status.squeue())


def test_killed_preempted_and_cancelled_jobs(slurm, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert local.run_here(EXPERIMENT, lines_of(EXPERIMENT), 1) == 0
    expected = [final(line) for line in lines_of(EXPERIMENT)]

    monkeypatch.chdir(tmp_path)
    killed, preempted, cancelled = lines = lines_of(EXPERIMENT)
    submit(lines)
    jobs = [runs.read_state(line.folder)["job"] for line in lines]
    assert all(jobs) and "3 jobs submitted" in capsys.readouterr().out

    wait_until(lambda: len(runs.read_log(killed.folder)) > 3)
    assert state(killed) == "running"
    os.kill(runs.read_state(killed.folder)["process"], signal.SIGKILL)
    wait_until(lambda: len(runs.read_log(preempted.folder)) > 3)
    call("scancel", "--signal=USR2", jobs[1])  # SLURM's warning before time-out and pre-emption
    wait_until(lambda: len(runs.read_log(cancelled.folder)) > 3)
    call("scancel", "--signal=KILL", jobs[2])
    wait_until(lambda: jobs[2] not in status.squeue())
    assert state(cancelled) == "failed"
    for line, job in ((killed, jobs[0]), (preempted, jobs[1])):
        wait_until(lambda line=line: state(line) == "queued")
        assert len(runs.read_log(line.folder)) < line.options.epochs
        call("scontrol", "update", f"jobid={job}", "StartTime=now")  # not in two minutes

    submit(lines)
    out = capsys.readouterr().out
    assert out.count("already") == 2 and "1 job submitted" in out
    wait_until(lambda: [state(line) for line in lines] == ["done"] * 3)
    assert "3 done" in status.table(lines)
    for line, weights in zip(lines, expected, strict=True):
        assert_close(final(line), weights, rtol=0, atol=0)
    submit(lines)
    assert capsys.readouterr().out.count("is finished") == 3


def test_waiting_tasks_are_queued_and_refused_jobs_are_not_started(slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = lines_of(EXPERIMENT)
    with pytest.raises(UserError, match="invalid partition"):
        submit(lines, "partition=nowhere")
    assert {state(line) for line in lines} == {"not started"}
    submit(lines, "begin=now+1hour")
    assert {state(line) for line in lines} == {"queued"}
    call("scancel", runs.read_state(lines[0].folder)["job"].partition("_")[0])


def test_the_number_of_a_job_is_that_of_its_task(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    assert cluster_jobs.job_number() == "7_3"
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    assert cluster_jobs.job_number() == "12"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script in the place of a program of SLURM. No jobs are in the queue at first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def put(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    put("squeue", "exit 0")
    return put


def test_the_queue_is_what_slurm_says(program):
    """Task by task: SLURM shows the pending ones of an array as one row unless asked."""
    script = """case "$*" in
        *--array*) echo 7_0 RUNNING; echo 7_1 PENDING;; *) echo '7_[0-1] PENDING';;
        esac"""
    program("squeue", script)
    assert status.squeue() == {"7_0": "RUNNING", "7_1": "PENDING"}
    program("squeue", f"{script}; exit 1")
    assert status.squeue() is None


def test_jobs_that_slurm_would_refuse_cost_no_run(tmp_path, program):
    program("sbatch", """echo "$@" > asked
        echo sbatch: error: invalid partition specified: nowhere >&2; exit 1""")  # fmt: skip
    line = lines_of(EXPERIMENTS["demo"])[0]
    runs.write_config(line.folder, {"lr_init": 0.1})
    words = "--experiment demo --overwrite --launcher slurm --sbatch"
    with pytest.raises(UserError, match="refused the jobs: invalid partition specified: nowhere"):
        run_train_and_test.main([*words.split(), "partition=nowhere,nodelist=a,b,time=5"])
    assert (line.folder / runs.CONFIG).exists()
    named = "--partition=nowhere --nodelist=a,b --time=5 --cpus-per-task=4"
    assert (tmp_path / "asked").read_text() == f"--test-only {named} --wrap=true\n"


def test_lines_are_noted_before_their_jobs_and_failed_ones_fail(program, monkeypatch, capsys):
    lines, asked = lines_of(EXPERIMENT), {}

    def map_array(call, todo):
        assert [runs.read_state(line.folder)["state"] for line in todo] == ["queued"] * 3
        runs.write_state(todo[0].folder, {"state": "running", "job": "7_0"})  # at once
        return [SimpleNamespace(job_id=f"7_{i}") for i in range(3)]

    executor = SimpleNamespace(update_parameters=asked.update, map_array=map_array)
    submitit = SimpleNamespace(SlurmExecutor=lambda **_: executor)
    monkeypatch.setitem(sys.modules, "submitit", submitit)
    program("sbatch", "exit 0")
    submit(lines, "partition=main,gpus_per_node=2")
    assert "3 lines: GPU time unknown" in capsys.readouterr().out
    notes = [runs.read_state(line.folder) for line in lines]
    assert [note["state"] for note in notes] == ["running", "queued", "queued"]
    assert [note["job"] for note in notes] == ["7_0", "7_1", "7_2"]
    assert (asked["time"], asked["cpus_per_task"], asked["array_parallelism"]) == (30, 1, 3)
    assert asked["additional_parameters"] == {"partition": "main", "gpus-per-node": "2"}
    fails = SimpleNamespace(failed="train failed", run=lambda: None)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(cluster_jobs, "LineRunner", lambda *_: fails)
    with pytest.raises(RuntimeError, match="train failed"):
        cluster_jobs.SlurmJob()(lines[0])


def test_when_a_checkpoint_returns_the_command_has_ended(tmp_path, monkeypatch, request):
    """Else the next job might train the line while this one still does."""
    for name, value in {"SLURM_JOB_ID": "12", "SLURM_CPUS_PER_TASK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    (tmp_path / "train.py").write_text(
        "import os, time\nprint(os.environ['OMP_NUM_THREADS'], flush=True)\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: time.sleep(0.5)"
    )
    line = Line("it", tmp_path, None, {"train": [str(tmp_path / "train.py")]})
    job = cluster_jobs.SlurmJob()

    def warned(number, frame):  # as submitit does: it calls checkpoint in the signal's handler
        again = job.checkpoint(line)
        assert job.runner.process.returncode == 0 and runs.read_state(line.folder)["job"] == "12"
        assert isinstance(again.function, cluster_jobs.SlurmJob) and again.args == (line,)
        raise KeyboardInterrupt

    def warn():
        log = line.log("train")
        wait_until(lambda: log.exists() and log.read_text().count("\n") > 1)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, warned)
    request.addfinalizer(lambda: signal.signal(signal.SIGUSR2, before))
    threading.Thread(target=warn).start()
    with pytest.raises(KeyboardInterrupt):
        job(line)
    assert runs.read_state(line.folder)["state"] == "queued"
    assert line.log("train").read_text().splitlines()[1:] == ["3"]
