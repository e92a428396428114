"""The papers' claims, measured: trains what is needed, and writes a table of what holds.

    python claims.py --scale quick            # a few lines, one trial: minutes (`make claims`)
    python claims.py --trials 3               # the real one on a CPU (`make claims-full`)
    python claims.py --scale paper            # the settings of the papers, for a GPU

For every claim a function takes the finished runs of its experiments and returns what it found: a
sentence with the spread over the trials, whether the claim holds by the rule that the claim states,
all numbers, and a figure. Written: claims.md (the table), claims.json and a PNG for each claim.
"""

import functools
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr

import analysis
import diversity
import plots
import runs
import second_regime
import test as measuring
import toy
from experiments import EXPERIMENTS, Experiment
from launch import run_here
from lines import ROOT, lines_of, run_of
from options import TRAIN, Option, Parser, integer, one_of
from runs import Run
from utils import UserError, plural, user_errors, write_atomically

OPTIONS = (
    Option("--scale", one_of(("quick", "demo", "paper")), "demo", "quick, demo (CPU), paper (GPU)"),
    Option("--trials", integer(1), 1, "independent repetitions of every line"),
    Option("--jobs", integer(1), 1, "lines that run at once"),
    Option("--results", str, None, "folder for table and figures (Experiments/claims_<scale>)"),
)
DELTA = 0.01  # of a δ-jump: an angle of 8 degrees in one step
TOLERANCE = 0.1  # of the exponent of the frequency around 1
MOST = 0.9  # of the jumps, in rules about them
FIRST_PERIODS = 3  # whose minima are to improve
EDGE = 2.0  # η̃ times sharpness at which descent on the sphere loses stability


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim.

    Attributes
    ----------
    measured : in words, with the spread over the trials.
    holds : by the claim's own rule.
    numbers : everything behind it, as JSON can hold it.
    figure : to be saved with the table.
    """

    measured: str
    holds: bool
    numbers: dict
    figure: Figure = field(repr=False)


class NotMeasurable(Exception):
    """The runs do not show enough for a claim: too few jumps, say."""


@dataclass(frozen=True)
class Claim:
    """One claim: where it is made, what it says and by which rule it holds, and who measures it.

    `experiments` are names of experiments without "demo_"; `measure` gets the runs of each.
    """

    key: str
    source: str
    statement: str
    experiments: tuple[str, ...]
    measure: Callable[..., Finding]


# --- runs, jumps and words ---


def by_line(found: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by the line that they are trials of."""
    lines: dict[str, list[Run]] = {}
    for run in found:
        lines.setdefault(run.folder.parent.name, []).append(run)
    return lines


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """The mean, and the lowest and highest where there are several: '3.2 (2 to 5)'."""
    known = [v for v in values if np.isfinite(v)]
    if not known:
        return "none"
    mean = format(float(np.mean(known)), form)
    if len(known) == 1 or min(known) == max(known):
        return mean
    return f"{mean} ({min(known):{form}} to {max(known):{form}})"


def rate_product(run: Run) -> float:
    return run.config["lr_init"] * run.config["wd"]


def first_trials(found: Sequence[Run], name: Callable[[Run], str]) -> dict[str, Run]:
    """One run of every line, under a name for its panel."""
    return {name(line[0]): line[0] for line in by_line(found).values()}


# --- P1 ---


