"""P1: why there are periods: the norm, the equilibrium of its forces, the steps."""

import itertools
import math
from typing import Any

import numpy as np

from claims.branches import (
    LOG_ONLY,
    OTHER_SEED,
    branch,
    by_line,
    destabilises,
    loss_periods,
    rate,
    second_half,
    settled,
    traced,
)
from claims.claim import CIFAR, Found, NotMeasurable, claim, setting
from claims.statistics import ABOVE, mean, power_of_mean, ratio, share, slope
from runs import Run
from theory.dynamics import equilibrium_norm, jump_threshold
from theory.forecast import time_to_turn

# A line with periods to branch off, with every step and every epoch of it.
BASE = setting("base", {"lr_init": 0.2, "wd": 0.1}, epochs=250, save_freq=1, trace=True,
               quick={"epochs": 100})  # fmt: skip
BRANCHED = 3  # periods of a run that are branched
PATIENCE = 3  # lengths of phase B, in which branches may destabilise
DELTA = 0.01  # of a δ-jump: an angle of 8 degrees in one step
WITHIN = 50  # steps, in which a branch may jump
FACTORS = tuple(2 ** (k / 2) for k in range(-4, 9))  # on η and 1/λ: 1/4 to 16 in steps of √2


def branch_points(run: Run, *points: float) -> list[tuple[int, int]]:
    """Epochs within phase B of the first periods after one e-fold, and how long that phase is.
    Raises NotMeasurable without such a period."""
    found = []
    for period in settled(run).cycles[:BRANCHED]:
        fall = period.turn - period.start
        found += [(round(period.start + point * fall), max(round(fall), 2)) for point in points]
    if not found:
        raise NotMeasurable(f"{run.folder} has no period to branch from")
    return found


def delays(run: Run, *points: float, **changes: Any) -> np.ndarray:
    """Epochs until branches from these points of phase B destabilise; inf where they do not."""
    found = []
    for epoch, fall in branch_points(run, *points):
        arm = branch(run, epoch, PATIENCE * fall, seed=OTHER_SEED, **LOG_ONLY, **changes)
        found.append(destabilises(arm) - epoch)
    return np.array(found)


@claim(
    "P1 (2)", "The changing norm causes the periods: with ρ held there are none", BASE,
    seeds=13, hours=1.1,
    power=("differences of 0.87 with a spread of 0.1 between seeds",
           power_of_mean(13, 0.87, 0.1, ABOVE(0.5))),
)  # fmt: skip
def cause(base: list[Run]) -> Found:
    """Paper: with the norm ρ fixed the periods disappear, so its change is what causes them.

    Estimate: two differences, free minus held, 95 % intervals above 0.5 ("the cause": most of the
    periods are gone with it). (i) Of the shares of branches, from 25, 50 and 75 % of phase B and
    followed for three of its lengths, whose loss rises fourfold. (ii) Of whole runs of 20 e-folds,
    the free one against five with ρ fixed, over the range that it takes in the free one: of the
    shares whose loss alone swings regularly (falls and rises fourfold, `Periods.is_regular`). If
    all seeds are alike, 13 are the fewest whose interval lies above 0.5.

    Contradicted by: held branches that destabilise nearly as often as free ones, or periodic
    runs at fixed ρ: an interval below 0.5.

    Limits: digits, width 8; one ηλ.
    """
    branches, whole, swings, rows = [], [], [], []
    for run in base:
        free, held = (delays(run, 0.25, 0.5, 0.75, fix_si_pnorm=fixed) for fixed in (False, True))
        branches.append(np.mean(np.isfinite(free)) - np.mean(np.isfinite(held)))
        epochs = round(20 / (rate(run) * run.steps_per_epoch))
        ends = [np.median(settled(run).each(name)) for name in ("rho_turn", "rho_start")]
        arms = [
            branch(run, 0, epochs, fix_si_pnorm=True, fix_si_pnorm_value=float(rho), **LOG_ONLY)
            for rho in np.geomspace(*ends, 5)
        ]
        own, *fixed = (loss_periods(arm, run.e_fold) for arm in (run, *arms))
        whole.append(own.is_regular - np.mean([periods.is_regular for periods in fixed]))
        counts = [*map(len, fixed)]
        swings.append(np.mean(counts) / max(len(own), 1))
        rows.append({"run": run, "free": free, "held": held, "rho": ends,
                     "periods_free": len(own), "periods_held": counts})  # fmt: skip
    return [
        mean("branches: risk difference", branches, ABOVE(0.5), (-1, 1)),
        mean("whole runs: difference of shares with a regular loss", whole, ABOVE(0.5), (-1, 1)),
        mean("swings of the loss at fixed ρ, over those of the free run", swings),
    ], rows


