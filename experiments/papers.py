"""The settings of the papers at full scale, for a GPU, and most of them on a CPU ("demo_")."""

from dataclasses import replace

from experiments.setting import PAPER, TRAINABLE, Differing, Experiment, elrs, rates
from options import Train

# Metrics of every fifth epoch, which are all kept: the log has loss, errors and norm of every one.
FIFTH = replace(PAPER, save_freq=5, eval_freq=1)
EVERY = replace(PAPER, keep=2)
# The same dynamics in seconds on a CPU: 512 digits are 4 steps an epoch. η = 0.1 instead of 1
# shortens the way to the first period: with v = w / √η a step is v' = (1 - ηλ) v - g(v), so that
# apart from ηλ only the start depends on η.
DIGITS = replace(
    PAPER, dataset="Digits", num_channels=8, use_data_size=512, epochs=200, save_freq=10
)
SMALL_CIFAR = replace(PAPER, num_channels=8, use_data_size=2560)
# Where test errors do not count, or are measured afterwards, on all images
FEW_TESTS = replace(SMALL_CIFAR, use_test_size=500)
PRACTICE = replace(
    PAPER, use_data_size=512, save_freq=50, keep=2, **{**TRAINABLE, "model": "ConvNetSI"}
)
EPOCH = 4  # steps of one, for 512 digits
# Ordinary training at a constant rate and with a cosine, with and without momentum
CONVENTIONAL = tuple(
    {"momentum": momentum, **schedule}
    for schedule in ({}, {"cosan_schedule": True})
    for momentum in (0.0, 0.9)
)
NORMS = tuple({"norm": norm} for norm in ("layer", "group", "instance"))


def sweep(key: str, values: tuple[float, ...], other: float, e_folds: float = 9) -> list[Differing]:
    """Variants at several values of a rate, each for the same number of e-folds of weight decay."""
    return [{key: v, "epochs": round(e_folds / (EPOCH * v * other))} for v in values]


def two_scales(
    name: str,
    shows: str,
    paper: tuple[Train, tuple[Differing, ...]],
    demo: tuple[Train, tuple[Differing, ...]],
    **quick: object,
) -> tuple[Experiment, Experiment]:
    """A setting at full scale, and on a CPU under the name demo_<name>."""
    small = Experiment(f"demo_{name}", shows, *demo, quick=quick)
    return Experiment(name, shows, *paper), small


