"""Settings for a CPU, in minutes: each says only what differs from the driver's defaults."""

from collections.abc import Iterable
from typing import Any

from experiments.setting import PAPER, TRAINABLE, Experiment

# What training in practice adds to the fully scale-invariant setting, one at a time.
_EACH = (
    {"momentum": 0.9, "noaug": True, "lr_init": 0.02, "wd": 0.04},
    {"lr_init": 0.2, "wd": 0.01},
    {**TRAINABLE, "noaug": True, "lr_init": 0.1, "wd": 0.01},
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


def _sweep(
    key: str, values: Iterable[float], other: float, periods: float = 1.35
) -> tuple[dict[str, Any], ...]:
    """Lines at several values of a rate, each for as many periods: epochs ~ 1 / (ηλ)."""
    return tuple({key: v, "epochs": round(periods / (v * other))} for v in values)


DEMOS = (
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
        variants=(*_EACH, {**TRAINABLE, "momentum": 0.9, "lr_init": 0.03, "wd": 0.01}),
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
)