@claim(
    "P1 (3)", "Training converges to a consistent periodic behaviour",
    setting("consistent", {"lr_init": 0.2, "wd": 0.1}, epochs=800, save_freq=100, trace=True),
    seeds=8, hours=0.5,
    power=("drifts of 1.0 with a spread of 0.13 between seeds, three of them",
           power_of_mean(8, 0, 0.13, (math.log(0.75), math.log(1.25))) ** 3),
)  # fmt: skip
def consistent(found: list[Run]) -> Found:
    """Paper: training converges to a consistent periodic behaviour.

    Estimate: the drift over a run, after 5 e-folds, of the lengths of periods and of ρ at its
    maxima and minima, as a factor from a line through their logarithms: 95 % interval inside
    ± 25 % (equivalence: "consistent" within a quarter over 64 e-folds). And the
    share of seeds with ρ between the equilibrium norms of the smallest and the largest effective
    gradient of its period in at least 99 % of steps, one-sided 95 % bound above one half.

    Contradicted by: a drift by more than a quarter, or ρ outside its two equilibria.

    Limits: digits, width 8; one ηλ, 800 epochs.
    """
    drifts, inside, rows = [], [], []
    for run in found:
        start = 5 * run.e_fold
        late = run.periods.after(start)
        if len(late) < 5:
            raise NotMeasurable(f"{run.folder} has {len(late)} periods after 5 e-folds")
        columns = {"length": late.lengths, "ρ at maxima": late.each("rho_start"),
                   "ρ at minima": late.each("rho_turn")}  # fmt: skip
        slopes = [slope(late.turns[-len(y) :], np.log(y)) for y in columns.values()]
        drifts.append(np.exp((late.end - start) * np.array(slopes)))
        trace, between = traced(run), []
        # From turn to turn: the gradients that enlarge ρ come before it is largest.
        for begin, end in itertools.pairwise(late.turns):
            steps = (trace["epoch"] >= begin) & (trace["epoch"] < end)
            gradient, norm = trace["effective_gradient"][steps], trace["si_norm"][steps]
            extremes = [gradient.min(), gradient.max()]
            low, high = equilibrium_norm(extremes, run.config["lr_init"], run.config["wd"])
            between.extend((low <= norm) & (norm <= high))
        inside.append(np.mean(between))
        rows.append({"run": run, **columns, "inside": inside[-1]})
    estimates = [
        ratio(f"drift of {name}", of_seeds, (0.75, 1.25))
        for name, of_seeds in zip(columns, np.transpose(drifts), strict=True)
    ]
    words = "share of seeds with ρ between its equilibria in 99 % of steps"
    return [*estimates, share(words, [part >= 0.99 for part in inside])], rows


