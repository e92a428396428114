"""P1: where there are periods, how often they come, how long they are, and whether they stay."""

import math
from collections.abc import Sequence

import numpy as np

from claims.branches import LOG_ONLY, branch, by_line, by_seed, loss_periods, rate, settled
from claims.claim import Found, claim, setting
from claims.statistics import (
    ABOVE,
    mean,
    median,
    power_of_mean,
    power_of_share,
    ratio,
    share,
    slope,
)
from experiments.setting import TRAINABLE
from runs import Run
from theory.periods import Periods

TEN_OF_TWELVE = ("more than half of the seeds, that is 10 of 12, if 95 % are periodic",
                 power_of_share(12, 0.95))  # fmt: skip


def e_folds(count: float, lr: float, wd: float) -> dict:
    """A line at these rates for so many e-folds of weight decay, with 4 steps an epoch."""
    return {"lr_init": lr, "wd": wd, "epochs": round(count / (4 * lr * wd))}


def periodic_lines(lines: Sequence[tuple[str, Sequence[Run]]]) -> Found:
    """Share of periodic seeds of every line; mean CV and chance's limit beside it."""
    estimates, rows = [], []
    for name, line in lines:
        found = [settled(run) for run in line]
        long = [p for p in found if len(p) > 2]
        estimates += [
            share(f"{name}: share of seeds periodic", [p.is_periodic for p in found]),
            mean(f"{name}: CV of the lengths", [p.cv for p in long]),
            mean(f"{name}: chance's limit of the CV", [p.cv_limit for p in long]),
        ]
        rows += [
            {"run": run, "line": name, "turns": p.turns, "cv": p.cv, "cv_limit": p.cv_limit,
             "dispersion": p.dispersion, "orderly": p.orderly, "goes_on": p.goes_on,
             "periodic": p.is_periodic}
            for run, p in zip(line, found, strict=True)
        ]  # fmt: skip
    return estimates, rows


# --- claim 1 ---


@claim(
    "P1 (1)", "Periods over a wide range of η and λ; too small shows none in the budget, too large "
    "never learns",
    setting("range_digits", {"lr_init": 0.001, "wd": 0.05, "epochs": 250},
            *(e_folds(27, lr, 0.05) for lr in (0.05, 0.16, 0.5)),
            {"lr_init": 1.0, "wd": 0.05, "epochs": 400}),
    setting("range_images", *(e_folds(27, lr, 0.04) for lr in (0.045, 0.1, 0.225)),
            dataset="CIFAR10", save_freq=50),
    seeds=12, hours=3.8,
    power=("all seven shares at 96 %; a ratio of 1.0 with a spread of a factor 1.15 between seeds",
           power_of_share(12, 0.96) ** 7
           * power_of_mean(12, 0, math.log(1.15), (-math.log(1.25), math.log(1.25)))),
)  # fmt: skip
def range_(digits: list[Run], images: list[Run]) -> Found:
    """Paper: periods occur for a wide range of η and λ; with v = w/√η only ηλ matters but for the
    start. Too small a product is too slow for the budget, too large a one is permanently unstable.

    Estimate: the share of seeds that are periodic, one-sided 95 % bound above one half ("periods
    occur" is more often than not), at each of three ηλ over a decade on digits and three on images;
    no period at the smallest in more than half of the seeds; at the largest the ratio of the median
    loss of the last quarter of a run to that of the third within a factor 1.25 ("permanently").

    Contradicted by: at most 2 of 12 seeds with periods at any of the six rates, or without one at
    the smallest, or a loss that goes on falling or rising at the largest.

    Limits: networks of width 8, 512 images; a factor of 5 of ηλ on images; none at the smallest
    rate is by construction, as weight decay takes 5 % off ρ in that budget.
    """
    (_, smallest), *between, (_, largest) = by_line(digits)
    named = [(f"digits, {name}", line) for name, line in between]
    named += [(f"images, {name}", line) for name, line in by_line(images)]
    estimates, rows = periodic_lines(named)
    losses = [np.array_split(run.log()["train_loss"], 4) for run in largest]
    drift = [np.median(loss[3]) / np.median(loss[2]) for loss in losses]
    wrong = [1 - np.mean(run.log()["train_acc"][-100:]) for run in largest]
    without = [not len(run.periods) for run in smallest]
    return [
        *(estimate for estimate in estimates if estimate.inside),
        share("smallest ηλ: share of seeds without a period", without),
        ratio("largest ηλ: loss of quarter 4 over quarter 3", drift, (1 / 1.25, 1.25)),
        mean("largest ηλ: training error at the end", wrong),
    ], rows


