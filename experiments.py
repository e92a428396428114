"""Named settings: each says only what differs from the defaults of the driver.

`python run_train_and_test.py --experiment NAME` runs one of them, `--list` prints them.
"""

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from options import Option

IMAGE_FOLDER = Option(
    "--image_folder", str, None, "take this ImageFolder's images instead of the setting's data set"
)


@dataclass(frozen=True)
class Experiment:
    """One setting trained at several learning rates and weight decays.

    `params` and `add_params` (flags) are options of train.py; `lrs` and `wds` are combined as
    `combine` says: "cross" for every pair, "zip" for the first with the first and so on. With
    `fix_elr` "fix_elr" the lines are trained on the sphere instead (P2), one at each of `elrs`.
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

    def on_folder(self, folder: str | None) -> "Experiment":
        """The same setting on the images of an ImageFolder, if one is given."""
        return replace(self, dataset="ImageFolder", data_path=folder) if folder else self

    def lines(self) -> list[dict[str, Any]]:
        """The options of train.py in which the lines differ: rates and weight decays, or ELRs.

        Raises
        ------
        ValueError : lists of different lengths to zip, an empty list, or another `combine` or
            `fix_elr`.
        """
        if self.fix_elr == "fix_elr":
            if not self.elrs:
                raise ValueError("elrs needs at least one value")
            return [{"elr": elr} for elr in self.elrs]
        if self.fix_elr != "fix_lr":
            raise ValueError(f"fix_elr is 'fix_elr' or 'fix_lr', not {self.fix_elr!r}")
        return [{"lr_init": lr, "wd": wd} for lr, wd in self._rates()]

    def _rates(self) -> list[tuple[float, float]]:
        if not self.lrs or not self.wds:
            raise ValueError("lrs and wds need at least one value each")
        if self.combine == "cross":
            return list(product(self.lrs, self.wds))
        if self.combine != "zip":
            raise ValueError(f"combine is 'cross' or 'zip', not {self.combine!r}")
        if len(self.lrs) != len(self.wds):
            raise ValueError(f"{len(self.lrs)} lrs and {len(self.wds)} wds cannot be zipped")
        return list(zip(self.lrs, self.wds, strict=True))


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

_ALL = (
    Experiment(
        "demo",
        "periods in minutes on a CPU: ConvNetSI of width 4 on scikit-learn's digits",
        dataset="Digits",
        params={**PAPER, "num_channels": 4, "epochs": 150, "save_freq": 2, "metrics": True},
        lrs=(0.05, 1.0, 2.0, 4.0),
    ),
    Experiment(
        "figure2",
        "P1, Figure 2: from no jump to chaotic equilibrium, by learning rate",
        params={**PAPER, "metrics": True, "keep": 2, "keep_epochs": "0,200,400,600,800"},
        lrs=(0.001, 0.01, 0.03, 1.0),
    ),
    Experiment(
        "demo_regimes",
        "the three regimes on the sphere in minutes on a CPU: width 4, digits",
        dataset="Digits",
        params={**PAPER, "num_channels": 4, "epochs": 60, "metrics": True},
        fix_elr="fix_elr",
        elrs=(1e-4, 1e-3, 3e-3, 1e-2, 1.5e-2, 2e-2, 1e-1, 1.0),
    ),
    Experiment(
        "second_regime",
        "constant rates that second_regime.py compares with dropping the rate and averaging",
        dataset="Digits",
        params={**PAPER, "num_channels": 4, "epochs": 60, "metrics": True},
        fix_elr="fix_elr",
        elrs=(1e-3, 3e-3, 6e-3, 1e-2, 1.2e-2, 1.5e-2, 2e-2),
    ),
    Experiment(
        "second_regime_cifar",
        "the same on 2,560 CIFAR-10 images, width 8",
        params={
            **PAPER,
            "num_channels": 8,
            "epochs": 60,
            "save_freq": 2,
            "metrics": True,
            "use_data_size": 2560,
        },
        fix_elr="fix_elr",
        elrs=(3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    ),
    Experiment(
        "three_regimes",
        "P2, Figure 1: convergence, chaotic equilibrium and divergence, by effective rate",
        params={**PAPER, "metrics": True, "keep": 2, "keep_epochs": "0,200,400,600,800"},
        fix_elr="fix_elr",
        elrs=(1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 5e-2, 1e-1),
    ),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}
