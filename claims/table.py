"""All claims: their experiments are trained, each is measured, a table says what holds."""

import functools
import os
import platform
import re
from pathlib import Path

import numpy as np
import scipy
import torch

import figures
import runs
from claims import second_regime
from claims.finding import Claim, Finding, NotMeasurable, first_trials
from claims.mechanism import equilibrium_in_chaos, jumps_where_allowed, sharpness
from claims.minima import different_minima, first_minima_improve
from claims.periodic import (
    TOLERANCE,
    adam,
    fixed_norm,
    frequency,
    full_batch,
    norms,
    periods_in_a_range,
    practical,
)
from claims.sphere import better_optima, regimes_in_ordinary_training, three_regimes, toy_function
from experiments import EXPERIMENTS, Experiment
from experiments.lines import ROOT, lines_of, run_of
from experiments.local import run_here
from utils import UserError

CLAIMS = (
    Claim("range", "P1 (1)", "Periods over a wide range of ηλ; too small shows none in the budget, "
          "too large is permanently unstable", ("vary_lr",), periods_in_a_range),
    Claim("fixed_norm", "P1 (2)", "With ρ fixed there are no periods (no run with two jumps)",
          ("fixed_norm",), fixed_norm),
    Claim("frequency", "P1 (3)", "The frequency of periods is proportional to ηλ (exponent 1 "
          f"within {TOLERANCE:g} or inside the 95 % interval)", ("vary_lr", "vary_wd"), frequency),
    Claim("jumps", "P1 (4)", "Jumps happen where theory allows them: η̃‖g̃‖ comes above the "
          "threshold in nine of ten", ("jumps",), jumps_where_allowed),
    Claim("equilibrium", "P1 (4)", "In chaos ρ follows the equilibrium (within 10 %)", ("jumps",),
          equilibrium_in_chaos),
    Claim("minima", "P1 (5)", "Minima of different periods are different functions", ("minima",),
          different_minima),
    Claim("improvement", "P1 (6)", "The minima of the first periods improve in test error (the "
          "second and third over the first, in most trials)", ("minima",), first_minima_improve),
    Claim("full_batch", "P1 (7)", "Full-batch gradient descent has periods too", ("full_batch",),
          full_batch),
    Claim("practical", "P1 (8)", "Periods with momentum, with augmentation, with all weights "
          "trainable (each alone; all three at once is shown too)", ("practical",), practical),
    Claim("adam", "P1 (9)", "Periods with Adam", ("adam",), adam),
    Claim("norms", "P1 (9)", "Periods with other normalisations", ("norms",), norms),
    Claim("sharpness", "new", "A jump comes only where η̃·sharpness has come to 2 (above 1.6 before "
          "nine jumps of ten)", ("full_batch",), sharpness),
    Claim("regimes", "P2", "Three regimes on the sphere, in this order; the level of the second "
          "grows with the rate", ("three_regimes",), three_regimes),
    Claim("ordinary", "P2", "They show up in ordinary training: it jumps, and hovers in chaos, "
          "within a factor 3 of where convergence ends on the sphere", ("three_regimes", "jumps"),
          regimes_in_ordinary_training),
    Claim("optima", "P2", "Starting in the second regime and finishing in the first gives better "
          "optima, in every trial", ("second_regime",), better_optima),
    Claim("toy", "P2", "A toy function has the same regimes", (), toy_function),
)  # fmt: skip


def experiment_at(scale: str, name: str) -> Experiment:
    """The experiment behind a claim: on a CPU that with "demo_" before its name."""
    if scale == "paper":
        name = {"second_regime": "second_regime_cifar"}.get(name, name)
    else:
        names = {"three_regimes": "demo_regimes", "second_regime": "second_regime"}
        name = names.get(name, f"demo_{name}")
    experiment = EXPERIMENTS[name]
    return experiment.at_quick() if scale == "quick" else experiment


def measure_all(scale: str, trials: int, jobs: int) -> dict[str, Finding]:
    """Train what is not trained yet, and measure every claim: key -> finding.

    Raises
    ------
    UserError : a line failed.
    """

    @functools.cache
    def results(name: str) -> list:
        experiment = experiment_at(scale, name)
        if name == "second_regime":
            return second_regime.measure(experiment, trials, jobs)
        # Other minima than its own are those of another trial.
        lines = lines_of(experiment.in_trials(max(trials, 2 if name == "minima" else 1)))
        if run_here(experiment, lines, jobs):
            raise UserError(f"a line of {experiment.name} failed, see above")
        return [run_of(line) for line in lines]

    findings = {}
    for claim in CLAIMS:
        found = [results(name) for name in claim.experiments]
        try:
            findings[claim.key] = claim.measure(*found)
        except NotMeasurable as reason:
            figure = figures.loss_panels(first_trials(found[0], lambda run: run.folder.parent.name))
            findings[claim.key] = Finding(f"not measurable: {reason}", False, {}, figure)
    return findings


def table(findings: dict[str, Finding]) -> str:
    """The findings as a Markdown table."""
    rows = [["paper", "claim", "measured", "holds", "figure"], ["---"] * 5]
    for claim in CLAIMS:
        finding, name = findings[claim.key], f"{claim.key}.png"
        verdict = "yes" if finding.holds else "no"
        picture = f"[{name}]({name})"
        rows.append([claim.source, claim.statement, finding.measured, verdict, picture])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def training_seconds(scale: str) -> float:
    """Seconds of training in the logs of all experiments behind the claims, one core or more."""
    names = {name for claim in CLAIMS for name in claim.experiments}
    folders = [ROOT / experiment_at(scale, name).name for name in names]
    logs = [path.parent for folder in folders for path in folder.rglob(runs.LOG)]
    return sum(row["seconds"] for folder in logs for row in runs.read_log(folder))


def environment() -> dict:
    """What the record says of machine and versions."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return {
        "processor": names[0] if names else platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
