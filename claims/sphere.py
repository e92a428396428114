"""P2: the three regimes on the sphere, in ordinary training, and in a toy function."""

import math
from collections.abc import Sequence

import numpy as np

from claims.branches import branch, by_line, by_seed, rate, second_half
from claims.claim import CIFAR, Found, NotMeasurable, claim, setting
from claims.statistics import (
    ABOVE,
    BELOW,
    Estimate,
    mean,
    power_of_mean,
    power_of_share,
    ratio,
    share,
    slope,
)
from measuring.meter import Meter
from measuring.rebuild import rebuild
from options import Measure
from runs import Run, at_common_epochs, checkpoint_path, checkpoints
from theory import toy as toy_model
from theory.dynamics import equilibrium_norm
from theory.regimes import REGIMES, Regime, find_regime

# --- P1, claim 4, and P2: chaos in ordinary training against the sphere ---

CHAOS = (
    setting("chaos", *({"lr_init": 1.0, "wd": wd} for wd in (0.0065, 0.013, 0.026)),
            base=CIFAR, epochs=160, save_freq=20, trace=True),
    setting("chaos_sphere",  # at the effective rates of that chaos
            *({"elr": elr} for elr in (0.004, 0.0055, 0.0075, 0.0105, 0.0145, 0.02, 0.028)),
            base=CIFAR, epochs=80, save_freq=20, trace=True),
)  # fmt: skip


def chaos_levels(run: Run) -> tuple[float, float]:
    """Median loss and root mean square of the effective gradient, in the second half of a run."""
    late = second_half(run)
    effective = float(np.sqrt(np.mean(late["effective_gradient"] ** 2)))
    return float(np.median(late["loss"])), effective


def sphere_levels(sphere: Sequence[Run]) -> dict[int, np.ndarray]:
    """Of each trial, by rising rate: ELR, median loss and effective gradient: (3, n)."""
    return {
        trial: np.array([(rate(run), *chaos_levels(run)) for run in line]).T
        for trial, line in by_seed(sphere).items()
    }


def forecast_norm(elrs: np.ndarray, gradients: np.ndarray, lr: float, wd: float) -> float:
    """The norm ρ* at which ρ* is the equilibrium norm of the gradients at the rate η/ρ*². Gradients
    are interpolated in logarithms between rates of the sphere; NaN if no rates bracket it."""
    rho = np.sqrt(lr / np.geomspace(elrs[0], elrs[-1], 2001))
    known = np.exp(np.interp(np.log(lr / rho**2), np.log(elrs), np.log(gradients)))
    gap = np.log(equilibrium_norm(known, lr, wd) / rho)
    crossing = np.flatnonzero(np.sign(gap[:-1]) != np.sign(gap[1:]))
    return float(rho[crossing[0]]) if len(crossing) else math.nan


@claim(
    "P1 (4)", "In chaos ρ is the equilibrium norm", *CHAOS, seeds=8, hours=1.8,
    power=("ratios of 1.04 with a spread of 0.03 between seeds, at three λ",
           power_of_mean(8, math.log(1.04), 0.03, (math.log(0.9), math.log(1.1))) ** 3),
)  # fmt: skip
def norm_in_chaos(chaos: list[Run], sphere: list[Run]) -> Found:
    """Paper: with gradients of a constant norm ρ settles at the equilibrium norm,
    ρ*⁴ = η‖g̃‖² / (λ(2 - ηλ)).

    Estimate: the median ρ of the second half of a run over its forecast from gradients measured on
    the sphere, geometric mean at each of three λ over a factor of four, 95 % interval inside ± 10 %
    (equivalence). Shares its runs with *ordinary*.

    Contradicted by: ρ more than a tenth off at any of the three.

    Limits: 2,560 CIFAR-10 images, width 8; one η.
    """
    levels, estimates, rows = sphere_levels(sphere), [], []
    for name, line in by_line(chaos):
        ratios = []
        for run in line:
            elrs, _, gradients = levels[run.config["trial"]]
            expected = forecast_norm(elrs, gradients, run.config["lr_init"], run.config["wd"])
            norm = float(np.median(second_half(run)["si_norm"]))
            ratios.append(norm / expected)
            rows.append({"run": run, "norm": norm, "forecast": expected})
        estimates.append(ratio(f"{name}: ρ over its forecast", ratios, (0.9, 1.1)))
    return estimates, rows


