"""What a claim is, what is found for it, and the branches that many of them train."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from claims import statistics
from claims.statistics import Interval
from experiments import Experiment
from experiments.setting import PAPER, rates
from runs import Run
from theory.periods import Periods, find_periods
from train import train

FIRST_TRIAL = 40  # trials before were seen when margins and settings were chosen
QUICK_SEEDS = 2  # of --quick, trials 0 and 1
OTHER_SEED = 7919  # of the branches: they do not repeat their parent's batches
PARTS = ("Paper", "Estimate", "Contradicted by", "Limits")  # paragraphs of a claim's docstring
CLAIMS: list["Claim"] = []


class NotMeasurable(Exception):
    """The runs do not show enough for a claim, such as periods to branch from."""


@dataclass(frozen=True)
class Estimate:
    """One number of a claim over seeds, and the margin that it is judged by.

    Attributes
    ----------
    name : what it is, in a few words.
    interval : estimate with its confidence interval.
    seeds : (n,) the number of each seed, drawn as points.
    inside : the open range in which the claim holds; None: shown beside, not judged.
    """

    name: str
    interval: Interval
    seeds: Sequence[float]
    inside: tuple[float, float] | None = None

    @property
    def verdict(self) -> str | None:
        return statistics.verdict(self.interval, self.inside) if self.inside else None


def share(name: str, seeds: Sequence[bool]) -> Estimate:
    """Share of the seeds, with one-sided 95 % bounds; the claim needs more than half of them."""
    seeds = [bool(seed) for seed in seeds]
    found = statistics.of_share(sum(seeds), len(seeds))
    return Estimate(name, found, seeds, statistics.ABOVE(0.5))


def mean(name: str, seeds: Sequence[float], inside=None, bounds=None) -> Estimate:
    """Mean over seeds with Student's 95 % interval; `bounds` as in `statistics.of_mean`."""
    return Estimate(name, statistics.of_mean(seeds, bounds), [*map(float, seeds)], inside)


def ratio(name: str, seeds: Sequence[float], inside=None) -> Estimate:
    """Geometric mean over seeds with Student's 95 % interval in logarithms."""
    return Estimate(name, statistics.of_ratio(seeds), [*map(float, seeds)], inside)


