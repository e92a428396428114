"""P1: the minima of successive periods: whether they are different functions, and improve."""

from collections.abc import Sequence

import numpy as np

import runs
from claims.branches import branch
from claims.claim import CIFAR, Found, NotMeasurable, claim, setting
from claims.mechanism import BASE
from claims.statistics import ABOVE, BELOW, mean, power_of_mean, ratio
from measuring import diversity
from measuring.rebuild import measure_checkpoint
from runs import Run

NEAR = 3  # epochs around a destabilisation
MINIMA = setting("minima", {"lr_init": 0.03, "wd": 0.02}, base=CIFAR, epochs=800, save_freq=2)


def minima_of_periods(run: Run) -> list[int]:
    """The checkpoint with the lowest training loss (train-tm; log.csv has means of epochs, which
    may end after the destabilisation) of every period that has turned. Raises NotMeasurable for
    fewer than four: the first three and up to five of the others are compared."""
    found = run.metrics("train-tm")
    there = np.isin(found["report_epochs"], [*runs.whole_epochs(run.folder)])
    epochs, loss = found["report_epochs"][there], found["loss"][there]
    lows = [*map(int, run.periods.minima(epochs, loss))]
    if len(lows) < 4:
        raise NotMeasurable(f"{run.folder} has {len(lows)} periods, fewer than 4")
    return lows


def held_arm(run: Run, lows: Sequence[int]) -> tuple[int, Run]:
    """An anchor, the first checkpoint in the last quarter of the way to the second minimum, and the
    run from there to its end with ρ held."""
    start = run.periods.cycles[1].start
    before = [epoch for epoch in runs.whole_epochs(run.folder) if epoch < lows[1]]
    late = start + 0.75 * (lows[1] - start)
    anchor = min([epoch for epoch in before if epoch >= late], default=before[-1])
    return anchor, branch(run, anchor, run.config["epochs"] - anchor, fix_si_pnorm=True)


def gain(found: dict, anchor: int, epochs: Sequence[int], prefix: str = "") -> float:
    """The mean gain of ensembles with the anchor over their better members, in points, from what
    `diversity.compare` found; with the prefix "independent_", for members of the other run."""
    own = found["acc"][found["report_epochs"] == anchor]
    at = np.isin(found[f"{prefix}report_epochs"], epochs)
    better = np.maximum(found[f"{prefix}acc"], own)
    return float(100 * (found[f"{prefix}ensemble_acc"] - better)[at].mean())


@claim(
    "P1 (5)", "Minima of different periods are different functions", MINIMA, seeds=8, hours=2.2,
    power=("an extra gain of 1.3 points with a spread of 0.5 between seeds",
           power_of_mean(8, 1.3, 0.5, ABOVE(0.5))),
)  # fmt: skip
def minima(found: list[Run]) -> Found:
    """Paper: minima of later periods are different functions: ensembles with an earlier one gain
    accuracy, up to the level of an independently trained network.

    Estimate: with an anchor before the second minimum, the gain of ensembles over their better
    member with minima of later periods, minus that with checkpoints of equal time with ρ held from
    the anchor on: 95 % interval above 0.5 points (the standard error of 10,000 test images).
    Beside it, in the papers' form, the gain with the last five minima as a share of that with an
    independent network's. Shares its runs with *turning* and *improvement*.

    Contradicted by: a gain that time alone brings, an interval below 0.5 points.

    Limits: 2,560 CIFAR-10 images, width 8, errors of 53 %; one η and λ.
    """
    if len(found) < 2:
        raise NotMeasurable("an independent network is needed: a second seed")
    lows_of = [minima_of_periods(run) for run in found]
    extra, shares, rows = [], [], []
    for i, (run, lows) in enumerate(zip(found, lows_of, strict=True)):
        other = (i + 1) % len(found)
        later, theirs = lows[2:], lows_of[other][-5:]
        anchor, held_run = held_arm(run, lows)
        held = diversity.compare(run.folder, anchor, held_run.folder, {anchor, *later})
        own = diversity.compare(run.folder, anchor, found[other].folder, {anchor, *later, *theirs})
        gains = {
            "periods": gain(own, anchor, later),
            "held": gain(held, anchor, later, "independent_"),
            "last_minima": gain(own, anchor, later[-5:]),
            "independent": gain(own, anchor, theirs, "independent_"),
        }
        extra.append(gains["periods"] - gains["held"])
        shares.append(gains["last_minima"] / gains["independent"])
        rows.append({"run": run, "anchor": anchor, "minima": lows, **gains})
    return [
        mean("extra gain of later periods over ρ held, points", extra, ABOVE(0.5)),
        mean("gain of the last minima over an independent network's", shares),
    ], rows


