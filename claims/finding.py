"""What a claim is, what was found for it, and the words for numbers over trials."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from runs import Run


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
