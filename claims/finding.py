"""What a claim is, what was found for it, and the words for numbers over trials."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from runs import Run


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim.

    Attributes
    ----------
    measured : in words, with the spread over the trials.
    holds : by the claim's own rule; None where the runs do not suffice to tell.
    numbers : everything behind it, as JSON can hold it.
    figure : to be saved with the table, if there is one.
    """

    measured: str
    holds: bool | None
    numbers: dict
    figure: Figure | None = field(default=None, repr=False)

    @property
    def verdict(self) -> str:
        return "not shown" if self.holds is None else "yes" if self.holds else "no"


class NotMeasurable(Exception):
    """The runs do not show enough for a claim: too few periods, say."""


@dataclass(frozen=True)
class Claim:
    """One claim: where it is made, what it says, by which rule it holds, and who measures it.

    Attributes
    ----------
    key, source, statement, rule : in words; the rule itself is in `claims.rules`.
    experiments : names of experiments, without "demo_"; `measure` gets the runs of each.
    trials, first_trial : independent repetitions that the rule asks for, and the number of the
        first: 10, or 20 or 30 where those before had been seen when rule or settings were changed.
    before : what an earlier rule gave, and why it was replaced.
    """

    key: str
    source: str
    statement: str
    rule: str
    experiments: tuple[str, ...]
    measure: Callable[..., Finding]
    trials: int = 5
    first_trial: int = 10
    before: str = ""


def by_line(found: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by the line that they are trials of."""
    lines: dict[str, list[Run]] = {}
    for run in found:
        lines.setdefault(run.folder.parent.name, []).append(run)
    return lines


def seeds(sphere: Sequence[Run]) -> Iterator[list[Run]]:
    """The runs of each trial on the sphere, by rising rate."""
    for trial in sorted({run.config["trial"] for run in sphere}):
        line = [run for run in sphere if run.config["trial"] == trial]
        yield sorted(line, key=lambda run: run.config["elr"])


def by_trial(found: Sequence[Run], values: Sequence[ArrayLike]) -> list[np.ndarray]:
    """What was found for each run, a number or several, put together for each trial."""
    trials = np.array([run.config["trial"] for run in found])
    return [
        np.concatenate([np.atleast_1d(values[i]) for i in np.flatnonzero(trials == trial)])
        for trial in np.unique(trials)
    ]


def late(values: np.ndarray) -> np.ndarray:
    """The second half of a record, when the start is forgotten."""
    return values[len(values) // 2 :]


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """The mean, and the lowest and highest where there are several: '3.2 (2 to 5)'."""
    known = [v for v in values if np.isfinite(v)]
    if not known:
        return "none"
    mean = format(float(np.mean(known)), form)
    if len(known) == 1 or min(known) == max(known):
        return mean
    return f"{mean} ({min(known):{form}} to {max(known):{form}})"


def interval(value: float, limits: tuple[float, float], form: str = ".2f") -> str:
    """A number with its 95 % interval: '0.98 [0.94, 1.02]'."""
    return f"{value:{form}} [{limits[0]:{form}}, {limits[1]:{form}}]"


def rate_product(run: Run) -> float:
    return run.config["lr_init"] * run.config["wd"]
