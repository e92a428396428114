"""All claims, what each takes, and the table of what was found."""

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy
import torch

import figures
from claims.finding import Claim, Finding, NotMeasurable
from claims.mechanism import (
    angular_update,
    cause,
    consistent,
    destabilisation,
    equilibrium_in_chaos,
    regimes_in_ordinary_training,
    sharpness,
)
from claims.minima import (
    different_minima,
    first_minima_improve,
    turning_at_destabilisations,
)
from claims.periodic import (
    every_run,
    frequency,
    length,
    periods_in_a_range,
)
from claims.sphere import better_optima, features, three_regimes, toy_function
from experiments import EXPERIMENTS, Experiment
from experiments.cost import total
from experiments.lines import Line, is_finished, lines_of, run_of
from experiments.local import run_here
from utils import UserError

PERIODIC = "every run periodic after one e-fold"
SWEEPS = ("vary_lr", "vary_wd")

CLAIMS = (
    Claim("range", "P1 (1)", "Periods over a wide range of η and λ; too small shows none in the "
          "budget, too large is permanently unstable",
          "periodic at every value over a decade of η and one of λ; no period at the smallest; at "
          "the largest a training error of 5 to 80 % of guessing's, |τ| < 0.2, not periodic",
          ("range",), periods_in_a_range, first_trial=20,
          before="no in trials 10 to 14 of 9 e-folds: 37 of 50 runs periodic, the others with too "
          "few periods, 3 to 8, for their CV, and errors at the largest rate up to 86 % of "
          "guessing's; yes, by one jump or more at every value"),
    Claim("cause", "P1 (2)", "The changing norm is the cause: with ρ held there are no periods",
          "branches at 25, 50, 75 % of phase B destabilise within its time in >= 90 % with ρ free, "
          "in <= 10 % with ρ held", ("base",), cause,
          before="yes, by fewer than two jumps in a run, loosened after the data, one norm left "
          "out"),
    Claim("frequency", "P1 (3)", "The frequency of periods is proportional to ηλ",
          "95 % interval of the exponent over seeds inside [0.85, 1.15], in every sweep",
          (*SWEEPS, "vary_images"), frequency,
          before="yes, by 1 inside the interval over runs"),
    Claim("length", "P1 (3)", "Phase B takes as long as weight decay needs, without a fit",
          "steps of phase B over ln(ρ_high/ρ_low)/(ηλ) in [1, 1.3] in >= 90 %", SWEEPS, length,
          before="new"),
    Claim("consistent", "P1", "Training converges to a consistent periodic behaviour",
          "no trend in lengths and extremes of ρ (Kendall, 5 % for all tests of all seeds "
          "together), CV < 0.5, ρ between the equilibrium norms of the smallest and the largest "
          "effective gradient", ("base",), consistent, first_trial=30,
          before="no in trials 20 to 24, 3 of 5, runs seen before that rule was made; "
          "no in trials 10 to 14, 3 of 5, one of them by a trend at 5 % for each of 15 tests "
          "(p = 0.041), which half of all experiments without a trend have; new"),
    Claim("destabilisation", "P1 (4)", "Destabilisation comes between the effective rates at which "
          "theory makes it possible and guaranteed",
          "branches late in phase B with η × 1/16 to 512 and ρ held, constants from other seeds, "
          "1 and 99 % quantiles of their gradients: a δ-jump within 50 steps in <= 10 % of "
          "branches below the one, in >= 90 % above the other",
          ("base",), destabilisation, first_trial=30,
          before="no in trials 20 to 24 with ρ free: 4 of 28 branches that begin below have a "
          "jump, but only after weight decay has raised η̃ above; no in trials 10 to 14, with η × "
          "1 to 16, which left 1 branch below and 2 above; yes, by jumps that hold a step above "
          "the threshold, 10 of 11, a share lowered after the data"),
    Claim("equilibrium", "P1 (4)", "In chaos ρ is the equilibrium norm",
          "within 10 % of a forecast from gradients of the sphere, at three values of ηλ",
          ("chaos", "sphere"), equilibrium_in_chaos, first_trial=20,
          before="not shown in trials 10 to 14, 50 epochs at ηλ up to 0.019, where a line was "
          "outside the rates of the sphere; yes, but by the run's own gradients, one ηλ"),
    Claim("minima", "P1 (5)", "Minima of different periods are different functions",
          "with an anchor three quarters of the way to the minimum of the second period, ensembles "
          "gain more over their better member with minima of later periods than with later "
          "checkpoints up to that minimum, every seed", ("minima",), different_minima,
          first_trial=30, before="earlier checkpoints and that minimum as anchor: no in trials 20 "
          "to 24 on digits, 4 of 5, 0.41 against -0.17 points (one of 297 test images is 0.34), "
          "and 0.57 against 0.15 points in trials 10 to 14 of 400 epochs on images; yes in trials "
          "10 to 14 on digits, with an anchor half way in phase B and gains over the members' "
          "mean, 5.8 against 3.2 points, which grow with a bad anchor; "
          "yes, by minima chosen with the mean loss of an epoch"),
    Claim("turning", "P1 (5)", "The weights turn where the network destabilises",
          ">= 70 % of the turning, in the mean of the seeds, within 3 epochs of destabilisations, "
          "on digits and on images", ("base", "minima"), turning_at_destabilisations,
          first_trial=30, before="seen in trials 20 to 24 on digits, 71 %, in half of the time, "
          "and 10 to 14 on images, 35 %, in 16 %; yes, in the row above, in trials 10 to 14 on "
          "digits"),
    Claim("improvement", "P1 (6)", "The minima of the first periods improve in test error",
          "Kendall's τ < 0 over the first 6 periods in >= 4 of 5 seeds", ("minima",),
          first_minima_improve, first_trial=30, before="yes in trials 10 to 14 of 400 epochs, 4 of "
          "5, but two of them with only 3 and 4 minima; yes, by the mean of 3 trials on digits, "
          "one of them worse"),
    Claim("full_batch", "P1 (7)", "Full-batch gradient descent has periods too", PERIODIC,
          ("full_batch",), every_run, first_trial=20, before="no in trials 10 to 14 of 600 epochs: "
          "3 of 5 periodic, the other two with too few periods, 9 and 11, for a CV of 0.44 and "
          "0.49; yes, by two jumps"),
    Claim("each", "P1 (8)", "Periods with momentum, with augmentation, with all weights trainable",
          PERIODIC, ("each",), every_run, before="yes, by two jumps; all three at once exempted"),
    Claim("practice", "P1 (8)", "Periods in practice: all three at once", PERIODIC, ("practice",),
          every_run, first_trial=20,
          before="no in trials 10 to 14 of 600 epochs: 4 of 5 periodic, the other with 6 periods, "
          "one of them twice as long; shown, not judged: jumps miss smooth periods"),
    Claim("figure1", "P1, Figure 1", "Periods of the ConvNet and of ResNet-18 with all weights",
          PERIODIC, ("figure1",), every_run, trials=3, first_trial=20,
          before="no in trials 10 and 11: ResNet-18 of trial 11 has 10 periods, CV 0.17, but the "
          "loss lowest early in most falls, and late was asked for, which no test on noise needed "
          "and which changed no other of 260 runs; new"),
    Claim("adam", "P1 (9)", "Periods with Adam", PERIODIC, ("adam",), every_run, first_trial=20,
          before="no in trials 10 to 14 of 200 epochs: 3 of 5 periodic, the other two with few "
          "periods, 6 and 7; yes, by two jumps"),
    Claim("norms", "P1 (9)", "Periods with other normalisations", PERIODIC, ("norms",), every_run,
          before="no: weight normalisation at width 4 had none in a trial"),
    Claim("angles", "new", "The angle of a step in equilibrium is that of theory, with momentum "
          "and with AdamW", "RMS angle within 10 %", ("angles",), angular_update, before="new"),
    Claim("sharpness", "new", "A lower rate late in phase B postpones the destabilisation",
          "later with η/2 in >= 90 % of branches from 75 % of phase B, followed for three times "
          "its length", ("base",), sharpness, first_trial=30,
          before="15 of 15 in trials 20 to 24, with the control of 2λ 14, but seen before, by 16 "
          "of 16, one of them from half way, without it; 15 of 15 in trials 10 to 14, followed for "
          "one phase B, in which some do not destabilise with η either; yes, by "
          "η̃·sharpness, which is above its cut-off all along phase B"),
    Claim("regimes", "P2", "Three regimes on the sphere, in this order; the level of the second "
          "grows with the rate",
          "in order in every seed; at least 4 chaotic rates whose levels rank; chaos: |τ| < 0.2, "
          "90 % over 10 % quantile < 5; divergence: cosines over 2 to 10 steps within 0.1 of a "
          "random walk's", ("sphere_cifar",), three_regimes, first_trial=20,
          before="chaotic rates chosen after those of trials 10 to 14 for the norm in chaos; yes, "
          "with two or three chaotic rates, width 4"),
    Claim("features", "P2", "In the first regime a higher rate finds better minima",
          "at a training loss of 0.1 test error and effective gradient fall with the rate, every "
          "seed", ("sphere_cifar",), features, first_trial=20, before="new"),
    Claim("ordinary", "P2", "The chaotic regime shows up in ordinary training",
          "loss and effective gradient of ordinary chaos within a factor 1.5 of those on the "
          "sphere at the same η̃, at three values of ηλ", ("chaos", "sphere"),
          regimes_in_ordinary_training, first_trial=20,
          before="yes in trials 10 to 14, at other ηλ; yes, within a factor 3, a bound changed "
          "after the data"),
    Claim("optima", "P2", "Starting in the second regime and finishing in the first gives better "
          "optima", "ELR 0.008, then 0.001: lower test error than the constant rate that is best "
          "on held-out images, every seed", ("optima",), better_optima,
          before="no, with the best of many schedules, digits"),
    Claim("toy", "P2", "A toy function has the same regimes",
          "regimes in order, levels 1.27 and 1.75 = Σα/4 at ELR 1 and 1000 within 2 %, boundary "
          "within 1 % of 2/Σα",
          (), toy_function, trials=1, before="yes, by the boundary alone"),
)  # fmt: skip


