"""Runs the lines of an experiment as jobs of a SLURM cluster."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

import runs
from experiments.lines import ROOT, Line
from experiments.runner import SCRIPTS, LineRunner
from experiments.setting import Experiment
from experiments.status import print_cost, squeue, to_do
from utils import UserError, plural

KILLED_RESTARTS = 10  # of a job whose processes were killed, before it counts as failed
# In the batch script after srun: requeue a job whose processes were killed by a signal. It
# continues from what it has saved. (submitit itself requeues at a time-out or a pre-emption.)
REQUEUE_KILLED = (
    "code=$?",
    "if [ $code -gt 128 ] && [ $code -lt 160 ] && "
    f'[ "${{SLURM_RESTART_COUNT:-0}}" -lt {KILLED_RESTARTS} ]; then',
    "  scontrol requeue $SLURM_JOB_ID",
    "  sleep 60  # until the requeueing ends this script",
    "fi",
    "exit $code",
)


def key_values(text: str) -> dict[str, str]:
    """name=value pairs, separated by commas; a value may hold commas, as in nodelist=a,b. Raises
    ValueError if it is not of this form."""
    pairs = [part.partition("=") for part in re.split(",(?=[^,]*=)", text)] if text else []
    if not all(name and separator for name, separator, _ in pairs):
        raise ValueError(f"{text!r} is not name=value,name=value")
    return {name.removeprefix("--"): value for name, _, value in pairs}


class SlurmJob:
    """What submitit calls on a node; `checkpoint` when the job has to leave the node."""

    def __init__(self):
        self.runner: LineRunner | None = None

    def __call__(self, line: Line) -> None:
        cpus = os.environ.get("SLURM_CPUS_PER_TASK")
        self.runner = LineRunner(line, int(cpus) if cpus else None, job_number())
        self.runner.run()
        if self.runner.failed:
            raise RuntimeError(self.runner.failed)

    def checkpoint(self, line: Line):
        """At a time-out or a pre-emption: stop the line and return what the next job calls."""
        from submitit.helpers import DelayedSubmission

        if self.runner is not None:
            self.runner.stop()
        runs.write_state(line.folder, {"state": "queued", "job": job_number()})
        return DelayedSubmission(SlurmJob(), line)


def job_number() -> str:
    """The number of the job that this process belongs to, as squeue shows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def job_options(text: str) -> dict[str, Any]:
    """What submitit is told about each job, from options of sbatch as `key_values` reads them.
    "time" is in minutes (default 240); "cpus-per-task" is 4 by default. Raises UserError if one of
    the two is not a whole number, there is no SLURM here, or it refuses such jobs."""
    more = {name.replace("_", "-"): value for name, value in key_values(text).items()}
    minutes, cpus = more.pop("time", "240"), more.pop("cpus-per-task", "4")
    if not (minutes.isdecimal() and cpus.isdecimal()):
        raise UserError("--sbatch time=240,cpus-per-task=4: minutes and cores are whole numbers")
    if squeue() is None:
        raise UserError("--launcher slurm needs a SLURM cluster: squeue is not here or fails")
    words = [f"--{name}={value}" for name, value in more.items()]
    words += [f"--time={minutes}", f"--cpus-per-task={cpus}", "--wrap=true"]
    tried = subprocess.run(["sbatch", "--test-only", *words], capture_output=True, text=True)
    if tried.returncode:
        raise UserError(refusal(tried.stderr))
    return {"time": int(minutes), "cpus_per_task": int(cpus), "additional_parameters": more}


def refusal(output: str) -> str:
    """Why SLURM refuses jobs, from the output of sbatch."""
    said = [line for line in output.splitlines() if line.startswith("sbatch: ")]
    message = said[0].removeprefix("sbatch: ").removeprefix("error: ") if said else output.strip()
    return f"SLURM refused the jobs: {message}"


def submit(
    experiment: Experiment, lines: Sequence[Line], parallel: int, options: dict[str, Any]
) -> None:
    """Submit the unfinished lines that are not in the queue yet as one job array, of which
    `parallel` run at once. Raises UserError with SLURM's message if it refuses them."""
    todo = to_do(lines)
    if not todo:
        return
    on_gpu = any(name.startswith(("gpus", "gres")) for name in options["additional_parameters"])
    print_cost(todo, gpu=on_gpu)
    import submitit  # imported here because few need it

    folder = (ROOT / experiment.name / "slurm").resolve()
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=10**6)
    executor.update_parameters(
        **options,
        job_name=experiment.name,
        array_parallelism=parallel,
        stderr_to_stdout=True,
        setup=[f"export PYTHONPATH={shlex.quote(str(SCRIPTS))}:$PYTHONPATH"],
        teardown=list(REQUEUE_KILLED),
    )
    # Recorded before the jobs exist, because a job may start before map_array returns.
    for line in todo:
        runs.write_state(line.folder, {"state": "queued", "job": None})
    try:
        jobs = executor.map_array(SlurmJob(), todo)
    except submitit.core.utils.FailedJobError as error:
        for line in todo:
            (line.folder / runs.STATE).unlink(missing_ok=True)
        raise UserError(refusal(str(error))) from None
    for line, job in zip(todo, jobs, strict=True):
        if runs.read_state(line.folder)["state"] == "queued":
            runs.write_state(line.folder, {"state": "queued", "job": job.job_id})
        print(f"[{line.name}] is job {job.job_id}")
    print(f"{plural(len(todo), 'job')} submitted; output: {folder}; progress: --status")
