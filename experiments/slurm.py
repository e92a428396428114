"""Runs the lines of an experiment as jobs of a SLURM cluster."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

import runs
from experiments.lines import ROOT, Line
from experiments.queue import say_cost, squeue, to_do
from experiments.runner import SCRIPTS, LineRunner, say
from experiments.setting import Experiment
from utils import UserError, plural

KILLED_RESTARTS = 10  # of a job whose processes were killed, before it counts as failed
# After srun in the batch script: a job whose processes a signal killed is queued again, and goes on
# from what it has saved. (submitit does so itself before a time-out or a pre-emption.)
REQUEUE_KILLED = (
    "code=$?",
    "if [ $code -gt 128 ] && [ $code -lt 160 ] && "
    f'[ "${{SLURM_RESTART_COUNT:-0}}" -lt {KILLED_RESTARTS} ]; then',
    "  scontrol requeue $SLURM_JOB_ID",
    "  sleep 60  # until the requeueing ends this script",
    "fi",
    "exit $code",
)


@dataclass(frozen=True)
class Cluster:
    """What a job asks of SLURM.

    Attributes
    ----------
    partition : None for the cluster's default one.
    gpus, cpus : for each job.
    minutes : its time limit; a job that reaches it is queued again and goes on.
    parallel : jobs that run at once.
    sbatch : further options of sbatch, name -> value.
    """

    partition: str | None
    gpus: int
    cpus: int
    minutes: int
    parallel: int
    sbatch: dict[str, str] = field(default_factory=dict)


class SlurmJob:
    """What submitit calls on a node with a line, and when the node is to be given up."""

    def __init__(self, cpus: int):
        self.cpus = cpus
        self.runner: LineRunner | None = None

    def __call__(self, line: Line) -> None:
        self.runner = LineRunner(line, self.cpus, job_number())
        self.runner.run()
        if self.runner.failed:
            raise RuntimeError(f"{self.runner.failed} failed: {line.log(self.runner.failed)}")

    def checkpoint(self, line: Line):
        """At a time-out or a pre-emption: stop, and say what to call when the job runs again."""
        from submitit.helpers import DelayedSubmission

        if self.runner is not None:
            self.runner.stop()
        runs.write_state(line.folder, {"state": "queued", "job": job_number()})
        return DelayedSubmission(SlurmJob(self.cpus), line)


def job_number() -> str:
    """Of the job that this process is part of, as squeue shows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def submit(experiment: Experiment, lines: Sequence[Line], cluster: Cluster) -> None:
    """Submit the unfinished lines that are not queued or running yet as one job array.

    Raises
    ------
    UserError : there is no SLURM here, or it refuses the job; what it says is passed on.
    """
    if squeue() is None:
        raise UserError("--launcher slurm needs a SLURM cluster: squeue is not here or fails")
    todo = to_do(lines)
    if not todo:
        return
    say_cost(todo, gpu=cluster.gpus > 0)
    import submitit  # only now: few need it

    folder = (ROOT / experiment.name / "slurm").resolve()
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=10**6)
    asked = {"partition": cluster.partition, "gpus_per_node": cluster.gpus or None}
    executor.update_parameters(
        job_name=experiment.name,
        time=cluster.minutes,
        cpus_per_task=cluster.cpus,
        array_parallelism=cluster.parallel,
        stderr_to_stdout=True,
        setup=[f"export PYTHONPATH={shlex.quote(str(SCRIPTS))}:$PYTHONPATH"],
        teardown=list(REQUEUE_KILLED),
        additional_parameters=cluster.sbatch,
        **{key: value for key, value in asked.items() if value is not None},
    )
    # Noted before the jobs exist, because a job may start before submit returns.
    for line in todo:
        runs.write_state(line.folder, {"state": "queued", "job": None})
    try:
        jobs = executor.map_array(SlurmJob(cluster.cpus), todo)
    except submitit.core.utils.FailedJobError as error:
        for line in todo:
            (line.folder / runs.STATE).unlink(missing_ok=True)
        reason = [line for line in str(error).splitlines() if line.startswith("sbatch: error:")]
        words = reason[0].removeprefix("sbatch: error:").strip() if reason else "see above"
        raise UserError(f"SLURM refused the jobs: {words}") from None
    for line, job in zip(todo, jobs, strict=True):
        state = runs.read_state(line.folder)
        if state["state"] == "queued":
            runs.write_state(line.folder, {"state": "queued", "job": job.job_id})
        say(f"[{line.name}] is job {job.job_id}")
    say(f"{plural(len(todo), 'job')} submitted; their output: {folder}; how far they are: --status")
