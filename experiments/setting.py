"""An experiment: options that all its lines share, and those in which each line differs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from options import Train

Differing = dict[str, Any]  # options of train.py by name


@dataclass(frozen=True)
class Experiment:
    """One setting trained at several rates, or in several variants.

    Attributes
    ----------
    name : of its folder.
    shows : what there is to see in it, in a line of text.
    options : what all lines share.
    lines : for each line the options in which it differs; its folder is named after them.
    quick : overrides for a run of a few minutes: options, and "lines".
    """

    name: str
    shows: str
    options: Train
    lines: tuple[Differing, ...] = ({},)
    quick: Differing = field(default_factory=dict)

    def on_folder(self, folder: str | None) -> "Experiment":
        """The same on the images of an ImageFolder, if one is given."""
        if not folder:
            return self
        options = replace(self.options, dataset="ImageFolder", data_path=folder)
        lines = tuple({k: v for k, v in line.items() if k != "dataset"} for line in self.lines)
        return replace(self, options=options, lines=lines)

    def in_trials(self, trials: Iterable[int]) -> "Experiment":
        """The same with every line in several trials; lines that differ in theirs stay apart."""
        own = [line.get("trial", self.options.trial) for line in self.lines]
        count = 1 + max(own) - min(own)
        return replace(self, lines=tuple(
            {**line, "trial": count * trial + first}
            for trial in trials for line, first in zip(self.lines, own, strict=True)
        ))  # fmt: skip

    def at_quick(self) -> "Experiment":
        """The same in minutes, under a name of its own."""
        changes = {**self.quick}
        lines = changes.pop("lines", self.lines)
        options = replace(self.options, **changes)
        return replace(self, name=f"{self.name}_quick", options=options, lines=lines, quick={})


# The fully scale-invariant setting of P1's figures: plain SGD at a constant rate.
PAPER = Train(
    num_channels=32, noninvlr=0.0, init_scale=10.0, momentum=0.0, epochs=1000, use_test=True,
    noaug=True, no_schedule=True, metrics=True, save_freq=1,
)  # fmt: skip
# P1's networks with all weights trainable.
TRAINABLE = {"model": "ConvNetSIAf", "noninvlr": -1.0, "init_scale": -1.0}
# Metrics of every fifth epoch; the log has loss, errors and norm of every epoch.
FIFTH = {"save_freq": 5, "eval_freq": 1}
TINY_DIGITS = {
    "dataset": "Digits", "num_channels": 4, "use_data_size": 256, "batch_size": 64, "save_freq": 5,
    "keep": 2,
}  # fmt: skip
CIFAR = {"num_channels": 8, "use_data_size": 2560}


def setting(
    name: str, shows: str, *lines: Differing, quick: Differing | None = None, **options: Any
) -> Experiment:
    """An experiment by what differs from `PAPER`; lines with an elr are trained on the sphere."""
    if "elr" in lines[0]:
        options = {"fix_elr": True, "elr": 1.0, **options}
    return Experiment(name, shows, replace(PAPER, **options), lines, quick or {})


def rates(
    lrs: Sequence[float] = (0.01,),
    wds: Sequence[float] = (0.001,),
    variants: Sequence[Differing] = ({},),
) -> tuple[Differing, ...]:
    """A line for every learning rate and weight decay in every variant, which may replace them."""
    pairs = [{"lr_init": lr, "wd": wd} for lr in lrs for wd in wds]
    return tuple({**pair, **variant} for variant in variants for pair in pairs)


def elrs(*values: float) -> tuple[Differing, ...]:
    """A line on the sphere for every effective learning rate."""
    return tuple({"elr": elr} for elr in values)
