"""P1: why there are periods: the norm, the equilibrium of its forces, the steps."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from claims.claim import (
    CIFAR,
    DIGITS,
    LOG_ONLY,
    OTHER_SEED,
    Finding,
    NotMeasurable,
    branch,
    by_line,
    claim,
    destabilises,
    loss_periods,
    mean,
    rate,
    ratio,
    second_half,
    setting,
    settled,
    share,
)
from claims.statistics import ABOVE, power_of_mean, slope
from runs import Run
from theory.dynamics import effective_gradient_norm, equilibrium_norm, jump_threshold
from theory.forecast import time_to_turn
from theory.periods import Period

BASE = setting(
    "base", "one line with periods, every step and every epoch of it, to branch off from",
    {"lr_init": 0.2, "wd": 0.1}, **{**DIGITS, "epochs": 250, "save_freq": 1, "trace": True},
    quick={"epochs": 100},
)  # fmt: skip
BRANCHED = 3  # periods of a run that are branched
PATIENCE = 3  # lengths of phase B, in which branches may destabilise
DELTA = 0.01  # of a δ-jump: an angle of 8 degrees in one step
WITHIN = 50  # steps, in which a branch may jump


def branch_points(run: Run, points=(0.75,)) -> Iterator[tuple[Period, int, int]]:
    """Epochs within phase B of the first periods after one e-fold, and how long that phase is.

    Raises
    ------
    NotMeasurable : the run has no such period.
    """
    cycles = settled(run).cycles[:BRANCHED]
    if not cycles:
        raise NotMeasurable(f"{run.folder} has no period to branch from")
    for period in cycles:
        needed = period.turn - period.start
        for point in points:
            yield period, round(period.start + point * needed), max(round(needed), 2)


@claim(
    "P1 (2)", "The changing norm causes the periods: with ρ held there are none", BASE,
    seeds=8, hours=0.7,
    power=("differences of 0.87 with a spread of 0.1 between seeds",
           power_of_mean(8, 0.87, 0.1, ABOVE(0.5))),
)  # fmt: skip
def cause(base: list[Run]) -> Finding:
    """Paper: with the norm ρ fixed the periods disappear, so its change is what causes them.

    Estimate: two differences, free minus held, 95 % intervals above 0.5 ("the cause": most of the
    periods are gone with it). (i) Of the shares of branches, from 25, 50 and 75 % of phase B and
    followed for three of its lengths, whose loss rises fourfold. (ii) Of whole runs of 20 e-folds,
    the free one against five with ρ fixed, over the range that it takes in the free one: of the
    shares whose loss alone swings regularly (falls and rises fourfold, `Periods.is_regular`).

    Contradicted by: held branches that destabilise nearly as often as free ones, or periodic
    runs at fixed ρ: an interval below 0.5.

    Limits: digits, width 8; one ηλ.
    """
    branches, whole, counts, rows = [], [], [], []
    for run in base:
        free, held = [], []
        for _, epoch, needed in branch_points(run, (0.25, 0.5, 0.75)):
            for found, fixed in ((free, False), (held, True)):
                changes = {"seed": OTHER_SEED, "fix_si_pnorm": fixed, **LOG_ONLY}
                arm = branch(run, epoch, PATIENCE * needed, **changes)
                found.append(destabilises(arm) - epoch)
        epochs = round(20 / (rate(run) * run.steps_per_epoch))
        cycles = settled(run)
        ends = np.median(cycles.each("rho_turn")), np.median(cycles.each("rho_start"))
        fixed = [
            branch(run, 0, epochs, fix_si_pnorm=True, fix_si_pnorm_value=float(rho), **LOG_ONLY)
            for rho in np.geomspace(*ends, 5)
        ]
        after = run.e_fold
        held_runs = [loss_periods(arm, after) for arm in fixed]
        own = loss_periods(run, after)
        branches.append(np.mean(np.isfinite(free)) - np.mean(np.isfinite(held)))
        whole.append(own.is_regular - np.mean([found.is_regular for found in held_runs]))
        counts.append(np.mean([*map(len, held_runs)]) / max(len(own), 1))
        rows.append({"run": run.folder.as_posix(), "free": free, "held": held, "rho": ends,
                     "periods_free": len(own), "periods_held": [*map(len, held_runs)]})  # fmt: skip
    return Finding(
        (mean("branches: risk difference", branches, ABOVE(0.5), (0, 1)),
         mean("whole runs: difference of shares with a regular loss", whole, ABOVE(0.5), (0, 1)),
         mean("swings of the loss at fixed ρ, over those of the free run", counts)), rows
    )  # fmt: skip


@claim(
    "P1 (3)", "Training converges to a consistent periodic behaviour",
    setting("consistent", "one long line with periods, every step of it",
            {"lr_init": 0.2, "wd": 0.1},
            **{**DIGITS, "epochs": 800, "save_freq": 100, "trace": True}),
    seeds=8, hours=0.5,
    power=("drifts of 1.0 with a spread of 0.13 between seeds, three of them",
           power_of_mean(8, 0, 0.13, (math.log(0.75), math.log(1.25))) ** 3),
)  # fmt: skip
def consistent(found: list[Run]) -> Finding:
    """Paper: training converges to a consistent periodic behaviour.

    Estimate: the drift over a run, after 5 e-folds, of the lengths of periods and of ρ at its
    maxima and minima, as a factor from a line through their logarithms: 95 % interval inside
    ± 25 % (equivalence: "consistent" within a quarter over 64 e-folds). And the
    share of seeds with ρ between the equilibrium norms of the smallest and the largest effective
    gradient of its period in at least 99 % of steps, one-sided 95 % bound above one half.

    Contradicted by: a drift by more than a quarter, or ρ outside its two equilibria.

    Limits: digits, width 8; one ηλ, 800 epochs.
    """
    drifts: dict[str, list[float]] = {"length": [], "ρ at maxima": [], "ρ at minima": []}
    inside, rows = [], []
    for run in found:
        late = run.periods.after(5 * run.e_fold)
        if len(late) < 5:
            raise NotMeasurable(f"{run.folder} has {len(late)} periods after 5 e-folds")
        span = late.end - 5 * run.e_fold
        columns = (late.lengths, late.each("rho_start"), late.each("rho_turn"))
        for drift, values in zip(drifts.values(), columns, strict=True):
            drift.append(math.exp(span * slope(late.turns[-len(values) :], np.log(values))))
        trace = run.trace()
        gradient = effective_gradient_norm(trace["gradient_norm"], trace["si_norm"])
        steps_inside = []
        # From turn to turn: the gradients that enlarge ρ come before it is largest.
        for begin, end in itertools.pairwise(late.turns):
            steps = (trace["epoch"] >= begin) & (trace["epoch"] < end)
            extremes = [gradient[steps].min(), gradient[steps].max()]
            low, high = equilibrium_norm(extremes, run.config["lr_init"], run.config["wd"])
            norm = trace["si_norm"][steps]
            steps_inside.extend((low <= norm) & (norm <= high))
        inside.append(np.mean(steps_inside))
        rows.append({"run": run.folder.as_posix(), "lengths": columns[0], "rho_high": columns[1],
                     "rho_low": columns[2], "inside": inside[-1]})  # fmt: skip
    estimates = [ratio(f"drift of {name}", d, (0.75, 1.25)) for name, d in drifts.items()]
    words = "share of seeds with ρ between its equilibria in 99 % of steps"
    estimates.append(share(words, [part >= 0.99 for part in inside]))
    return Finding(tuple(estimates), rows)


FACTORS = tuple(2 ** (k / 2) for k in range(-4, 9))  # on η and 1/λ: 1/4 to 16 in steps of √2


def late_gradients(run: Run) -> np.ndarray:
    """Effective gradient norms of all steps in the second halves of phase B: (n,)."""
    trace, found = run.trace(), np.zeros(0)
    gradient = effective_gradient_norm(trace["gradient_norm"], trace["si_norm"])
    for period in settled(run).cycles:
        middle = (period.start + period.turn) / 2
        steps = (trace["epoch"] >= middle) & (trace["epoch"] < period.low)
        found = np.append(found, gradient[steps])
    return found


@claim(
    "P1 (4)", "Jumps come where theory puts them: at the effective rate that a δ-jump needs", BASE,
    seeds=10, hours=0.4,
    power=("a factor of 1.3 with a spread of a factor 1.35 between seeds",
           power_of_mean(10, math.log(1.3), 0.3, (-math.log(2), math.log(2)))),
)  # fmt: skip
def destabilisation(base: list[Run]) -> Finding:
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
    gradients = {run.folder: np.median(late_gradients(run)) for run in base}
    half_rates, rows, timing = {}, [], []
    for run in base:
        doses = []
        for _, epoch, _ in branch_points(run):
            jumps = []
            for factor in FACTORS:
                lr, wd = factor * run.config["lr_init"], run.config["wd"] / factor
                changes = {"lr_init": lr, "wd": wd, "fix_si_pnorm": True, **LOG_ONLY, "trace": True}
                epochs = -(-WITHIN // run.steps_per_epoch)
                trace = branch(run, epoch, epochs, seed=OTHER_SEED, **changes).trace()
                jumps.append(bool((trace["one_minus_cosine"][:WITHIN] > DELTA).any()))
            largest = math.log(FACTORS[-1] * run.config["lr_init"] / trace["si_norm"][0] ** 2)
            step = math.log(FACTORS[1] / FACTORS[0])
            doses.append(largest + step / 2 - step * sum(jumps))
            rows.append({"run": run.folder.as_posix(), "from": epoch, "jumps": jumps,
                         "half": math.exp(doses[-1])})  # fmt: skip
        half_rates[run.folder] = math.exp(np.mean(doses))
        timing.append(np.median(forecast_errors(run)))
    ratios, at_turn = [], []
    for run in base:
        others = [folder for folder in half_rates if folder != run.folder]
        threshold = jump_threshold(DELTA, run.config["lr_init"], run.config["wd"])
        bound = threshold / np.median([gradients[folder] for folder in others])
        ratios.append(half_rates[run.folder] / bound)
        expected = math.sqrt(run.config["lr_init"] / np.median([half_rates[f] for f in others]))
        at_turn.append(np.median(settled(run).each("rho_turn")) / expected)
    return Finding(
        (ratio("η̃ at which half jump, over the bound", ratios, (0.5, 2)),
         ratio("ρ at the turn, over its forecast", at_turn),
         mean("error of the forecast time to the turn, over the fall", timing)), rows
    )  # fmt: skip


def forecast_errors(run: Run, asked: float = 0.5) -> list[float]:
    """Error of `time_to_turn` over the length of the fall, asked half way in every fall."""
    log, errors = run.log(), []
    cycles = run.periods.cycles
    for number, period in enumerate(cycles[1:], 1):
        fall = period.turn - period.start
        past = log["epoch"] <= period.start + asked * fall
        times = log["epoch"][past]
        left = time_to_turn(times, log["si_norm"][past], cycles[:number])
        errors.append(math.inf if left is None else abs(left - (period.turn - times[-1])) / fall)
    return errors


@claim(
    "new", "A lower rate late in phase B postpones the destabilisation by as much as ρ needs", BASE,
    seeds=10, hours=0.3,
    power=("a ratio of 0.86 with a spread of 0.29 between seeds",
           power_of_mean(10, 0.86, 0.29, (0.5, 1.5))),
)  # fmt: skip
def sharpness(base: list[Run]) -> Finding:
    """Paper: none claims it; what limits η̃ is the sharpness of the minimum, so at half the rate ρ
    has to fall by another √2 before the network destabilises.

    Estimate: branches from 75 % of phase B with η/2 and 2λ, so that ρ shrinks as fast (η/2 alone
    would be kinematics: ρ shrinks half as fast): their delay against branches with η and λ, over
    ln √2 / (ηλ) steps, a seed's mean; 95 % interval inside 0.5 to 1.5.

    Contradicted by: no delay, or one that is more than twice off.

    Limits: digits, width 8; branches that do not destabilise within three lengths of phase B are
    left out, their number is in the rows.
    """
    delays, rows = [], []
    for run in base:
        lr, wd = run.config["lr_init"], run.config["wd"]
        theory = math.log(2) / 2 / (lr * wd * run.steps_per_epoch)
        found = []
        for _, epoch, needed in branch_points(run):
            arms = [
                destabilises(
                    branch(run, epoch, PATIENCE * needed, seed=OTHER_SEED, **LOG_ONLY, **changes)
                )
                for changes in ({}, {"lr_init": lr / 2, "wd": 2 * wd})
            ]
            found.append((arms[1] - arms[0]) / theory if np.isfinite(arms).all() else math.nan)
            rows.append({"run": run.folder.as_posix(), "from": epoch, "same": arms[0],
                         "half": arms[1], "delay": found[-1]})  # fmt: skip
        if np.isfinite(found).any():
            delays.append(np.nanmean(found))
    return Finding((mean("delay over its theory", delays, (0.5, 1.5)),), rows)


@claim(
    "new", "The angle of a step in equilibrium is that of theory",
    setting("angles", "every step of SGD, with and without momentum, and of AdamW",
            *({"momentum": 0.0, "lr_init": 1.0, "wd": wd} for wd in (0.0065, 0.013, 0.026)),
            *({"momentum": 0.9, "lr_init": 0.1, "wd": wd} for wd in (0.01, 0.02, 0.04)),
            *({"optimizer": "adamw", "lr_init": 0.02, "wd": wd}
              for wd in (0.25, 0.5, 1.0)),
            **CIFAR, epochs=60, save_freq=20, trace=True),
    seeds=5, hours=0.3,
    power=("ratios of 1.0 with a spread of 0.03 between seeds, nine of them",
           power_of_mean(5, 1.0, 0.03, (0.9, 1.1)) ** 9),
)  # fmt: skip
def angles(found: list[Run]) -> Finding:
    """Paper: none claims it for these; theory of rotational equilibrium (Wan et al. 2021, Kosson et
    al. 2024): weight decay and random gradients balance at an angle per step that ηλ sets.

    Estimate: the root mean square angle of a step, in the second half of a run, over theory's; 95 %
    interval inside ± 10 % at each of three ηλ, for plain SGD, momentum and AdamW.

    Contradicted by: a ratio more than a tenth off at any of the nine.

    Limits: 2,560 CIFAR-10 images, width 8, in chaos or far from a minimum: where there are periods
    ρ is not in equilibrium.
    """
    estimates, rows = [], []
    for line in by_line(found).values():
        ratios = []
        for run in line:
            # 1 - cos is θ²/2 to the order in which theory's formulas hold
            angle = float(np.sqrt(np.mean(2 * second_half(run.trace()["one_minus_cosine"]))))
            theory = run.equilibrium_angle
            ratios.append(angle / theory)
            rows.append({"run": run.folder.as_posix(), "angle": angle, "theory": theory,
                         "periods": len(settled(run))})  # fmt: skip
        config = line[0].config
        kind = "AdamW" if config["optimizer"] == "adamw" else "SGD"
        kind += ", momentum" if kind == "SGD" and config["momentum"] else ""
        estimates.append(mean(f"{kind}, ηλ = {rate(line[0]):.2g}", ratios, (0.9, 1.1)))
    return Finding(tuple(estimates), rows)
