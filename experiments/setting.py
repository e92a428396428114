"""A setting: one configuration trained at several rates, or in several variants."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from command_line import Option

IMAGE_FOLDER = Option(
    "--image_folder", str, None, "take this ImageFolder's images instead of the setting's data set"
)


@dataclass(frozen=True)
class Experiment:
    """One setting trained at several learning rates and weight decays, or in several variants.

    `params` and `add_params` (flags) are options of train.py; `lrs` and `wds` are combined as
    `combine` says: "cross" for every pair, "zip" for the first with the first and so on (a single
    one goes with all). With `fix_elr` "fix_elr" the lines are trained on the sphere instead (P2),
    one at each of `elrs`, and with "fix_all_elr" so that every filter keeps one norm.
    Each of `variants` holds options of train.py that replace those of the setting and of its rates:
    all rates are trained in every variant. `quick` names the fields that differ when minutes must
    do (`at_quick`); its "params" are added to those of the setting.
    """

    name: str
    shows: str
    dataset: str = "CIFAR10"
    data_path: str = "./datasets"
    network: str = "ConvNetSI"
    fix_noninvlr: float = 0.0
    params: dict[str, Any] = field(default_factory=dict)
    lrs: tuple[float, ...] = (0.01,)
    wds: tuple[float, ...] = (0.001,)
    combine: str = "cross"
    add_params: str = "--use_test --noaug --no_schedule"
    fix_elr: str = "fix_lr"
    elrs: tuple[float, ...] = ()
    variants: tuple[dict[str, Any], ...] = ({},)
    quick: dict[str, Any] = field(default_factory=dict)

    def on_folder(self, folder: str | None) -> "Experiment":
        """The same setting on the images of an ImageFolder, if one is given."""
        if not folder:
            return self
        variants = tuple(
            {k: v for k, v in variant.items() if k != "dataset"} for variant in self.variants
        )
        return replace(self, dataset="ImageFolder", data_path=folder, variants=variants)

    def in_trials(self, trials: Iterable[int]) -> "Experiment":
        """The same with every line in several trials."""
        several = tuple({**v, "trial": t} for t in trials for v in self.variants)
        return replace(self, variants=several)

    def at_quick(self) -> "Experiment":
        """The same in minutes, under a name of its own."""
        fields = {**self.quick, "params": {**self.params, **self.quick.get("params", {})}}
        return replace(self, name=f"{self.name}_quick", quick={}, **fields)

    def lines(self) -> list[dict[str, Any]]:
        """The options of train.py in which the lines differ: rates (or ELRs), and variants.

        Raises
        ------
        ValueError : lists of different lengths to zip, an empty list, another `combine` or
            `fix_elr`, or `params` that say again what the lists say.
        """
        for key in self._rates()[0].keys() & self.params.keys():
            raise ValueError(f"params holds {key}, of which the lists of rates decide")
        return [{**rates, **variant} for variant in self.variants for rates in self._rates()]

    def _rates(self) -> list[dict[str, float]]:
        if self.fix_elr not in ("fix_lr", "fix_elr", "fix_all_elr"):
            raise ValueError(
                f"fix_elr is 'fix_elr', 'fix_all_elr' or 'fix_lr', not {self.fix_elr!r}"
            )
        if self.fix_elr != "fix_lr":
            if not self.elrs:
                raise ValueError("elrs needs at least one value")
            return [{"elr": elr} for elr in self.elrs]
        if not self.lrs or not self.wds:
            raise ValueError("lrs and wds need at least one value each")
        if self.combine == "cross":
            pairs = list(product(self.lrs, self.wds))
        elif self.combine != "zip":
            raise ValueError(f"combine is 'cross' or 'zip', not {self.combine!r}")
        elif len({len(self.lrs), len(self.wds)} - {1}) > 1:
            raise ValueError(f"{len(self.lrs)} lrs and {len(self.wds)} wds cannot be zipped")
        else:
            longest = max(len(self.lrs), len(self.wds))
            lrs, wds = (rates * (longest // len(rates)) for rates in (self.lrs, self.wds))
            pairs = list(zip(lrs, wds, strict=True))
        return [{"lr_init": lr, "wd": wd} for lr, wd in pairs]


# The fully scale-invariant setting of P1's figures: plain SGD at a constant rate.
PAPER = {
    "num_channels": 32,
    "depth": 3,
    "init_scale": 10.0,
    "momentum": 0.0,
    "batch_size": 128,
    "epochs": 1000,
    "save_freq": 1,
}
# P1's networks with all weights trainable.
TRAINABLE = {"model": "ConvNetSIAf", "noninvlr": -1, "init_scale": -1}