@claim(
    "new", "The weights turn faster where the network destabilises", BASE, MINIMA,
    seeds=(10, 8), hours=0.0,
    power=("ratios of 2.3 and 2.8 with a spread of a factor 1.2 and 1.4 between seeds",
           power_of_mean(10, np.log(2.3), np.log(1.2), ABOVE(np.log(1.5)))
           * power_of_mean(8, np.log(2.8), np.log(1.4), ABOVE(np.log(1.5)))),
)  # fmt: skip
def turning(digits: list[Run], images: list[Run]) -> Found:
    """Paper: none claims it; if minima of different periods are different functions, the way
    between them is made at the destabilisations.

    Estimate: the rate of turning of the weights (radians an epoch) within three epochs of
    destabilisations over that away from them, after the first one; 95 % interval above 1.5, on
    digits and on images. Shares the runs of *cause* and *minima*.

    Contradicted by: turning that is no faster there, an interval below 1.5.

    Limits: one setting on each; small networks.
    """
    estimates, rows = [], []
    for name, found in (("digits", digits), ("images", images)):
        ratios = []
        for run in found:
            turns = run.periods.turns
            if not len(turns):
                raise NotMeasurable(f"{run.folder} has no period")
            turned = diversity.turning(run.folder)
            begin, end = turned["from"], turned["to"]
            after = begin >= turns[0] - NEAR
            near = ((begin >= turns[:, None] - NEAR) & (end <= turns[:, None] + NEAR)).any(axis=0)
            pace, away = (
                turned["angle"][at].sum() / (end - begin)[at].sum()
                for at in (after & near, after & ~near)
            )
            ratios.append(pace / away)
            rows.append({"run": run, "near": pace, "away": away})
        estimates.append(ratio(f"{name}: rate of turning near over away", ratios, ABOVE(1.5)))
    return estimates, rows


@claim(
    "P1 (6)", "The minima of the first periods improve in test error", MINIMA, seeds=12, hours=4.4,
    power=("a fall of 2.2 points with a spread of 1.2 between seeds, 1.5 against ρ held",
           power_of_mean(12, -2.2, 1.2, BELOW(0)) * power_of_mean(12, -1.5, 1.2, BELOW(0))),
)  # fmt: skip
def improvement(found: list[Run]) -> Found:
    """Paper: from period to period the first minima have lower test errors.

    Estimate: the mean test error of the last five minima (of those after the third) minus that of
    the first three, 95 % interval below 0; and the same last epochs minus those of a run with ρ
    held from just before the second minimum on, below 0: more than time alone brings. Shares its
    runs with *minima*.

    Contradicted by: errors that rise, or that fall as much or more with ρ held.

    Limits: 2,560 CIFAR-10 images, width 8, errors of 53 %; one η and λ.
    """
    falls, against, rows = [], [], []
    for run in found:
        lows = minima_of_periods(run)
        first, last = lows[:3], lows[3:][-5:]
        _, held = held_arm(run, lows)
        before, errors, still = (
            [error_at(arm, epoch) for epoch in epochs]
            for arm, epochs in ((run, first), (run, last), (held, last))
        )
        falls.append(np.mean(errors) - np.mean(before))
        against.append(np.mean(errors) - np.mean(still))
        rows.append({"run": run, "minima": lows, "errors": [*before, *errors], "held": still})
    return [
        mean("test error, first 3 to last 5 minima, points", falls, BELOW(0)),
        mean("the last 5 against equal time with ρ held, points", against, BELOW(0)),
    ], rows


def error_at(run: Run, epoch: int) -> float:
    """Test error in % of a checkpoint, statistics of batch normalisation estimated anew."""
    return 100 * measure_checkpoint(runs.checkpoint_path(run.folder, epoch))["test_error"]