# --- claim 3 ---

FREQUENCY = (
    setting("frequency_digits",
            *(e_folds(36, lr, 0.04) for lr in (0.04, 0.07, 0.13, 0.23, 0.4)), save_freq=100),
    setting("frequency_images", *(e_folds(27, lr, 0.04) for lr in (0.04, 0.07, 0.13, 0.23)),
            dataset="CIFAR10", save_freq=100),
)  # fmt: skip


@claim(
    "P1 (3)", "The frequency of periods is proportional to ηλ", *FREQUENCY,
    seeds=(5, 8), hours=4.5,
    power=("exponent 1.1 on digits (spread 0.06 with 36 e-folds) and 0.95 on images (0.15)",
           power_of_mean(5, 1.1, 0.06, (0.75, 1.25)) * power_of_mean(8, 0.95, 0.15, (0.75, 1.25))),
)  # fmt: skip
def frequency(digits: list[Run], images: list[Run]) -> Found:
    """Paper: without gradients ρ decays by 1 - ηλ a step, so the frequency is proportional to ηλ.

    Estimate: the exponent of frequency against ηλ, its 95 % interval inside 1 ± 0.25 (a quarter off
    is still "proportional", not "as the square root"), on digits and on images;
    beside it its two parts: the exponents of frequency × depth, the law itself, and of the depth
    ln(ρ_high/ρ_low), since falls are shallower at high ηλ.

    Contradicted by: an interval wholly outside 0.75 to 1.25 on either data set.

    Limits: small networks; on images no higher ηλ than 0.0092, above which periods are too few.
    """
    margins = {"frequency": (0.75, 1.25), "frequency × depth": None, "depth": None}
    estimates, rows = [], []
    for name, found in (("digits", digits), ("images", images)):
        exponents = []
        for trial, line in by_seed(found).items():
            periods = [settled(run) for run in line]
            often = np.array([p.frequency for p in periods])
            depth = np.array([np.mean(falls(p)) if len(p) else math.nan for p in periods])
            rates = np.array([*map(rate, line)])
            values = (often, often * depth, depth)
            exponents.append([slope(np.log(rates), np.log(y)) for y in values])
            rows.append({"data": name, "trial": trial, "rates": rates, "frequency": often,
                         "depth": depth, "periods": [*map(len, periods)]})  # fmt: skip
        for (part, inside), of_seeds in zip(margins.items(), np.transpose(exponents), strict=True):
            estimates.append(mean(f"{name}: exponent of {part}", of_seeds, inside))
    return estimates, rows


def falls(found: Periods) -> np.ndarray:
    """ln(ρ_high / ρ_low) of the phase B of every period."""
    return np.log(found.each("rho_start") / found.each("rho_turn"))


