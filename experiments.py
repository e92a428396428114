"""Named settings: each says only what differs from the defaults of the driver.

`python run_train_and_test.py --experiment NAME` runs one of them, `--list` prints them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from options import Option

IMAGE_FOLDER = Option(
    "--image_folder", str, None, "take this ImageFolder's images instead of the setting's data set"
)


@dataclass(frozen=True)
class Experiment:
    """One setting trained at several learning rates and weight decays, or in several variants.

    `params` and `add_params` (flags) are options of train.py; `lrs` and `wds` are combined as
    `combine` says: "cross" for every pair, "zip" for the first with the first and so on. With
    `fix_elr` "fix_elr" the lines are trained on the sphere instead (P2), one at each of `elrs`.
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

    def in_trials(self, trials: int) -> "Experiment":
        """The same with every line in several trials, numbered from 0."""
        several = tuple({**v, "trial": t} for t in range(trials) for v in self.variants)
        return replace(self, variants=several)

    def at_quick(self) -> "Experiment":
        """The same in minutes, under a name of its own."""
        fields = {**self.quick, "params": {**self.params, **self.quick.get("params", {})}}
        return replace(self, name=f"{self.name}_quick", quick={}, **fields)

    def lines(self) -> list[dict[str, Any]]:
        """The options of train.py in which the lines differ: rates (or ELRs), and variants.

        Raises
        ------
        ValueError : lists of different lengths to zip, an empty list, or another `combine` or
            `fix_elr`.
        """
        return [{**rates, **variant} for variant in self.variants for rates in self._rates()]

    def _rates(self) -> list[dict[str, float]]:
        if self.fix_elr == "fix_elr":
            if not self.elrs:
                raise ValueError("elrs needs at least one value")
            return [{"elr": elr} for elr in self.elrs]
        if self.fix_elr != "fix_lr":
            raise ValueError(f"fix_elr is 'fix_elr' or 'fix_lr', not {self.fix_elr!r}")
        if not self.lrs or not self.wds:
            raise ValueError("lrs and wds need at least one value each")
        if self.combine == "cross":
            pairs = list(product(self.lrs, self.wds))
        elif self.combine != "zip":
            raise ValueError(f"combine is 'cross' or 'zip', not {self.combine!r}")
        elif len(self.lrs) != len(self.wds):
            raise ValueError(f"{len(self.lrs)} lrs and {len(self.wds)} wds cannot be zipped")
        else:
            pairs = list(zip(self.lrs, self.wds, strict=True))
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
_TRAINABLE = {"model": "ConvNetSIAf", "noninvlr": -1, "init_scale": -1}
# What training in practice adds to the fully scale-invariant setting, one at a time.
_EACH = (
    {"momentum": 0.9, "noaug": True, "lr_init": 0.02, "wd": 0.04},
    {"lr_init": 0.2, "wd": 0.01},
    {**_TRAINABLE, "noaug": True, "lr_init": 0.1, "wd": 0.01},
)
# The same dynamics in seconds on a CPU: 512 digits are 4 steps an epoch. η = 0.1 instead of the
# demo's 1 shortens the way to the first period: with v = w / √η a step is
# v' = (1 - ηλ) v - g(v), so that beside ηλ only the start depends on η.
DIGITS = {
    **PAPER,
    "num_channels": 4,
    "use_data_size": 512,
    "epochs": 250,
    "save_freq": 10,
    "metrics": True,
}
SMALL_CIFAR = {**PAPER, "num_channels": 8, "use_data_size": 2560, "metrics": True}
_RECORD = {"metrics": True, "keep": 2}
_EVERY_200 = {**_RECORD, "keep_epochs": "0,200,400,600,800"}


def _sweep(
    key: str, values: Iterable[float], other: float, periods: float = 1.35
) -> tuple[dict[str, Any], ...]:
    """Lines at several values of a rate, each for as many periods: epochs ~ 1 / (ηλ)."""
    return tuple({key: v, "epochs": round(periods / (v * other))} for v in values)