def experiments_of(claim: Claim, scale: str, image_folder: str | None) -> list[Experiment] | None:
    """The experiments behind a claim, on a CPU those with "demo_" before their names.

    None where the claim has no setting at this scale.
    """
    prefix = "" if scale == "paper" else "demo_"
    if any(prefix + name not in EXPERIMENTS for name in claim.experiments):
        return None
    found = [EXPERIMENTS[prefix + name] for name in claim.experiments]
    if scale == "quick":
        if not all(experiment.quick for experiment in found):
            return None
        found = [experiment.at_quick() for experiment in found]
    digits = {"Digits"}
    return [e if e.dataset in digits else e.on_folder(image_folder) for e in found]


def lines_behind(found: Sequence[Experiment], trials: Sequence[int]) -> list[list[Line]]:
    """The lines of each experiment, in these trials."""
    return [lines_of(experiment.in_trials(trials)) for experiment in found]


def seconds_left(lines: Sequence[Sequence[Line]]) -> float:
    """Seconds of one core that the lines not yet finished take, by the cost model."""
    todo = {line.folder: line for group in lines for line in group if not is_finished(line)}
    return total([*todo.values()]).core_seconds if todo else 0.0


def measure(claim: Claim, found: Sequence[Experiment], trials: Sequence[int], jobs: int) -> Finding:
    """Train what is not trained yet, and measure a claim.

    With fewer trials than its rule asks for nothing is shown.

    Raises
    ------
    UserError : a line failed.
    """
    groups = []
    for experiment, lines in zip(found, lines_behind(found, trials), strict=True):
        if run_here(experiment, lines, jobs) == 1:  # a diverged line is a result
            raise UserError(f"a line of {experiment.name} failed, see above")
        groups.append([run_of(line) for line in lines])
    try:
        finding = claim.measure(*groups)
    except NotMeasurable as reason:
        return Finding(f"not measurable: {reason}", None, {}, figures.panels(groups[0][:12]))
    if groups and len(trials) < claim.trials:
        return Finding(finding.measured, None, finding.numbers, finding.figure)
    return finding