@claim(
    "P1 (3)", "Phase B takes as long as weight decay needs, without a fit", *FREQUENCY,
    seeds=(5, 8), hours=0.0,
    power=("medians of 1.015 to 1.15 by rate, spread of a seed's median 0.01 to 0.03",
           power_of_mean(5, 1.15, 0.03, (1.0, 1.25)) * power_of_mean(5, 1.015, 0.008, (1.0, 1.25))),
)  # fmt: skip
def length(digits: list[Run], images: list[Run]) -> Found:
    """Paper: from ρ_high to ρ_low weight decay alone takes ln(ρ_high/ρ_low) / -ln(1 - ηλ) steps;
    gradients only slow it down: a lower bound.

    Estimate: steps of phase B over that bound, the median by rate inside 1 to 1.25 (95 % bootstrap
    of whole seeds): "negligible gradients" leave a quarter. Shares the runs of *frequency*.

    Contradicted by: a rate at which the interval lies below 1 or above 1.25.

    Limits: small networks; the bound holds in every step, so values below 1 are rounding to whole
    epochs; the bootstrap covers 89 to 90 % with 5 to 8 seeds, instead of 95.
    """
    estimates, rows = [], []
    for data, found in (("digits", digits), ("images", images)):
        for name, line in by_line(found):
            ratios = []
            for run in line:
                periods = settled(run)
                steps = (periods.each("turn") - periods.each("start")) * run.steps_per_epoch
                ratios.append(steps * -math.log1p(-rate(run)) / falls(periods))
            estimates.append(median(f"{data}, {name}: median", ratios, (1.0, 1.25)))
            rows.append({"data": data, "rate": rate(line[0]), "ratios": ratios})
    return estimates, rows


# --- claims 7 to 9: the same question in other settings ---


@claim(
    "P1 (7)", "Full-batch gradient descent has periods too",
    setting("full_batch", {"lr_init": 0.5, "wd": 0.05}, use_data_size=256, batch_size=256,
            epochs=1600, fbgd=True, save_freq=100, quick={"epochs": 500, "save_freq": 100}),
    seeds=12, hours=0.25, power=TEN_OF_TWELVE,
)  # fmt: skip
def full_batch(found: list[Run]) -> Found:
    """Paper: periods are no effect of the noise of batches; full-batch descent has them.

    Estimate: the share of seeds with periods to the end of the run, one-sided 95 % bound above one
    half (10 of 12 seeds); beside it the mean CV and chance's.

    Contradicted by: at most 2 periodic seeds of 12.

    Limits: 256 digits, width 8; one η and λ.
    """
    return periodic_lines(by_line(found, "full batch"))


@claim(
    "P1 (8)", "Periods with momentum, with augmentation, with all weights trainable",
    setting("each", {"momentum": 0.9, "lr_init": 0.02, "wd": 0.1},
            {"noaug": False, "lr_init": 0.1, "wd": 0.05},
            {**TRAINABLE, "lr_init": 0.1, "wd": 0.05}, epochs=400),
    seeds=12, hours=0.5,
    power=("all three shares above one half if 97 % are periodic", power_of_share(12, 0.97) ** 3),
)  # fmt: skip
def each(found: list[Run]) -> Found:
    """Paper: periods persist with each of what practice adds: momentum, augmentation, all weights.

    Estimate: for each the share of seeds with periods to the end, one-sided 95 % bound above one
    half (10 of 12); beside it the mean CV and chance's.

    Contradicted by: at most 2 periodic seeds of 12 with any of them.

    Limits: digits, width 8; one setting each.
    """
    return periodic_lines(by_line(found, "momentum", "augmentation", "all weights"))