_ALL = (
    # On a CPU, in minutes
    Experiment(
        "demo",
        "periods in minutes on a CPU: ConvNetSI of width 4 on scikit-learn's digits",
        dataset="Digits",
        params={**PAPER, "num_channels": 4, "epochs": 150, "save_freq": 2, "metrics": True},
        lrs=(0.05, 1.0, 2.0, 4.0),
    ),
    Experiment(
        "demo_regimes",
        "the three regimes on the sphere in minutes on a CPU: width 4, digits",
        dataset="Digits",
        params={**PAPER, "num_channels": 4, "epochs": 60, "metrics": True},
        fix_elr="fix_elr",
        elrs=(1e-4, 1e-3, 3e-3, 1e-2, 1.5e-2, 2e-2, 1e-1, 1.0),
        quick={"elrs": (1e-3, 3e-3, 2e-2, 1.0), "params": {"epochs": 16}},
    ),
    Experiment(
        "demo_vary_lr",
        "frequency of periods by learning rate; no jump at the smallest, chaos at the largest",
        dataset="Digits",
        params=DIGITS,
        wds=(0.04,),
        variants=(
            {"lr_init": 0.001},
            *_sweep("lr_init", (0.025, 0.04, 0.0625, 0.1, 0.16, 0.25), 0.04),
            {"lr_init": 2.5, "epochs": 100},
        ),
        quick={
            "variants": (
                {"lr_init": 0.001, "epochs": 60},
                *_sweep("lr_init", (0.1, 0.16, 0.25), 0.04, 0.9),
                {"lr_init": 2.5, "epochs": 60},
            )
        },
    ),
    Experiment(
        "demo_vary_wd",
        "frequency of periods by weight decay",
        dataset="Digits",
        params=DIGITS,
        lrs=(0.1,),
        variants=_sweep("wd", (0.01, 0.016, 0.025, 0.04, 0.064, 0.1), 0.1),
        quick={"variants": _sweep("wd", (0.04, 0.064, 0.1), 0.1, 0.9)},
    ),
    Experiment(
        "demo_fixed_norm",
        "no periods where the norm of the weights is held, at several values",
        dataset="Digits",
        params=DIGITS,
        lrs=(0.1,),
        wds=(0.04,),
        variants=(
            {},
            *({"fix_si_pnorm": True, "fix_si_pnorm_value": v} for v in (2.0, 3.5, 4.5, 7.0)),
        ),
        quick={
            "variants": (
                {},
                *({"fix_si_pnorm": True, "fix_si_pnorm_value": v} for v in (2.0, 4.5)),
            ),
            "params": {"epochs": 150},
        },
    ),
    Experiment(
        "demo_jumps",
        "every step of a line with periods and of one in chaotic equilibrium",
        dataset="Digits",
        params={**DIGITS, "use_data_size": None, "epochs": 150, "trace": True},
        lrs=(0.1,),
        wds=(0.01,),
        variants=({}, {"lr_init": 1.0, "wd": 0.03}),
        quick={"params": {"epochs": 80}},
    ),
    Experiment(
        "demo_minima",
        "whether the minima of different periods are different functions",
        dataset="Digits",
        params={**DIGITS, "save_freq": 2, "epochs": 400},
        lrs=(0.1,),
        wds=(0.04,),
        quick={"params": {"epochs": 200}},
    ),
    Experiment(
        "demo_full_batch",
        "periods and sharpness in full-batch gradient descent on 256 digits",
        dataset="Digits",
        params={**DIGITS, "use_data_size": 256, "batch_size": 256, "epochs": 600},
        lrs=(0.3,),
        wds=(0.02,),
        add_params="--use_test --noaug --no_schedule --fbgd",
        quick={"params": {"save_freq": 40}},
    ),
    Experiment(
        "demo_practical",
        "periods with momentum, augmentation, all weights trainable, and all three together",
        dataset="Digits",
        params={**DIGITS, "use_data_size": None, "epochs": 200},
        add_params="--use_test --no_schedule",
        variants=(*_EACH, {**_TRAINABLE, "momentum": 0.9, "lr_init": 0.03, "wd": 0.01}),
        quick={"variants": _EACH, "params": {"epochs": 110}},
    ),
    Experiment(
        "demo_adam",
        "periods with Adam",
        dataset="Digits",
        params={**DIGITS, "momentum": None, "optimizer": "adam"},
        lrs=(0.02,),
        wds=(0.04,),
    ),
    Experiment(
        "demo_norms",
        "periods with layer, group, instance and weight normalisation",
        dataset="Digits",
        params={**DIGITS, "use_data_size": None},
        lrs=(0.1,),
        wds=(0.01,),
        variants=(
            {"norm": "layer"},
            {"norm": "group"},
            {"norm": "instance"},
            {"norm": "weight", "lr_init": 0.03, "wd": 0.03},
        ),
        quick={
            "wds": (0.04,),
            "variants": ({"norm": "group"}, {"norm": "instance"}),
            "params": {"use_data_size": 512, "epochs": 150},
        },
    ),
    Experiment(
        "second_regime",
        "constant rates that second_regime.py compares with dropping the rate and averaging",
        dataset="Digits",
        params={**PAPER, "num_channels": 4, "epochs": 60, "metrics": True},
        fix_elr="fix_elr",
        elrs=(1e-3, 3e-3, 6e-3, 1e-2, 1.2e-2, 1.5e-2, 2e-2),
        quick={"elrs": (3e-3, 2e-2), "params": {"epochs": 18}},
    ),
    Experiment(
        "second_regime_cifar",
        "the same on 2,560 CIFAR-10 images, width 8",
        params={**SMALL_CIFAR, "epochs": 60, "save_freq": 2},
        fix_elr="fix_elr",
        elrs=(3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    ),
    # A 20th of the images makes a 20th of the steps an epoch: λ is 20 times figure2's, so that an
    # epoch of weight decay shrinks ρ as much as there.
    Experiment(
        "figure2_cpu",
        "figure2 as far as a CPU goes: 2,560 CIFAR-10 images, width 8, 20 times the weight decay",
        params={**SMALL_CIFAR, "save_freq": 4},
        lrs=(0.001, 0.01, 0.03, 1.0),
        wds=(0.02,),
    ),
    # Instead of the weight decay of an epoch, this matches the published number of steps, 391,000,
    # and the product of λ and steps: half of the steps at twice λ.
    Experiment(
        "figure2_steps",
        "figure2 step for step as far as a CPU goes: 195,500 steps, 2,560 CIFAR-10 images, width 8",
        params={**SMALL_CIFAR, "epochs": 9775, "save_freq": 39},
        wds=(0.002,),
        variants=(
            {"lr_init": 0.01},
            {"lr_init": 0.03},
            {"lr_init": 0.001},
            {"lr_init": 1.0, "epochs": 2000},
        ),
    ),
    Experiment(
        "three_regimes_cpu",
        "three_regimes as far as a CPU goes: 2,560 CIFAR-10 images, width 8",
        params={**SMALL_CIFAR, "epochs": 300, "save_freq": 4},
        fix_elr="fix_elr",
        elrs=(1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 5e-2, 1e-1),
    ),
    # At full scale, for a GPU
    Experiment(
        "figure1",
        "P1, Figure 1: periods with all weights trainable, CIFAR-10 and CIFAR-100",
        fix_noninvlr=-1,
        params={**PAPER, **_EVERY_200, "init_scale": -1},
        lrs=(0.03,),
        variants=(
            {"model": "ConvNetSIAf"},
            {"model": "ResNet18SIAf", "dataset": "CIFAR100"},
        ),
    ),
    Experiment(
        "figure2",
        "P1, Figure 2: from no jump to chaotic equilibrium, by learning rate",
        params={**PAPER, **_EVERY_200},
        lrs=(0.001, 0.01, 0.03, 1.0),
    ),
    Experiment(
        "vary_lr",
        "frequency of periods by learning rate; no jump at the smallest, chaos at the largest",
        params={**PAPER, **_RECORD},
        lrs=(0.001, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 1.0),
    ),
    Experiment(
        "vary_wd",
        "frequency of periods by weight decay",
        params={**PAPER, **_RECORD},
        lrs=(0.03,),
        wds=(0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003),
    ),
    Experiment(
        "fixed_norm",
        "no periods where the norm of the weights is held, at several values",
        params={**PAPER, **_RECORD},
        lrs=(0.03,),
        variants=(
            {},
            {"fix_si_pnorm": True},
            *({"fix_si_pnorm": True, "fix_si_pnorm_value": v} for v in (5.0, 20.0)),
        ),
    ),
    Experiment(
        "jumps",
        "every step of a line with periods and of one in chaotic equilibrium",
        params={**PAPER, **_RECORD, "trace": True},
        lrs=(0.03, 1.0),
    ),
    Experiment(
        "minima",
        "whether the minima of different periods are different functions (run two trials)",
        params={**PAPER, "metrics": True, "save_freq": 10},
        lrs=(0.03,),
    ),
    Experiment(
        "full_batch",
        "periods and sharpness in full-batch gradient descent: one step an epoch",
        params={**PAPER, "metrics": True, "epochs": 3000, "save_freq": 50},
        lrs=(1.0,),
        wds=(0.005,),
        add_params="--use_test --noaug --no_schedule --fbgd",
    ),
    Experiment(
        "practical",
        "periods with momentum, augmentation, all weights trainable, and all three together",
        params={**PAPER, **_RECORD},
        add_params="--use_test --no_schedule",
        lrs=(0.03,),
        variants=(
            {"momentum": 0.9, "noaug": True, "lr_init": 0.003},
            {},
            {**_TRAINABLE, "noaug": True},
            {**_TRAINABLE, "momentum": 0.9, "lr_init": 0.003},
        ),
    ),
    Experiment(
        "three_regimes",
        "P2, Figure 1: convergence, chaotic equilibrium and divergence, by effective rate",
        params={**PAPER, **_EVERY_200},
        fix_elr="fix_elr",
        elrs=(1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 5e-2, 1e-1),
    ),
    Experiment(
        "adam",
        "periods with Adam",
        params={**PAPER, **_RECORD, "momentum": None, "optimizer": "adam"},
        lrs=(0.001, 0.003),
    ),
    Experiment(
        "norms",
        "periods with layer, group, instance and weight normalisation",
        params={**PAPER, **_RECORD},
        lrs=(0.03,),
        variants=tuple({"norm": norm} for norm in ("layer", "group", "instance", "weight")),
    ),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}