@claim(
    "P2 (1)", "The chaotic regime shows up in ordinary training", *CHAOS, seeds=8, hours=0.0,
    power=("ratios of 0.98 and 1.06 with a spread of 0.05 between seeds, at three λ",
           (power_of_mean(8, math.log(0.98), 0.05, (math.log(0.8), math.log(1.2)))
            * power_of_mean(8, math.log(1.06), 0.05, (math.log(0.8), math.log(1.2)))) ** 3),
)  # fmt: skip
def ordinary(chaos: list[Run], sphere: list[Run]) -> Found:
    """Paper: training with ρ free goes through the same regimes, by its present effective rate.

    Estimate: median loss and effective gradient of ordinary chaos over those on the sphere at the
    same η̃ (interpolated in logarithms), geometric means at each of three λ over a factor of four,
    95 % intervals inside ± 20 % (equivalence). Shares its runs with *norm_in_chaos*.

    Contradicted by: loss or gradient more than a fifth off at any of the three.

    Limits: 2,560 CIFAR-10 images, width 8; one η.
    """
    levels, estimates, rows = sphere_levels(sphere), [], []
    for name, line in by_line(chaos):
        ratios = []
        for run in line:
            elrs, *known = np.log(levels[run.config["trial"]])
            late = second_half(run)
            elr = float(np.median(late["lr"] / late["si_norm"] ** 2))
            if not elrs[0] <= math.log(elr) <= elrs[-1]:
                raise NotMeasurable(f"{run.folder}: η̃ = {elr:.2g} is outside the sphere's rates")
            there = np.exp([np.interp(math.log(elr), elrs, level) for level in known])
            ratios.append(chaos_levels(run) / there)
            rows.append({"run": run, "elr": elr, "ratios": ratios[-1]})
        for i, kind in enumerate(("loss", "effective gradient")):
            of_seeds = [both[i] for both in ratios]
            estimates.append(ratio(f"{name}: {kind} over the sphere's", of_seeds, (0.8, 1.2)))
    return estimates, rows


# --- P2 on the sphere ---


@claim(
    "P2 (1)",
    "Three regimes on the sphere, in this order; the level of the second grows with the rate",
    setting("regimes", *({"elr": elr, "epochs": epochs} for elr, epochs in (
                (5e-4, 130), (1e-3, 90), (2e-3, 90), (3e-3, 150), (4e-3, 150), (6e-3, 150),
                (7.5e-3, 150), (9.5e-3, 150), (1.2e-2, 150), (1.6e-2, 100), (2.4e-2, 60),
                (5e-2, 30), (0.1, 30))),
            base=CIFAR, save_freq=5),
    seeds=8, hours=2.7,
    power=("95 % of seeds in order; a slope of 0.5 with a spread of 0.15 between seeds",
           power_of_share(8, 0.95) * power_of_mean(8, 0.5, 0.15, ABOVE(0))),
)  # fmt: skip
def regimes(found: list[Run]) -> Found:
    """Paper: at a fixed ELR training converges, hovers in chaotic equilibrium or diverges, in this
    order by rate; the level of the equilibrium grows with the rate.

    Estimate: the share of seeds whose regimes come in order, one-sided 95 % bound above one half (7
    of 8); the slope of log level on log ELR over the chaotic rates, 95 % interval above 0; the
    ratio of the level of the last quarter to that of the third, chaotic rates, inside a factor of
    1.15 (an equilibrium stays). Beside it both boundaries.

    Contradicted by: regimes out of order in most seeds, a level that falls with the rate, or one
    that drifts by more than 15 %.

    Limits: 2,560 CIFAR-10 images, width 8, 30 to 150 epochs; a grid of 13 rates.
    """
    ordered, slopes, drifts, rows = [], [], [], []
    begins, ends = [], []
    for trial, line in by_seed(found).items():
        elrs = np.array([*map(rate, line)])
        place, level = places([run.regime for run in line]), [run.regime.level for run in line]
        named = place[place >= 0]
        ordered.append({*named} == {0, 1, 2} and (np.diff(named) >= 0).all())
        first = min(elrs[place == 1], default=math.inf)
        chaotic = (place == 1) | ((place < 0) & (elrs > first))
        rows.append({"trial": trial, "elrs": elrs, "levels": level,
                     "regimes": [str(run.regime) for run in line]})  # fmt: skip
        if chaotic.sum() < 2:
            continue
        slopes.append(slope(np.log(elrs[chaotic]), np.log(np.array(level)[chaotic])))
        quarters = [np.array_split(line[i].log()["train_loss"], 4) for i in chaotic.nonzero()[0]]
        drift = [math.log(np.median(q[3]) / np.median(q[2])) for q in quarters]
        drifts.append(math.exp(np.mean(drift)))
        for boundary, low in ((begins, 0), (ends, 1)):
            below, above = elrs[(place >= 0) & (place <= low)], elrs[place > low]
            if len(below) and len(above):
                boundary.append(math.sqrt(below.max() * above.min()))
    return [
        share("share of seeds in order", ordered),
        mean("slope of log level on log ELR", slopes, ABOVE(0)),
        ratio("level, quarter 4 over quarter 3", drifts, (1 / 1.15, 1.15)),
        ratio("ELR where the second regime begins", begins),
        ratio("ELR where it ends", ends),
    ], rows