PAPERS = (
    Experiment(
        "figure2",
        "P1, Figure 2: from no period to chaotic equilibrium, by learning rate",
        FIFTH,
        rates(lrs=(0.001, 0.01, 0.03, 1.0)),
    ),
    Experiment(
        "three_regimes",
        "P2, Figure 1: convergence, chaotic equilibrium and divergence, by effective rate",
        replace(FIFTH, fix_elr=True, elr=1e-5),
        elrs(1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 5e-2, 1e-1),
    ),
    Experiment(
        "figure2_tf32",
        "figure2 in half an hour of a GPU: products in TF32, only the newest checkpoint kept",
        replace(FIFTH, precision="tf32", keep=1),
        rates(lrs=(0.001, 0.01, 0.03, 1.0)),
    ),
    Experiment(
        "fixed_norm",
        "P1, fixed norm: periods with ρ free, none with ρ held at several values",
        EVERY,
        rates(
            lrs=(0.03,),
            variants=(
                {},
                {"fix_si_pnorm": True},
                *({"fix_si_pnorm": True, "fix_si_pnorm_value": v} for v in (2.0, 5.0, 10.0, 20.0)),
            ),
        ),
    ),
    *two_scales(
        "figure1",
        "P1, Figure 1: periods with all weights trainable, ConvNet and ResNet-18",
        (
            replace(FIFTH, noninvlr=-1, init_scale=-1),
            rates(
                lrs=(0.003, 0.01, 0.03, 0.1),
                variants=(
                    {"model": "ConvNetSIAf"},
                    {"model": "ResNet18SIAf", "dataset": "CIFAR100"},
                ),
            ),
        ),
        (
            replace(PRACTICE, num_channels=8, use_data_size=1280, epochs=500),
            rates(
                lrs=(0.1,),
                wds=(0.01,),
                variants=({"model": "ConvNetSIAf"}, {"model": "ResNet18SIAf", "epochs": 700}),
            ),
        ),
    ),
    *two_scales(
        "range",
        "P1, range: periods over a decade of η and one of λ, and outside of them",
        (
            EVERY,
            rates(
                lrs=(0.03,),
                variants=(
                    *({"lr_init": lr} for lr in (0.001, 0.005, 0.015, 0.05, 1.0)),
                    *({"wd": wd} for wd in (0.0003, 0.001, 0.003)),
                ),
            ),
        ),
        (
            DIGITS,
            rates(
                lrs=(0.1,),
                wds=(0.05,),
                variants=(
                    {"lr_init": 0.001, "epochs": 250},
                    *sweep("lr_init", (0.05, 0.16, 0.5), 0.05, e_folds=18),
                    *sweep("wd", (0.025, 0.08, 0.25), 0.1, e_folds=18),
                    {"lr_init": 1.0, "epochs": 100},
                ),
            ),
        ),
    ),
    *two_scales(
        "vary_lr",
        "P1, frequency of periods by learning rate",
        (EVERY, rates(lrs=(0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1))),
        (
            DIGITS,
            rates(wds=(0.04,), variants=sweep("lr_init", (0.04, 0.07, 0.13, 0.23, 0.4), 0.04)),
        ),
    ),
    *two_scales(
        "vary_wd",
        "P1, frequency of periods by weight decay",
        (
            EVERY,
            rates(lrs=(0.03,), wds=(0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003)),
        ),
        (
            DIGITS,
            rates(lrs=(0.1,), variants=sweep("wd", (0.016, 0.028, 0.052, 0.092, 0.16), 0.1)),
        ),
    ),
    *two_scales(
        "vary_images",
        "P1, frequency of periods on other images: CIFAR-100, or 512 of CIFAR-10",
        (replace(EVERY, dataset="CIFAR100"), rates(lrs=(0.005, 0.01, 0.02, 0.03))),
        (
            replace(DIGITS, dataset="CIFAR10", save_freq=20),  # as many images, in as many steps
            rates(wds=(0.04,), variants=sweep("lr_init", (0.07, 0.13, 0.23, 0.4), 0.04)),
        ),
    ),
    *two_scales(
        "base",
        "P1, one period: one line with periods, every step and epoch of it, to branch off from",
        (replace(PAPER, trace=True), rates(lrs=(0.03,))),
        (replace(DIGITS, save_freq=1, trace=True), rates(lrs=(0.2,), wds=(0.1,))),
        epochs=120,
    ),
    *two_scales(
        "chaos",
        "P1, norm in chaos; P2, ordinary chaos: every step of three lines",
        (replace(EVERY, trace=True, epochs=200), rates(lrs=(1.0,), wds=(0.001, 0.002, 0.004))),
        (
            replace(FEW_TESTS, trace=True, epochs=80, save_freq=10),
            rates(lrs=(1.0,), wds=(0.009, 0.011, 0.0135)),
        ),
    ),
    *two_scales(
        "minima",
        "P1, minima of successive periods: functions and test errors",
        (replace(PAPER, save_freq=10), rates(lrs=(0.03,))),
        (replace(FEW_TESTS, epochs=800, save_freq=2), rates(lrs=(0.03,), wds=(0.02,))),
    ),
    *two_scales(
        "full_batch",
        "P1, full-batch gradient descent: one step an epoch",
        (replace(PAPER, fbgd=True, epochs=3000, save_freq=50), rates(lrs=(1.0,), wds=(0.005,))),
        (
            replace(DIGITS, fbgd=True, use_data_size=256, batch_size=256, epochs=1200),
            rates(lrs=(0.5,), wds=(0.05,)),
        ),
        save_freq=40,
        epochs=600,
    ),
    *two_scales(
        "each",
        "P1, practice: with momentum, with augmentation, with all weights trainable",
        (
            replace(EVERY, noaug=False),
            rates(
                lrs=(0.03,),
                variants=(
                    {"momentum": 0.9, "noaug": True, "lr_init": 0.003},
                    {},
                    {**TRAINABLE, "noaug": True},
                ),
            ),
        ),
        (
            replace(DIGITS, noaug=False),
            rates(
                variants=(
                    {"momentum": 0.9, "noaug": True, "lr_init": 0.02, "wd": 0.1, "epochs": 400},
                    {"lr_init": 0.1, "wd": 0.05, "epochs": 400},
                    {**TRAINABLE, "noaug": True, "lr_init": 0.1, "wd": 0.05, "epochs": 400},
                )
            ),
        ),
    ),
    *two_scales(
        "practice",
        "P1, practice: momentum, augmentation and all weights at once; CIFAR-10",
        (replace(EVERY, **TRAINABLE, momentum=0.9, noaug=False), rates(lrs=(0.003,))),
        (
            replace(PRACTICE, model="ConvNetSIAf", num_channels=16, momentum=0.9, noaug=False),
            rates(lrs=(0.03,), wds=(0.01,)),
        ),
    ),
    *two_scales(
        "adam",
        "P1, Adam",
        (replace(EVERY, optimizer="adam"), rates(lrs=(0.001, 0.003))),
        (replace(DIGITS, optimizer="adam", epochs=400), rates(lrs=(0.02,), wds=(0.04,))),
        epochs=120,
    ),
    *two_scales(
        "norms",
        "P1, other normalisations: layer, group, instance, weight",
        (EVERY, rates(lrs=(0.03,), variants=(*NORMS, {"norm": "weight"}))),
        (
            replace(DIGITS, epochs=450),
            # At an init_scale of 10 weight normalisation reaches a loss of exactly 0, or dies.
            rates(
                lrs=(0.1,), wds=(0.08,), variants=(*NORMS, {"norm": "weight", "init_scale": 1.0})
            ),
        ),
    ),
    Experiment(
        "sphere",
        "P1, norm in chaos; P2, ordinary chaos: every step on the sphere at the rates of `chaos`",
        replace(EVERY, trace=True, epochs=100, fix_elr=True, elr=1.0),
        elrs(5e-4, 8e-4, 1.2e-3, 1.8e-3, 2.5e-3),
    ),
    Experiment(
        "angles",
        "new: angle of a step in equilibrium, with momentum and with AdamW",
        replace(EVERY, trace=True, epochs=200),
        rates(
            variants=(
                {"momentum": 0.9, "lr_init": 0.1},
                {"optimizer": "adamw", "lr_init": 0.003, "wd": 0.1},
            )
        ),
    ),
    Experiment(
        "sphere_cifar",
        "P2, the three regimes: minima by rate, levels, stationarity, a random walk",
        replace(FIFTH, fix_elr=True, elr=1.0),
        elrs(1e-4, 2e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
    ),
    Experiment(
        "optima",
        "P2, better optima: constant rates, the best of which on held-out images is compared with "
        "a drop of the rate",
        replace(FIFTH, use_test=False, fix_elr=True, elr=1.0),
        elrs(1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3, 2e-3),
    ),
    Experiment(
        "sphere_minima",
        "P2, minima of the first regime: sharpness by rate, linear paths and angles between them",
        replace(PAPER, save_freq=50, fix_elr=True, elr=1.0),
        tuple(
            {**line, "trial": t} for t in range(3) for line in elrs(1e-4, 2e-4, 5e-4, 1e-3, 5e-3)
        ),
    ),
    Experiment(
        "conventional",
        "P2, conventional training: constant rates and cosines, with and without momentum",
        replace(FIFTH, epochs=200),
        rates(lrs=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0), variants=CONVENTIONAL),
    ),
    Experiment(
        "three_regimes_resnet",
        "P2, ResNet-18: the three regimes by effective rate",
        replace(FIFTH, model="ResNet18SI", fix_elr=True, elr=1.0),
        elrs(1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 5e-2, 1e-1),
    ),
    Experiment(
        "three_regimes_cifar100",
        "P2, 100 classes: the three regimes by effective rate",
        replace(FIFTH, dataset="CIFAR100", fix_elr=True, elr=1.0),
        elrs(1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 5e-2, 1e-1),
    ),
    Experiment(
        "three_regimes_noise",
        "P2, label noise: losses of true and of corrupted labels by effective rate",
        replace(FIFTH, corrupt_train=0.2, fix_elr=True, elr=1.0),
        elrs(1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3),
    ),
)