@dataclass(frozen=True)
class Finding:
    """What was found for a claim: its estimates, and the rows of numbers behind them."""

    estimates: tuple[Estimate, ...]
    rows: list[dict[str, Any]]

    @property
    def verdict(self) -> str:
        """Supported if every estimate with a margin is, contradicted if one of them is."""
        return statistics.together([e.verdict for e in self.estimates if e.verdict])


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes
    ----------
    key, paper, statement : its name, who claims it ("new": nobody), and what.
    settings : what is trained; `measure` gets a list of runs for each.
    seeds : how many trials of each setting, from 40 on.
    power : what true effect is found, and with which probability.
    hours : of one core for all seeds, branches included, as planned.
    measure : runs -> Finding.
    """

    key: str
    paper: str
    statement: str
    settings: tuple[Experiment, ...]
    seeds: tuple[int, ...]
    power: tuple[str, float]
    hours: float
    measure: Callable[..., Finding]

    @property
    def design(self) -> dict[str, str]:
        """The paragraphs of the docstring by their names in `PARTS`."""
        text = re.sub(r"\s+", " ", self.measure.__doc__)
        pieces = re.split(f"({'|'.join(PARTS)}): ", text)[1:]
        return {name: words.strip() for name, words in zip(pieces[::2], pieces[1::2], strict=True)}

    @property
    def is_quick(self) -> bool:
        return all(setting.quick for setting in self.settings)


def claim(paper: str, statement: str, *settings: Experiment, seeds, power, hours: float):
    """Make a function from runs to a Finding a claim, and put it on the list.

    The arguments are the attributes of `Claim`; one number of `seeds` goes with all settings.
    """

    def register(measure: Callable[..., Finding]) -> Callable[..., Finding]:
        key = measure.__name__.rstrip("_")
        each = seeds if isinstance(seeds, tuple) else (seeds,) * len(settings)
        made = Claim(key, paper, statement, settings, each, power, hours, measure)
        CLAIMS.append(made)
        return measure

    return register


def setting(
    name: str, shows: str, *lines: dict, quick: dict | None = None, **options: Any
) -> Experiment:
    """The runs of a claim: options of train.py that differ from `PAPER`, and those of each line."""
    if "elr" in lines[0]:
        options = {"fix_elr": True, "elr": 1.0, **options}
    else:
        lines = rates(variants=lines)
    return Experiment(f"claims_{name}", shows, replace(PAPER, **options), lines, quick or {})


# 512 digits are 4 steps an epoch. η = 0.1 instead of 1 shortens the way to the first period: with
# v = w / √η a step is v' = (1 - ηλ) v - g(v), so that apart from ηλ only the start depends on η.
DIGITS = {"dataset": "Digits", "num_channels": 8, "use_data_size": 512, "save_freq": 10}
CIFAR = {"num_channels": 8, "use_data_size": 2560, "use_test_size": 500}


# Of a branch whose log alone counts
LOG_ONLY = {"metrics": False, "trace": False, "save_freq": 1000}


def branch(run: Run, epoch: int, epochs: int, **changes: Any) -> Run:
    """Go on from the checkpoint of an epoch for so many epochs with changed options of train.py.

    A branch that is there already is not trained again; a longer one is given up to these epochs.
    """
    options = replace(run.options, dir=str(run.folder.parent), keep=None, overwrite=False)
    options = replace(options, resume=True, resume_epoch=epoch, epochs=epochs, **changes)
    return replace(train(options), window=(epoch, epoch + epochs))


def destabilises(run: Run, rise: float = 4.0) -> float:
    """The first epoch at which a run's training loss is `rise` times its lowest before, or inf."""
    log = run.log()
    loss = np.where(np.isfinite(log["train_loss"]), log["train_loss"], np.inf)
    at = np.flatnonzero(loss >= rise * np.minimum.accumulate(loss))
    return float(log["epoch"][at[0]]) if len(at) else float("inf")


def settled(run: Run) -> Periods:
    """The periods after one e-fold of weight decay, when the start is forgotten."""
    return run.periods.after(run.e_fold)


def loss_periods(run: Run, after: float = 0.0) -> Periods:
    """Periods of the loss alone, for a run whose ρ is held: falls and rises by a factor of four."""
    log = run.log()
    late = log["epoch"] > after
    epochs, loss = log["epoch"][late], log["train_loss"][late]
    return find_periods(epochs, loss, loss, rise=4.0)


def by_seed(found: Sequence[Run]) -> dict[int, list[Run]]:
    """Runs by their trial, each seed's by rising rate."""
    seeds: dict[int, list[Run]] = {}
    for run in sorted(found, key=lambda run: (run.config["trial"], rate(run))):
        seeds.setdefault(run.config["trial"], []).append(run)
    return seeds


def by_line(found: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by the line that they are trials of, as the lines are given."""
    lines: dict[str, list[Run]] = {}
    for run in found:
        lines.setdefault(run.folder.parent.name, []).append(run)
    return lines


def rate(run: Run) -> float:
    """ηλ, or on the sphere the effective learning rate."""
    config = run.config
    return config["elr"] if config["fix_elr"] else config["lr_init"] * config["wd"]


def second_half(values: np.ndarray) -> np.ndarray:
    return values[len(values) // 2 :]


def at_quick(chosen: Claim) -> Claim:
    """The claim with runs of minutes."""
    settings = tuple(setting.at_quick() for setting in chosen.settings)
    return replace(chosen, settings=settings, seeds=(QUICK_SEEDS,) * len(settings))
