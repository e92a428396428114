"""Settings for a CPU, in minutes: each says only what differs from the driver's defaults."""

from collections.abc import Iterable
from typing import Any

from experiments.setting import PAPER, TRAINABLE, Experiment

# The same dynamics in seconds on a CPU: 512 digits are 4 steps an epoch. η = 0.1 instead of
# 1 shortens the way to the first period: with v = w / √η a step is
# v' = (1 - ηλ) v - g(v), so that beside ηλ only the start depends on η.
DIGITS = {
    **PAPER,
    "num_channels": 8,
    "use_data_size": 512,
    "epochs": 200,
    "save_freq": 10,
    "metrics": True,
}
SMALL_CIFAR = {**PAPER, "num_channels": 8, "use_data_size": 2560, "metrics": True}
# Where test errors do not count, or are measured afterwards, on all images
FEW_TESTS = {**SMALL_CIFAR, "use_test_size": 500}
# Three rates of chaotic equilibrium, and rates of the sphere around theirs. With some seeds 0.005
# is below chaos on the sphere and 0.016 above it.
_CHAOS = tuple({"wd": wd} for wd in (0.009, 0.011, 0.0135))
_CHAOTIC_ELRS = (5e-3, 6e-3, 7.5e-3, 9.5e-3, 1.2e-2, 1.5e-2)
_EPOCH = 4  # steps of one, for 512 digits


def _sweep(
    key: str, values: Iterable[float], other: float, e_folds: float = 9
) -> tuple[dict[str, Any], ...]:
    """Lines at several values of a rate, each for the same number of e-folds of weight decay."""
    return tuple({key: v, "epochs": round(e_folds / (_EPOCH * v * other))} for v in values)