def table(record: dict[str, dict]) -> str:
    """What is on record for each claim, as a Markdown table."""
    rows = [["paper", "claim", "rule", "measured", "holds", "trials, rule", "rule before"]]
    rows.append(["---"] * len(rows[0]))
    for claim in CLAIMS:
        found = record.get(claim.key)
        statement = claim.statement
        if found is None:
            middle = ["", "not run yet", ""]
        else:
            if found["figure"]:
                statement = f"[{statement}]({claim.key}.png)"
            trials = found["trials"]
            which = f"{trials[0]} to {trials[-1]}" if len(trials) > 1 else f"{trials[0]}"
            which = which if claim.experiments else "no chance in it"
            measured = f"[{found['measured']}]({claim.key}.json)"
            middle = [measured, found["holds"], f"{which}, {short(found['code'])}"]
        rule = found["rule"] if found else claim.rule  # as it was when it judged
        rows.append([claim.source, statement, rule, *middle, claim.before])
    escaped = [[cell.replace("|τ|", "\\|τ\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def short_table(record: dict[str, dict]) -> str:
    """Which claims hold, as a Markdown table of one line each."""
    rows = [["paper", "claim", "holds"], ["---"] * 3]
    for claim in CLAIMS:
        verdict = record[claim.key]["holds"] if claim.key in record else "not run yet"
        rows.append([claim.source, claim.statement, verdict])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def short(commit: str) -> str:
    """The first seven letters of a commit, and whether files differed from it."""
    return commit[:7] + (" + changes" if "changes" in commit else "")


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
