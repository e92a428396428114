"""What the second regime is good for (P2): start in it and drop the rate, or average its weights.

    python -m claims.second_regime --trials 3 --jobs 2

For every trial, lines of constant effective learning rates (ELR) are trained on the sphere. From
two thirds of each line in chaotic equilibrium on, the run is branched off at every smaller ELR that
converges, and, separately, the weights of its checkpoints from there on are averaged, and the
statistics of batch normalisation estimated anew. The test errors of both are compared with the
best constant ELR: same data, same number of epochs. Written: second_regime.csv and a table.
"""

import csv
import io
import statistics

from tabulate import tabulate
from torch.optim.swa_utils import AveragedModel

import runs
from claims.branches import branch
from command_line import Option, Parser, integer, one_of
from experiments import EXPERIMENTS, IMAGE_FOLDER, Experiment
from experiments.lines import ROOT, check_data, lines_of, run_of, unfinished
from experiments.local import run_here
from measuring import Meter, Wanted
from measuring.rebuild import rebuild, renew_statistics
from runs import checkpoints
from utils import UserError, user_errors, write_atomically

ON_SPHERE = [name for name, e in EXPERIMENTS.items() if e.fix_elr == "fix_elr"]
OPTIONS = (
    Option("--experiment", one_of(ON_SPHERE), "second_regime", "the lines of constant rates"),
    Option("--trials", integer(1), 3, "independent repetitions"),
    Option("--jobs", integer(1), 1, "lines that run at once"),
    IMAGE_FOLDER,
)
LAST = 5  # checkpoints over whose test errors the end of a run is averaged


def end_error(run: runs.Run) -> float:
    """Test error in % at the end of a run: the mean over its last checkpoints."""
    return float(run.curves["test_error"].values[-LAST:].mean())


def drop(run: runs.Run, epoch: int, elr: float) -> runs.Run:
    """Go on from an epoch of a run with another ELR, to the same number of epochs in all."""
    return branch(run, epoch, run.config["epochs"] - epoch, elr=elr)


def average(run: runs.Run, epoch: int) -> float:
    """Test error in % of the mean of the weights of the checkpoints from an epoch on."""
    model, images, test = rebuild(run.config)
    batch_size = run.config["batch_size"]
    averaged = AveragedModel(model)
    for (number, step), path in runs.checkpoints_in(run.folder).items():
        if number >= epoch and not step:
            checkpoints.load_weights(model, checkpoints.load(path), path)
            averaged.update_parameters(model)
    renew_statistics(averaged, images, batch_size)
    wanted = Wanted(eval_model=True)
    meter = Meter(averaged.module, test, wanted, train_mode=False, batch_size=batch_size)
    return 100 * (1 - meter.measure()["all"]["acc"])


def compare(trial: int, found: list[runs.Run]) -> list[dict]:
    """The rows of one trial: how it was trained, its ELRs, and its test error in %."""
    regimes = {run.folder: run.regime.name for run in found}
    rows = [
        {"trial": trial, "how": "constant", "elr": run.config["elr"], "to": None,
         "regime": regimes[run.folder], "test error": end_error(run)}
        for run in found
    ]  # fmt: skip
    converging = [r.config["elr"] for r in found if regimes[r.folder] == "convergence"]
    for run in found:
        if regimes[run.folder] != "chaotic equilibrium":
            continue
        row = {"trial": trial, "elr": run.config["elr"], "regime": regimes[run.folder]}
        epoch = 2 * run.config["epochs"] // 3
        for elr in converging:
            error = end_error(drop(run, epoch, elr))
            rows.append({**row, "how": "drop", "to": elr, "test error": error})
        error = average(run, epoch)
        rows.append({**row, "how": "average", "to": None, "test error": error})
    return rows


def summary(rows: list[dict]) -> str:
    """Mean, lowest and highest test error over the trials of every way to train, best first."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        groups.setdefault((row["how"], row["elr"], row["to"] or ""), []).append(row["test error"])
    lines = [
        [*key, len(e), f"{statistics.mean(e):.2f}", f"{min(e):.2f} to {max(e):.2f}"]
        for key, e in groups.items()
    ]
    lines.sort(key=lambda line: float(line[4]))
    return tabulate(lines, ["how", "ELR", "then", "trials", "test error, %", "from, to"])


def measure(experiment: Experiment, trials: int, jobs: int) -> list[dict]:
    """Train the lines of constant rates in several trials; the rows of all of them.

    Raises
    ------
    UserError : a line failed.
    """
    lines = lines_of(experiment.in_trials(range(trials)))
    check_data(unfinished(lines))
    if run_here(experiment, lines, jobs):
        raise UserError("a line of constant rate failed, see above")
    found = [run_of(line) for line in lines]
    rows = []
    for trial in range(trials):
        rows += compare(trial, [run for run in found if run.config["trial"] == trial])
    return rows


def main(argv: list[str] | None = None) -> None:
    options = Parser(OPTIONS, prog="claims.second_regime", description=__doc__).parse_args(argv)
    experiment = EXPERIMENTS[options.experiment].on_folder(options.image_folder)
    rows = measure(experiment, options.trials, options.jobs)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = ROOT / experiment.name / "second_regime.csv"
    write_atomically(path, text.getvalue().encode())
    print(f"\n{summary(rows)}\n\n{path}")


if __name__ == "__main__":
    with user_errors("claims.second_regime"):
        main()