DEMOS = (
    Experiment(
        "demo",
        "no, slow and fast periods, and chaos: digits, width 4",
        dataset="Digits",
        params={**PAPER, "num_channels": 4, "epochs": 120, "save_freq": 2, "metrics": True},
        lrs=(0.001, 0.04, 0.15, 2.0),
        wds=(0.03,),
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
    # What the claims measure (`python -m claims`)
    Experiment(
        "demo_range",
        "periods over a decade of learning rates and one of weight decays, and outside of them",
        dataset="Digits",
        params=DIGITS,
        lrs=(0.1,),
        wds=(0.05,),
        variants=(
            {"lr_init": 0.001, "epochs": 250},
            *_sweep("lr_init", (0.05, 0.16, 0.5), 0.05, e_folds=18),
            *_sweep("wd", (0.025, 0.08, 0.25), 0.1, e_folds=18),
            {"lr_init": 1.0, "epochs": 100},
        ),
    ),
    Experiment(
        "demo_vary_lr",
        "frequency of periods by learning rate",
        dataset="Digits",
        params=DIGITS,
        wds=(0.04,),
        variants=_sweep("lr_init", (0.04, 0.07, 0.13, 0.23, 0.4), 0.04),
    ),
    Experiment(
        "demo_vary_wd",
        "frequency of periods by weight decay",
        dataset="Digits",
        params=DIGITS,
        lrs=(0.1,),
        variants=_sweep("wd", (0.016, 0.028, 0.052, 0.092, 0.16), 0.1),
    ),
    Experiment(
        "demo_vary_images",
        "frequency of periods by learning rate on other images: 512 of CIFAR-10",
        params={**DIGITS, "save_freq": 20},  # as many images, in as many steps
        wds=(0.04,),
        variants=_sweep("lr_init", (0.07, 0.13, 0.23, 0.4), 0.04),
    ),
    Experiment(
        "demo_base",
        "one line with periods, every step and every epoch of it, to branch off from",
        dataset="Digits",
        params={**DIGITS, "save_freq": 1, "trace": True},
        lrs=(0.2,),
        wds=(0.1,),
        quick={"params": {"epochs": 120}},
    ),
    Experiment(
        "demo_chaos",
        "every step of three lines in chaotic equilibrium",
        params={**FEW_TESTS, "trace": True, "epochs": 80, "save_freq": 10},
        lrs=(1.0,),
        variants=_CHAOS,
    ),
    Experiment(
        "demo_sphere",
        "every step on the sphere at the effective rates of that chaos",
        params={**FEW_TESTS, "trace": True, "epochs": 40},
        fix_elr="fix_elr",
        elrs=_CHAOTIC_ELRS,
    ),
    Experiment(
        "demo_angles",
        "every step with momentum, and with AdamW: the angle of a step in equilibrium",
        params={**FEW_TESTS, "trace": True, "epochs": 60, "save_freq": 10},
        variants=(
            {"momentum": 0.9, "lr_init": 0.1, "wd": 0.02},
            {"momentum": None, "optimizer": "adamw", "lr_init": 0.02, "wd": 0.5},
        ),
    ),
    Experiment(
        "demo_minima",
        "test errors at the minima of successive periods: 2,560 CIFAR-10 images, width 8",
        params={**FEW_TESTS, "epochs": 800, "save_freq": 2},
        lrs=(0.03,),
        wds=(0.02,),
    ),
    Experiment(
        "demo_full_batch",
        "periods in full-batch gradient descent on 256 digits",
        dataset="Digits",
        params={**DIGITS, "use_data_size": 256, "batch_size": 256, "epochs": 1200},
        lrs=(0.5,),
        wds=(0.05,),
        add_params="--use_test --noaug --no_schedule --fbgd",
        quick={"params": {"save_freq": 40, "epochs": 600}},
    ),
    Experiment(
        "demo_each",
        "periods with momentum, with augmentation, with all weights trainable",
        dataset="Digits",
        params=DIGITS,
        add_params="--use_test --no_schedule",
        variants=(
            {"momentum": 0.9, "noaug": True, "lr_init": 0.02, "wd": 0.1, "epochs": 400},
            {"lr_init": 0.1, "wd": 0.05, "epochs": 400},
            {**TRAINABLE, "noaug": True, "lr_init": 0.1, "wd": 0.05, "epochs": 400},
        ),
    ),
    Experiment(
        "demo_practice",
        "periods as one trains: momentum, augmentation and all weights; 512 CIFAR-10 images",
        network="ConvNetSIAf",
        fix_noninvlr=-1,
        params={
            **PAPER,
            "num_channels": 16,
            "use_data_size": 512,
            "init_scale": -1,
            "momentum": 0.9,
            "epochs": 1000,
            "save_freq": 50,
            "keep": 2,
            "metrics": True,
        },
        add_params="--use_test --no_schedule",
        lrs=(0.03,),
        wds=(0.01,),
    ),
    Experiment(
        "demo_figure1",
        "P1, Figure 1 on a CPU: all weights trainable, width 8, 1,280 CIFAR-10 images",
        fix_noninvlr=-1,
        params={
            **PAPER,
            "num_channels": 8,
            "use_data_size": 1280,
            "init_scale": -1,
            "epochs": 500,
            "save_freq": 50,
            "keep": 2,
            "metrics": True,
        },
        lrs=(0.1,),
        wds=(0.01,),
        variants=({"model": "ConvNetSIAf"}, {"model": "ResNet18SIAf", "epochs": 700}),
    ),
    Experiment(
        "demo_adam",
        "periods with Adam",
        dataset="Digits",
        params={**DIGITS, "momentum": None, "optimizer": "adam", "epochs": 400},
        lrs=(0.02,),
        wds=(0.04,),
        quick={"params": {"epochs": 120}},
    ),
    Experiment(
        "demo_norms",
        "periods with layer, group, instance and weight normalisation",
        dataset="Digits",
        params={**DIGITS, "epochs": 450},
        lrs=(0.1,),
        wds=(0.08,),
        variants=(
            {"norm": "layer"},
            {"norm": "group"},
            {"norm": "instance"},
            {"norm": "weight", "init_scale": 1.0},  # at 10 the loss falls to 0 exactly, or it dies
        ),
    ),
    Experiment(
        "demo_sphere_cifar",
        "the three regimes on the sphere: 2,560 CIFAR-10 images, width 8",
        params={**SMALL_CIFAR, "save_freq": 4, "keep": 2},
        fix_elr="fix_elr",
        elrs=(1.0,),
        variants=(
            {"elr": 5e-4, "epochs": 130},
            {"elr": 1e-3, "epochs": 90},
            {"elr": 2e-3, "epochs": 90},
            *(
                {"elr": elr, "epochs": 150, "save_freq": 3, "use_test_size": 500}
                for elr in _CHAOTIC_ELRS[1:5]
            ),
            {"elr": 0.1, "epochs": 30},
        ),
    ),
    Experiment(
        "demo_optima",
        "constant rates, of which the best on held-out images is compared with a drop of the rate",
        params={**SMALL_CIFAR, "epochs": 200, "save_freq": 10},
        add_params="--noaug --no_schedule",
        fix_elr="fix_elr",
        elrs=(5e-4,),
        variants=(
            *({"elr": elr} for elr in (5e-4, 1e-3, 2e-3, 4e-3)),
            {"elr": 8e-3, "epochs": 100},
        ),
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
    # All of the published setting but its length: four times λ in a quarter of the epochs is the
    # same total weight decay.
    Experiment(
        "figure2_quarter",
        "figure2 on a CPU, all of its network and images: 250 epochs instead of 1,000, λ 0.004 "
        "instead of 0.001",
        params={
            **PAPER,
            "epochs": 250,
            "eval_freq": 1,
            "save_freq": 5,
            "keep": 2,
            "keep_epochs": "0,50,100,150,200,250",
            "metrics": True,
        },
        wds=(0.004,),
        variants=(
            {"lr_init": 0.01},
            {"lr_init": 0.03},
            {"lr_init": 1.0, "epochs": 60},
            {"lr_init": 0.001},
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