def periods_in_a_range(vary_lr: list[Run]) -> Finding:
    lines = sorted(by_line(vary_lr).values(), key=lambda line: rate_product(line[0]))
    counts = [[len(plots.periods_of(run).jumps) for run in line] for line in lines]
    products = [rate_product(line[0]) for line in lines]
    late = [np.median(r.log()["train_loss"][len(r.log()["epoch"]) // 2 :]) for r in lines[-1]]
    between = [n for line in counts[1:-1] for n in line]
    holds = not any(counts[0]) and not any(counts[-1]) and min(between) >= 1 and min(late) > 0.1
    measured = (
        f"jumps: {max(counts[0])} at ηλ = {products[0]:.2g}, {min(between)} to {max(between)} at "
        f"{products[1]:.2g} to {products[-2]:.2g}, {max(counts[-1])} at {products[-1]:.2g}, where "
        f"the loss stays at {spread(late, '.2g')}"
    )
    numbers = {"rate_times_decay": products, "jumps": counts, "loss_at_the_largest": late}
    figure = plots.loss_panels(first_trials(vary_lr, lambda r: f"ηλ = {rate_product(r):.2g}"))
    return Finding(measured, holds, numbers, figure)


def fixed_norm(fixed_norm: list[Run]) -> Finding:
    fixed = [len(plots.periods_of(r).jumps) for r in fixed_norm if r.config["fix_si_pnorm"]]
    free = [len(plots.periods_of(r).jumps) for r in fixed_norm if not r.config["fix_si_pnorm"]]
    values = sorted({r.config["fix_si_pnorm_value"] for r in fixed_norm} - {-1.0})

    def name(run: Run) -> str:
        held = run.config["fix_si_pnorm"]
        return f"ρ = {run.config['fix_si_pnorm_value']:g}, held" if held else "ρ free"

    measured = (
        f"{plural(sum(fixed), 'jump')} in {len(fixed)} runs with ρ held at "
        f"{', '.join(f'{v:g}' for v in values)}, at most {max(fixed)} in one; "
        f"{spread(free, '.2g')} a run with ρ free"
    )
    numbers = {"held_at": values, "jumps_held": fixed, "jumps_free": free}
    figure = plots.loss_panels(first_trials(fixed_norm, name))
    return Finding(measured, max(fixed) < 2 <= min(free), numbers, figure)


def frequency(vary_lr: list[Run], vary_wd: list[Run]) -> Finding:
    sweeps, fits = {}, {}
    for name, found in (("η varied", vary_lr), ("λ varied", vary_wd)):
        points = [(rate_product(run), plots.periods_of(run).frequency) for run in found]
        known = [point for point in points if np.isfinite(point[1])]
        try:
            x, y = np.array(known).reshape(-1, 2).T
            sweeps[name], fits[name] = (x, y), analysis.fit_power_law(x, y)
        except ValueError:
            raise NotMeasurable(f"{name}: only {len(known)} runs with two jumps") from None
    words = [
        f"{name}: exponent {fit.exponent:.2f} [{fit.low:.2f}, {fit.high:.2f}] from "
        f"{len(sweeps[name][0])} runs at ηλ = {sweeps[name][0].min():.2g} to "
        f"{sweeps[name][0].max():.2g}"
        for name, fit in fits.items()
    ]
    holds = all(
        abs(fit.exponent - 1) <= TOLERANCE or fit.low <= 1 <= fit.high for fit in fits.values()
    )
    numbers = {
        name: {
            "exponent": fit.exponent,
            "interval_95": [fit.low, fit.high],
            "rate_times_decay": sweeps[name][0].tolist(),
            "periods_an_epoch": sweeps[name][1].tolist(),
        }
        for name, fit in fits.items()
    }
    return Finding("; ".join(words), holds, numbers, plots.frequency(sweeps, fits))


def split_jump_runs(found: list[Run]) -> tuple[list[Run], list[Run]]:
    """The traced lines: that with periods, and that in chaotic equilibrium (the larger ηλ)."""
    lines = sorted(by_line(found).values(), key=lambda line: rate_product(line[0]))
    return lines[0], lines[-1]


def jumps_where_allowed(jumps: list[Run]) -> Finding:
    periodic, _ = split_jump_runs(jumps)
    agree, with_step, in_b, in_c, count = [], [], [], [], []
    for run in periodic:
        trace, log = run.trace(), run.log()
        lr, wd = run.config["lr_init"], run.config["wd"]
        step = analysis.effective_step(trace["lr"], trace["si_norm"], trace["gradient_norm"])
        allowed = step > analysis.jump_threshold(DELTA, lr, wd)
        happened = trace["one_minus_cosine"] > DELTA
        agree.append(np.mean(allowed == happened))
        found = plots.periods_of(run).jumps
        epochs = log["epoch"]
        phases = analysis.find_phases(epochs, log["train_loss"], log["si_norm"], found)
        phase = phases[np.minimum(trace["epoch"].astype(int), len(phases) - 1)]
        near = [
            allowed[(trace["epoch"] >= jump - 2) & (trace["epoch"] < jump + 1)].any()
            for jump in found
        ]
        with_step.append(int(np.sum(near)))
        count.append(len(found))
        in_b.append(np.mean(allowed[phase == "B"]))
        in_c.append(np.mean(allowed[phase == "C"]) if len(found) else np.nan)
    measured = (
        f"{sum(with_step)} of {sum(count)} destabilisations hold steps above the threshold of a "
        f"δ-jump (δ = {DELTA:g}); of the steps in phase C {spread(100 * np.array(in_c))} % are, of "
        f"those in phase B {spread(100 * np.array(in_b), '.2g')} %. The threshold tells δ-jumps "
        f"from other steps in {spread(100 * np.array(agree), '.4g')} % of all"
    )
    enough = sum(with_step) >= MOST * sum(count) > 0
    holds = enough and min(agree) > 0.999 and 10 * max(in_b) < np.mean(in_c)
    numbers = {"delta": DELTA, "jumps": count, "jumps_above_threshold": with_step,
               "share_of_steps_in_phase_B": in_b, "share_in_phase_C": in_c,
               "agreement": agree}  # fmt: skip
    return Finding(measured, holds, numbers, plots.jump_trace(periodic[0], DELTA))


def equilibrium_in_chaos(jumps: list[Run]) -> Finding:
    _, chaotic = split_jump_runs(jumps)
    ratios, curves = [], []
    for run in chaotic:
        trace = run.trace()
        gradient = analysis.effective_gradient_norm(trace["gradient_norm"], trace["si_norm"])
        lr, wd = run.config["lr_init"], run.config["wd"]
        curves.append(analysis.moving_equilibrium(gradient, lr, wd))
        half = len(gradient) // 2
        ratios.append((trace["si_norm"] / curves[-1])[half:])
    medians = [np.median(r) for r in ratios]
    low, high = np.percentile(np.concatenate(ratios), (10, 90))
    counts = [len(plots.periods_of(run).jumps) for run in chaotic]
    measured = (
        f"at ηλ = {rate_product(chaotic[0]):.2g} (jumps: {max(counts)}) the norm over its "
        f"equilibrium has the median {spread(medians)}, and lies between {low:.2f} and {high:.2f} "
        "in 80 % of the steps"
    )
    holds = all(abs(m - 1) < 0.1 for m in medians) and low > 0.5 and high < 2
    numbers = {"median_ratio": medians, "percentile_10": low, "percentile_90": high}
    trace = chaotic[0].trace()
    figure = plots.equilibrium(trace["epoch"], trace["si_norm"], curves[0])
    return Finding(measured, holds, numbers, figure)


def minima_of_periods(run: Run, at: Sequence[int]) -> list[int]:
    """Of these epochs the one with the lowest training loss of every period that a jump ends."""
    log = run.log()
    there = np.isin(log["epoch"], at)
    return [*map(int, plots.periods_of(run).minima(log["epoch"][there], log["train_loss"][there]))]


def different_minima(minima: list[Run]) -> Finding:
    trials = sorted(minima, key=lambda run: run.config["trial"])
    rows, drawn = [], None
    for run, other in zip(trials, [*trials[1:], trials[0]], strict=True):
        saved = [epoch for epoch, step in runs.checkpoints(run.folder) if not step]
        lows = minima_of_periods(run, saved)
        if len(lows) < 3:
            continue
        anchor = lows[0]
        found = diversity.compare(run.folder, anchor, other.folder)
        index = {epoch: i for i, epoch in enumerate(found["report_epochs"].tolist())}
        partners = set(minima_of_periods(other, found["independent_report_epochs"].tolist()))
        at = [i for i, e in enumerate(found["independent_report_epochs"]) if e in partners]
        alone = found["acc"][0]

        def gain(acc: np.ndarray, ensemble: np.ndarray, alone: float = alone) -> np.ndarray:
            """Of the ensemble over the mean of its two members, in % of the images."""
            return 100 * (ensemble - (acc + alone) / 2)

        later = [index[epoch] for epoch in lows[1:]]
        gains = gain(found["acc"], found["ensemble_acc"])
        independent = gain(found["independent_acc"], found["independent_ensemble_acc"])[at]
        rows.append({
            "anchor": anchor,
            "cosine": found["cosine"][later].tolist(),
            "gain": gains[later].tolist(),
            "independent_cosine": float(found["independent_cosine"].mean()),
            "independent_gain": float(independent.mean()),
        })  # fmt: skip
        drawn = drawn or plots.minima(found, plots.periods_of(run).jumps, anchor)
    if not rows:
        raise NotMeasurable("no run has three periods")
    first, last = ([r["cosine"][i] for r in rows] for i in (0, -1))
    falls = [spearmanr(range(len(r["cosine"])), r["cosine"]).statistic for r in rows]
    gains, alone = ([np.mean(r["gain"]) for r in rows], [r["independent_gain"] for r in rows])
    measured = (
        f"cosine with the first minimum: {spread(first, '.2f')} at the second, "
        f"{spread(last, '.2f')} at the last; ensembles of two minima gain {spread(gains, '.2g')} "
        f"points of accuracy over their members, with an independent network "
        f"{spread(alone, '.2g')}"
    )
    holds = np.nanmean(falls) < 0 and np.mean(last) < 0.9 and np.mean(gains) > 0
    return Finding(measured, holds, {"trials": rows}, drawn)


def first_minima_improve(minima: list[Run]) -> Finding:
    errors = []
    for run in minima:
        log = run.log()
        error = dict(zip(log["epoch"].astype(int), 100 * (1 - log["test_acc"]), strict=True))
        tested = [epoch for epoch, value in error.items() if np.isfinite(value)]
        errors.append([error[epoch] for epoch in minima_of_periods(run, tested)])
    periods = max(map(len, errors))
    if min(map(len, errors)) < 2:
        raise NotMeasurable("a run has fewer than two periods")
    table = np.array([e + [np.nan] * (periods - len(e)) for e in errors])
    gains = table[:, 0] - np.nanmean(table[:, 1:FIRST_PERIODS], axis=1)
    means = ", ".join(f"{e:.1f}" for e in np.nanmean(table, axis=0))
    measured = (
        f"test error of the minima, mean over the trials: {means} %; from the first to the mean of "
        f"the next {FIRST_PERIODS - 1} it falls by {spread(gains, '.2g')} points"
    )
    holds = np.mean(gains) > 0 and np.mean(gains > 0) > 0.5
    return Finding(measured, holds, {"errors": errors}, plots.improvement(table))


def has_periods(
    found: list[Run], name: Callable[[Run], str], counts_only: Sequence[str] = ()
) -> Finding:
    """Whether every run of every line has at least two jumps; `counts_only` names exceptions."""
    counts = {
        name(line[0]): [len(plots.periods_of(run).jumps) for run in line]
        for line in by_line(found).values()
    }
    words = [f"{key}: {spread(values, '.2g')}" for key, values in counts.items()]
    figure = plots.loss_panels(first_trials(found, name))
    asked = [values for key, values in counts.items() if key not in counts_only]
    holds = all(min(values) >= 2 for values in asked)
    return Finding("jumps, " + "; ".join(words), holds, {"jumps": counts}, figure)


def full_batch(full_batch: list[Run]) -> Finding:
    return has_periods(full_batch, lambda run: "full-batch descent")


def practical(practical: list[Run]) -> Finding:
    def name(run: Run) -> str:
        parts = {
            "momentum": run.config["momentum"] > 0,
            "augmentation": not run.config["noaug"],
            "all weights": run.config["noninvlr"] == -1,
        }
        return ", ".join(part for part, there in parts.items() if there)

    return has_periods(practical, name, counts_only=["momentum, augmentation, all weights"])


def adam(adam: list[Run]) -> Finding:
    return has_periods(adam, lambda run: "Adam")


def norms(norms: list[Run]) -> Finding:
    return has_periods(norms, lambda run: f"{run.config['norm']} normalisation")


def sharpness(full_batch: list[Run]) -> Finding:
    products, before, drawn = [], [], None
    for run in full_batch:
        path = run.folder / "sharpness.npz"
        words = f"--models_dir {run.folder} --save_path {path} --sharpness --train_mode --update"
        measuring.main(words.split())
        found, log = run.metrics("sharpness"), run.log()
        epochs, values = found["report_epochs"][1:], found["sharpness"][1:]
        rate = np.interp(epochs, log["epoch"], log["effective_lr"])
        jumps = plots.periods_of(run).jumps
        phases = analysis.find_phases(log["epoch"], log["train_loss"], log["si_norm"], jumps)
        in_b = phases[np.searchsorted(log["epoch"], epochs)] == "B"
        products.append((rate * values)[in_b])
        for jump in jumps:
            quiet = np.flatnonzero((epochs < jump) & in_b)  # not in the destabilisation itself
            before += (rate * values)[quiet[-1:]].tolist()
        drawn = drawn or plots.sharpness(run, epochs, values)
    if not before:
        raise NotMeasurable("no jump after a checkpoint of phase B")
    low, middle, high = np.percentile(np.concatenate(products), (10, 50, 90))
    crossed = sum(value > 0.8 * EDGE for value in before)
    measured = (
        f"η̃·sharpness is above {0.8 * EDGE:g} at the last checkpoint of phase B before {crossed} "
        f"of {len(before)} jumps (median {np.median(before):.2f}); but it is "
        f"there long before: median {middle:.2f} in phase B, 10 to 90 %: {low:.2f} to {high:.2f}"
    )
    holds = crossed >= MOST * len(before)
    numbers = {"before_jumps": before, "in_phase_B": [low, middle, high]}
    return Finding(measured, holds, numbers, drawn)


# --- P2 ---


def three_regimes(three_regimes: list[Run]) -> Finding:
    order = ("convergence", "chaotic equilibrium", "divergence")
    holds, levels, words = True, {}, []
    for trial in sorted({run.config["trial"] for run in three_regimes}):
        line = [run for run in three_regimes if run.config["trial"] == trial]
        line.sort(key=lambda run: run.config["elr"])
        found = [plots.regime(run) for run in line]
        ranks = [order.index(regime.name) for regime in found]
        chaotic = [regime.level for regime in found if regime.name == order[1]]
        holds &= set(ranks) == {0, 1, 2} and ranks == sorted(ranks) and chaotic == sorted(chaotic)
        for run, regime in zip(line, found, strict=True):
            levels.setdefault(run.config["elr"], []).append((regime.name, regime.level))
    for name in order:
        rates = [elr for elr, found in levels.items() if any(n == name for n, _ in found)]
        level = [v for found in levels.values() for n, v in found if n == name]
        if rates:
            words.append(f"{name} at ELR {min(rates):g} to {max(rates):g} (loss "
                         f"{min(level):.2g} to {max(level):.2g})")  # fmt: skip
    first = [run for run in three_regimes if run.config["trial"] == 0]
    numbers = {f"{elr:g}": found for elr, found in levels.items()}
    return Finding("; ".join(words), holds, numbers, plots.three_regimes(first))


def regimes_in_ordinary_training(three_regimes: list[Run], jumps: list[Run]) -> Finding:
    names = {run.folder: plots.regime(run).name for run in three_regimes}
    rates = {
        name: [r.config["elr"] for r in three_regimes if names[r.folder] == name]
        for name in set(names.values())
    }
    periodic, chaotic = split_jump_runs(jumps)
    before = []
    for run in periodic:
        log = run.log()
        at = np.searchsorted(log["epoch"], plots.periods_of(run).jumps) - 1
        before += log["effective_lr"][at].tolist()
    if not before:
        raise NotMeasurable("no jumps in ordinary training")
    if len(rates) < 3:
        raise NotMeasurable("a regime is missing on the sphere")
    low, high = max(rates["convergence"]), min(rates["divergence"])
    in_chaos = [np.median(r.log()["effective_lr"][len(r.log()["epoch"]) // 2 :]) for r in chaotic]
    chaos_starts = min(rates["chaotic equilibrium"])
    found = [np.median(before), *in_chaos]
    holds = all(low / 3 < rate < 3 * chaos_starts for rate in found)
    measured = (
        f"on the sphere ELRs up to {low:g} converge, and {chaos_starts:g} to {high:g} do not and "
        f"are not random; in ordinary training the loss jumps at η̃ = {spread(before, '.2g')} "
        f"(median {np.median(before):.2g}), and the chaotic line stays at "
        f"{spread(in_chaos, '.2g')}"
    )
    numbers = {"before_jumps": before, "in_chaos": in_chaos, "converges_up_to": low}
    first = [run for run in three_regimes if run.config["trial"] == 0]
    return Finding(measured, holds, numbers, plots.boundary(first, np.array(before)))


def better_optima(rows: list[dict]) -> Finding:
    """From the rows of `second_regime.measure`."""
    best: dict[str, list[float]] = {}
    for trial in sorted({row["trial"] for row in rows}):
        for how in ("constant", "drop", "average"):
            errors = [r["test error"] for r in rows if (r["trial"], r["how"]) == (trial, how)]
            best.setdefault(how, []).append(min(errors, default=np.nan))
    words = [f"{how} {spread(errors, '.3g')} %" for how, errors in best.items()]
    both = zip(best["drop"], best["constant"], strict=True)
    holds = all(dropped < constant for dropped, constant in both)
    measured = "best test error of each trial: " + ", ".join(words)
    return Finding(measured, holds, {"rows": rows}, plots.second_regime(rows))


def toy_function() -> Finding:
    found, bound = toy.convergence_boundary(steps=3000), toy.stability_bound((1, 2, 4))
    rates = (0.01, 0.03, 0.1, 0.2, 0.28, 0.3, 0.4, 0.6, 1, 2, 5, 10, 100, 1000)
    measured = f"descent converges up to ELR {found:.4f}; derived bound 2/Σα = {bound:.4f}"
    holds = abs(found / bound - 1) < 0.01
    return Finding(measured, holds, {"found": found, "bound": bound}, plots.diagram_of_toy(rates))


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
            figure = plots.loss_panels(first_trials(found[0], lambda run: run.folder.parent.name))
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


def main(argv: list[str] | None = None) -> None:
    options = Parser(OPTIONS, prog="claims.py", description=__doc__.split("\n")[0]).parse_args(argv)
    folder = Path(options.results or ROOT / f"claims_{options.scale}")
    plots.plt.switch_backend("agg")
    findings = measure_all(options.scale, options.trials, options.jobs)
    for key, finding in findings.items():
        plots.save(finding.figure, folder / f"{key}.png")
    record = {
        "scale": options.scale,
        "trials": options.trials,
        "seed": next(option.default for option in TRAIN if option.key == "seed"),
        "training_seconds": round(training_seconds(options.scale)),
        **environment(),
        "claims": {
            c.key: {"claim": c.statement, "source": c.source, "holds": bool(findings[c.key].holds),
                    "measured": findings[c.key].measured, **findings[c.key].numbers}
            for c in CLAIMS
        },
    }  # fmt: skip
    text = json.dumps(record, indent=1, default=float, ensure_ascii=False)
    write_atomically(folder / "claims.json", text.encode())
    write_atomically(folder / "claims.md", table(findings).encode())
    for claim in CLAIMS:
        finding = findings[claim.key]
        print(f"\n{claim.source}: {claim.statement}")
        print(f"    {'holds' if finding.holds else 'does NOT hold'}: {finding.measured}")
    print(f"\n{folder / 'claims.md'}")


if __name__ == "__main__":
    with user_errors("claims.py"):
        main()
