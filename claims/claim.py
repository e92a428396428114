"""What a claim is: a function with its design, and the settings that are trained for it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from claims.statistics import Estimate
from experiments import Experiment
from experiments.setting import rates
from experiments.setting import setting as experiment

FIRST_TRIAL = 40  # trials before were seen when margins and settings were chosen
PARTS = ("Paper", "Estimate", "Contradicted by", "Limits")  # paragraphs of a claim's docstring
Found = tuple[Sequence[Estimate], Sequence[dict]]  # estimates, and the rows of numbers behind them

# The dynamics of P1 in seconds on a CPU: 512 digits are 4 steps an epoch. η = 0.1 instead of 1
# shortens the way to the first period: with v = w / √η a step is v' = (1 - ηλ) v - g(v), so that
# apart from ηλ only the start depends on η.
DIGITS = {"dataset": "Digits", "num_channels": 8, "use_data_size": 512, "save_freq": 10}
CIFAR = {"num_channels": 8, "use_data_size": 2560, "use_test_size": 500}


class NotMeasurable(Exception):
    """The runs do not show enough for a claim, such as periods to branch from."""


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
    measure : from runs to estimates and rows.
    """

    key: str
    paper: str
    statement: str
    settings: tuple[Experiment, ...]
    seeds: tuple[int, ...]
    power: tuple[str, float]
    hours: float
    measure: Callable[..., Found]

    @property
    def design(self) -> dict[str, str]:
        """The paragraphs of the docstring by their names in `PARTS`."""
        text = re.sub(r"\s+", " ", self.measure.__doc__)
        pieces = re.split(f"({'|'.join(PARTS)}): ", text)[1:]
        return {name: words.strip() for name, words in zip(pieces[::2], pieces[1::2], strict=True)}


CLAIMS: dict[str, Claim] = {}


def claim(paper: str, statement: str, *settings: Experiment, seeds, power, hours: float):
    """Make a function from runs to estimates and rows a claim of its name. The arguments are the
    attributes of `Claim`; one number of `seeds` goes with all settings."""

    def register(measure: Callable[..., Found]) -> Callable[..., Found]:
        key = measure.__name__.rstrip("_")
        each = seeds if isinstance(seeds, tuple) else (seeds,) * len(settings)
        CLAIMS[key] = Claim(key, paper, statement, settings, each, power, hours, measure)
        return measure

    return register


def setting(name: str, *lines: dict, base: dict = DIGITS, **options: Any) -> Experiment:
    """The runs of a claim: an `experiments.setting` by its lines. `base` has options that several
    settings share; `options` are added to it or replace some."""
    lines = lines if "elr" in lines[0] else rates(variants=lines)
    return experiment(f"claims_{name}", "", *lines, **{**base, **options})