@claim(
    "P1 (8)", "Periods in practice: momentum, augmentation and all weights at once",
    setting("practice", {"lr_init": 0.03, "wd": 0.01}, base=TRAINABLE, num_channels=16,
            use_data_size=512, momentum=0.9, noaug=False, epochs=2000, save_freq=100),
    seeds=13, hours=2.7,
    power=("more than half of the seeds, that is 10 of 13, if 95 % are periodic",
           power_of_share(13, 0.95)),
)  # fmt: skip
def practice(found: list[Run]) -> Found:
    """Paper: periods persist in practice, with momentum, augmentation and all weights at once.

    Estimate: the share of seeds with periods to the end of 2,000 epochs, one-sided 95 % bound above
    one half (10 of 13). An arm with ρ held from a quarter of the run on asks whether these swings
    are the papers' mechanism: the difference, free minus held, of the shares with periods of the
    loss alone in the next 500 epochs, 95 % interval above 0.5.

    Contradicted by: at most 3 periodic seeds of 13, or a held arm as periodic as the free one.

    Limits: 512 images, width 16; all trainable weights are decayed, the held arm holds the norm of
    the scale-invariant ones alone.
    """
    estimates, rows = periodic_lines(by_line(found, "practice"))
    differences = []
    for run in found:
        start = run.config["epochs"] // 4
        held = loss_periods(branch(run, start, 500, fix_si_pnorm=True, **LOG_ONLY))
        free = loss_periods(run, start, start + 500)
        differences.append(float(free.is_regular) - held.is_regular)
        rows.append({"run": run, "free": free.turns, "held": held.turns})
    words = "regular loss, free minus held"
    return [*estimates, mean(words, differences, ABOVE(0.5), bounds=(-1, 1))], rows


@claim(
    "P1 (8)", "Periods of ResNet-18 with all weights trainable (P1, Figure 1)",
    setting("resnet18", {"lr_init": 0.1, "wd": 0.01}, base=TRAINABLE, model="ResNet18SIAf",
            num_channels=8, use_data_size=1280, epochs=700, save_freq=50),
    seeds=8, hours=1.3,
    power=("more than half of the seeds, that is 7 of 8, if 95 % are periodic",
           power_of_share(8, 0.95)),
)  # fmt: skip
def resnet18(found: list[Run]) -> Found:
    """Paper: Figure 1 shows periods of ResNet-18 trained with all weights.

    Estimate: the share of seeds with periods to the end of the run, one-sided 95 % bound above one
    half (7 of 8 seeds); beside it the mean CV and chance's.

    Contradicted by: at most one periodic seed of 8.

    Limits: width 8, 1,280 images; one η and λ.
    """
    return periodic_lines(by_line(found, "ResNet-18"))


@claim(
    "P1 (9)", "Periods with Adam",
    setting("adam", {"lr_init": 0.02, "wd": 0.04}, optimizer="adam", epochs=400,
            quick={"epochs": 120, "save_freq": 40}),
    seeds=12, hours=0.2, power=TEN_OF_TWELVE,
)  # fmt: skip
def adam(found: list[Run]) -> Found:
    """Paper: periods appear with Adam too.

    Estimate: the share of seeds with periods to the end of the run, one-sided 95 % bound above one
    half (10 of 12); beside it the mean CV and chance's.

    Contradicted by: at most 2 periodic seeds of 12.

    Limits: digits, width 8; one η and λ; Adam's coupled decay, whose periods count from the start.
    """
    return periodic_lines(by_line(found, "Adam"))


@claim(
    "P1 (9)", "Periods with layer, group, instance and weight normalisation",
    setting("norms",
            *({"lr_init": 0.1, "wd": 0.08, "norm": n} for n in ("layer", "group", "instance")),
            {"lr_init": 0.1, "wd": 0.04, "norm": "weight", "init_scale": 3.0, "epochs": 900},
            epochs=450),
    seeds=12, hours=0.9,
    power=("all four shares above one half if 98 % are periodic", power_of_share(12, 0.98) ** 4),
)  # fmt: skip
def norms(found: list[Run]) -> Found:
    """Paper: periods appear with other normalisations.

    Estimate: for each alone the share of seeds with periods to the end, one-sided 95 % bound above
    one half (10 of 12); beside it the mean CV and chance's. Weight normalisation is that of P2's
    code: the length of every filter frozen at its initial value; with a last layer of norm 3, as
    digits are separated with 10, the loss falls to nothing and the network dies (trial 0).

    Contradicted by: at most 2 periodic seeds of 12 with any of them.

    Limits: digits, width 8; one η and λ for each.
    """
    return periodic_lines(by_line(found, "layer", "group", "instance", "weight"))