def places(regimes: Sequence[Regime]) -> np.ndarray:
    """Places in `REGIMES` by rising rate; -1 for a run that does not suffice to tell. A loss that
    still falls, at rates below all that hover, is on its way to a minimum."""
    found: list[int] = []
    for regime in regimes:
        if regime.name:
            found.append(REGIMES.index(regime.name))
        else:
            found.append(0 if regime.reason.endswith("falls") and 1 not in found else -1)
    return np.array(found)


SAME_LOSS = 0.1  # training loss at which rates are compared


@claim(
    "P2 (2)", "In the first regime a higher rate finds better minima",
    setting("features",  # for equal products of rate and epochs
            *({"elr": 5e-4 * 2**k, "epochs": 400 // 2**k} for k in range(3)),
            base=CIFAR, use_test_size=None, save_freq=4, keep=2),
    seeds=11, hours=3.7,
    power=("a fall of 0.9 points a doubling with a spread of 0.7 between seeds, twice",
           power_of_mean(11, -0.9, 0.7, BELOW(0)) ** 2),
)  # fmt: skip
def features(found: list[Run]) -> Found:
    """Paper: in the first regime a higher ELR leads to minima that are flatter and generalise
    better.

    Estimate: the slope of the test error on log₂ ELR over three converging rates, in points a
    doubling, where the training loss first comes to 0.1 and at the end of runs with equal products
    of rate and epochs; 95 % intervals below 0. Beside it the slopes of two measures of sharpness at
    the end, Fisher trace × ELR and leading Hessian eigenvalue, in log₂.

    Contradicted by: errors that rise with the rate.

    Limits: 2,560 CIFAR-10 images, width 8; rates over a factor of four.
    """
    margins = {
        "test error per doubling at a loss of 0.1": BELOW(0),
        "test error per doubling at the end": BELOW(0),
        "log₂ Fisher trace × ELR per doubling": None,
        "log₂ Hessian eigenvalue per doubling": None,
    }
    slopes, rows = [], []
    for trial, line in by_seed(found).items():
        elrs = np.array([*map(rate, line)])
        errors = np.transpose([(error_at_loss(run, SAME_LOSS), last_error(run)) for run in line])
        sharp = np.log2([sharpness_at_end(run) for run in line]).T
        slopes.append([slope(np.log2(elrs), y) for y in (*errors, *sharp)])
        rows.append({"trial": trial, "elrs": elrs, "errors": errors, "log2_sharpness": sharp})
    return [
        mean(name, of_seeds, inside)
        for (name, inside), of_seeds in zip(margins.items(), np.transpose(slopes), strict=True)
    ], rows


def error_at_loss(run: Run, level: float) -> float:
    """Test error in % where the training loss first comes to a level; NaN where it does not."""
    _, loss, errors = at_common_epochs(run.curves, "train_loss", "test_error")
    below = np.flatnonzero(loss <= level)
    if not len(below) or below[0] == 0:
        return math.nan
    around = [below[0], below[0] - 1]
    x = np.log(loss[around])  # rising, as np.interp needs it
    return float(np.interp(math.log(level), x, errors[around]))


def last_error(run: Run) -> float:
    return float(run.curves["test_error"].values[-1])


def sharpness_at_end(run: Run) -> tuple[float, float]:
    """Fisher trace × ELR and leading Hessian eigenvalue at a run's last checkpoint."""
    model, images, _ = rebuild(run)
    checkpoints.load_into(model, checkpoint_path(run.folder, run.config["epochs"]))
    size = run.options.batch_size
    asked = Measure(fisher_trace=True, hess_evals=True, train_mode=True, batch_size=size)
    (numbers,) = Meter(model, images, asked).measure().values()
    return float(numbers["fisher_trace"]) * rate(run), float(np.max(numbers["hess_evals"]))


HIGH, INSIDE, LOW = 8e-3, 3e-3, 1e-3  # a rate of the second regime, two of the first


@claim(
    "P2 (3)", "Starting in the second regime and finishing in the first gives better optima",
    setting("optima", *({"elr": round(2 * INSIDE / 2 ** (k / 2), 6)} for k in range(6, -1, -1)),
            {"elr": HIGH, "epochs": 100},
            base=CIFAR, use_test_size=None, use_test=False, epochs=200, save_freq=10),
    seeds=12, hours=3.5,
    power=("a difference of -3.5 points with a spread of 3 between seeds, twice",
           power_of_mean(12, -3.5, 3.0, BELOW(0)) ** 2),
)  # fmt: skip
def optima(found: list[Run]) -> Found:
    """Paper: to start in the second regime and finish in the first reaches better optima than
    training in the first alone.

    Estimate: the test error after 100 epochs at ELR 0.008 and 100 at 0.001, minus that of the best
    of seven constant rates up to 0.006 (steps of √2, chosen on held-out images), and minus that
    of the same drop from 0.003, within the first regime ("a drop helps" and "the second regime
    helps" are not the same); paired by seed, 95 % intervals below 0.

    Contradicted by: an error that is not lower than either.

    Limits: 2,560 CIFAR-10 images, width 8, 200 epochs; one drop.
    """
    against_best, against_drop, rows = [], [], []
    for trial, line in by_seed(found).items():
        constant = line[:-1]  # the highest rate is that to drop from
        held_out = [run.log()["test_acc"][-1] for run in constant]  # without --use_test
        best = constant[np.argmax(held_out)]
        starts = {rate(run): run for run in line}
        dropped, inside = (
            last_error(branch(starts[elr], 100, 100, elr=LOW)) for elr in (HIGH, INSIDE)
        )
        against_best.append(dropped - last_error(best))
        against_drop.append(dropped - inside)
        rows.append({"trial": trial, "elrs": [*map(rate, constant)],
                     "errors": [*map(last_error, constant)], "best": rate(best),
                     "dropped": dropped, "inside": inside})  # fmt: skip
    return [
        mean("test error against the best constant rate, points", against_best, BELOW(0)),
        mean("against the same drop within the first regime, points", against_drop, BELOW(0)),
    ], rows


TOY_RATES = (0.01, 0.03, 0.1, 0.2, 0.28, 0.3, 0.4, 0.6, 1, 2, 5, 10, 100, 1000)
TOY_STEPS = 10_000


@claim(
    "P2 (1)", "A toy function has the same three regimes", seeds=(), hours=0.02,
    power=("256 starts: exact but for rounding", 1.0),
)  # fmt: skip
def toy() -> Found:
    """Paper: a function of six numbers shows all three regimes on the sphere.

    Estimate: the largest rate that converges over the derived bound 2/Σα, inside ± 1 %; mean losses
    at ELR 1 and 1000 over 1.27 and Σα/4, over 256 starts, inside ± 2 %; the regimes in order.

    Contradicted by: another order, or a level or boundary outside.

    Limits: none; 256 starts leave no chance in it.
    """
    boundary = toy_model.convergence_boundary(steps=3000) / toy_model.stability_bound()
    level = toy_model.random_level()
    losses = {elr: toy_model.descend(elr, TOY_STEPS, runs=256) for elr in TOY_RATES}
    means = [loss.mean(0) for loss in losses.values()]
    names = [find_regime(loss, loss / level).name for loss in means]
    place = [REGIMES.index(name) for name in names]
    in_order = float({*place} == {0, 1, 2} and place == sorted(place))
    estimates = [
        Estimate(name, [value], value, value, value, inside)
        for name, value, inside in (
            ("boundary over 2/Σα", boundary, (0.99, 1.01)),
            ("regimes in order (1: yes)", in_order, ABOVE(0.5)),
        )
    ]
    for elr, expected in ((1, 1.27), (1000, level)):
        starts = losses[elr][:, TOY_STEPS // 2 :].mean(1) / expected
        estimates.append(mean(f"loss at ELR {elr} over {expected:g}", starts, (0.98, 1.02)))
    return estimates, [{"elrs": TOY_RATES, "regimes": names}]