@claim(
    "P1 (4)", "Jumps come where theory puts them: at the effective rate that a δ-jump needs", BASE,
    seeds=10, hours=0.4,
    power=("a factor of 1.3 with a spread of a factor 1.35 between seeds",
           power_of_mean(10, math.log(1.3), 0.3, (-math.log(2), math.log(2)))),
)  # fmt: skip
def destabilisation(base: list[Run]) -> Found:
    """Paper: a step is a δ-jump where η̃‖g̃‖ exceeds a bound, so jumps start when η̃ has grown to it.

    Estimate: branches from 75 % of phase B, ρ held, η times 1/4 to 16 in steps of √2 (λ the
    inverse): the η̃ at which half of them jump within 50 steps (Spearman-Kärber), over the bound
    with the median gradient of the *other* seeds. 95 % interval of the ratio inside a factor of 2,
    as the gradients are those of other networks. Beside it two forecasts of the turn of ρ: of ρ
    there, from the other seeds' rate, and of the time left at half of the fall (`theory.forecast`),
    with its error as a share of the fall.

    Contradicted by: half of the branches jumping at less than a half or more than twice the bound.

    Limits: digits, width 8; δ = 0.01; one ηλ.
    """
    half_rates, rows = [], []
    step = math.log(FACTORS[1] / FACTORS[0])
    for run in base:
        lr, wd, logs = run.config["lr_init"], run.config["wd"], []
        for epoch, _ in branch_points(run, 0.75):
            jumps = []
            for factor in FACTORS:
                changes = {"lr_init": factor * lr, "wd": wd / factor, "fix_si_pnorm": True,
                           "seed": OTHER_SEED, **LOG_ONLY, "trace": True}  # fmt: skip
                trace = branch(run, epoch, -(-WITHIN // run.steps_per_epoch), **changes).trace()
                jumps.append(bool((trace["one_minus_cosine"][:WITHIN] > DELTA).any()))
            largest = math.log(FACTORS[-1] * lr / trace["si_norm"][0] ** 2)
            logs.append(largest + step / 2 - step * sum(jumps))
            rows.append({"run": run, "from": epoch, "jumps": jumps, "half": math.exp(logs[-1])})
        half_rates.append(math.exp(np.mean(logs)))
    gradients = [np.median(late_gradients(run)) for run in base]
    ratios, at_turn = [], []
    for i, run in enumerate(base):
        lr, wd = run.config["lr_init"], run.config["wd"]
        bound = jump_threshold(DELTA, lr, wd) / np.median(np.delete(gradients, i))
        ratios.append(half_rates[i] / bound)
        expected = math.sqrt(lr / np.median(np.delete(half_rates, i)))
        at_turn.append(np.median(settled(run).each("rho_turn")) / expected)
    timing = [np.median(forecast_errors(run)) for run in base]
    return [
        ratio("η̃ at which half jump, over the bound", ratios, (0.5, 2)),
        ratio("ρ at the turn, over its forecast", at_turn),
        mean("error of the forecast time to the turn, over the fall", timing),
    ], rows


def late_gradients(run: Run) -> np.ndarray:
    """Effective gradient norms of all steps in the second halves of phase B: (n,)."""
    trace = traced(run)
    late = np.zeros(len(trace["epoch"]), dtype=bool)
    for period in settled(run).cycles:
        middle = (period.start + period.turn) / 2
        late |= (trace["epoch"] >= middle) & (trace["epoch"] < period.low)
    return trace["effective_gradient"][late]


def forecast_errors(run: Run) -> list[float]:
    """Error of `time_to_turn` over the length of the fall, asked half way in every fall."""
    log, errors = run.log(), []
    cycles = run.periods.cycles
    for number, period in enumerate(cycles[1:], 1):
        fall = period.turn - period.start
        past = log["epoch"] <= period.start + fall / 2
        now = log["epoch"][past][-1]
        left = time_to_turn(log["epoch"][past], log["si_norm"][past], cycles[:number])
        errors.append(math.inf if left is None else abs(left - (period.turn - now)) / fall)
    return errors


@claim(
    "new", "A lower rate late in phase B postpones the destabilisation by as much as ρ needs", BASE,
    seeds=10, hours=0.3,
    power=("a ratio of 0.86 with a spread of 0.29 between seeds",
           power_of_mean(10, 0.86, 0.29, (0.5, 1.5))),
)  # fmt: skip
def sharpness(base: list[Run]) -> Found:
    """Paper: none claims it; what limits η̃ is the sharpness of the minimum, so at half the rate ρ
    has to fall by another √2 before the network destabilises.

    Estimate: branches from 75 % of phase B with η/2 and 2λ, so that ρ shrinks as fast (η/2 alone
    would be kinematics: ρ shrinks half as fast): their delay against branches with η and λ, over
    ln √2 / (ηλ) steps, a seed's mean; 95 % interval inside 0.5 to 1.5.

    Contradicted by: no delay, or one that is more than twice off.

    Limits: digits, width 8; branches that do not destabilise within three lengths of phase B are
    left out, their number is in the rows.
    """
    ratios, rows = [], []
    for run in base:
        lr, wd = run.config["lr_init"], run.config["wd"]
        theory = math.log(2) / 2 / (lr * wd * run.steps_per_epoch)
        same, half = delays(run, 0.75), delays(run, 0.75, lr_init=lr / 2, wd=2 * wd)
        both = np.isfinite(same) & np.isfinite(half)
        if both.any():
            ratios.append(np.mean((half[both] - same[both]) / theory))
        rows.append({"run": run, "same": same, "half": half, "left_out": sum(~both)})
    return [mean("delay over its theory", ratios, (0.5, 1.5))], rows


@claim(
    "new", "The angle of a step in equilibrium is that of theory",
    setting("angles",
            *({"momentum": 0.0, "lr_init": 1.0, "wd": wd} for wd in (0.0065, 0.013, 0.026)),
            *({"momentum": 0.9, "lr_init": 0.1, "wd": wd} for wd in (0.01, 0.02, 0.04)),
            *({"optimizer": "adamw", "lr_init": 0.02, "wd": wd} for wd in (0.25, 0.5, 1.0)),
            base=CIFAR, epochs=60, save_freq=20, trace=True),
    seeds=5, hours=0.3,
    power=("ratios of 1.0 with a spread of 0.03 between seeds, nine of them",
           power_of_mean(5, 1.0, 0.03, (0.9, 1.1)) ** 9),
)  # fmt: skip
def angles(found: list[Run]) -> Found:
    """Paper: none claims it for these; theory of rotational equilibrium (Wan et al. 2021, Kosson et
    al. 2024): weight decay and random gradients balance at an angle per step that ηλ sets.

    Estimate: the root mean square angle of a step, in the second half of a run, over theory's; 95 %
    interval inside ± 10 % at each of three ηλ, for plain SGD, momentum and AdamW.

    Contradicted by: a ratio more than a tenth off at any of the nine.

    Limits: 2,560 CIFAR-10 images, width 8, in chaos or far from a minimum: where there are periods
    ρ is not in equilibrium.
    """
    estimates, rows = [], []
    for name, line in by_line(found):
        ratios = []
        for run in line:
            # 1 - cos is θ²/2 to the order in which theory's formulas hold
            angle = math.sqrt(np.mean(2 * second_half(run)["one_minus_cosine"]))
            theory = run.equilibrium_angle
            ratios.append(angle / theory)
            rows.append({"run": run, "angle": angle, "theory": theory,
                         "periods": len(settled(run))})  # fmt: skip
        momentum = ", momentum" if line[0].config["momentum"] else ""
        kind = "AdamW" if line[0].optimizer == "adamw" else f"SGD{momentum}"
        estimates.append(mean(f"{kind}, {name}: RMS angle over theory's", ratios, (0.9, 1.1)))
    return estimates, rows
