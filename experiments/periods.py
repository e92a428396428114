"""Experiments of P1: at full scale, and as far as a CPU goes (_cpu, _quarter)."""

from collections.abc import Iterator

from experiments.setting import CIFAR, FIFTH, TINY_DIGITS, TRAINABLE, Differing, rates, setting


def held_at(*norms: float) -> Iterator[Differing]:
    """A variant with ρ held at each of these values."""
    return ({"fix_si_pnorm": True, "fix_si_pnorm_value": norm} for norm in norms)


# fmt: off
PERIODS = (
    setting(
        "demo", "no, slow and fast periods, and chaos: digits, width 4",
        *rates((0.001, 0.04, 0.15, 2.0), (0.03,)),
        dataset="Digits", num_channels=4, epochs=120, save_freq=2,
    ),
    setting(
        "figure2", "P1, Figure 2: from no period to chaotic equilibrium, by learning rate",
        *rates((0.001, 0.01, 0.03, 1.0)), **FIFTH,
    ),
    setting(
        "figure2_tf32",
        "figure2 in half an hour of a GPU: products in TF32, only the newest checkpoint kept",
        *rates((0.001, 0.01, 0.03, 1.0)), **FIFTH, precision="tf32", keep=1,
    ),
    # A 20th of the images makes a 20th of the steps an epoch: λ is 20 times figure2's, so that an
    # epoch of weight decay shrinks ρ as much as there.
    setting(
        "figure2_cpu",
        "figure2 as far as a CPU goes: 2,560 CIFAR-10 images, width 8, 20 times the weight decay",
        *rates((0.001, 0.01, 0.03, 1.0), (0.02,)), **CIFAR, save_freq=4,
    ),
    # All of the published setting but its length: four times λ in a quarter of the epochs is the
    # same total weight decay.
    setting(
        "figure2_quarter",
        "figure2 on a CPU, all of its network and images: 250 epochs instead of 1,000, λ 0.004 "
        "instead of 0.001",
        *rates((0.01, 0.03), (0.004,)),
        {"lr_init": 1.0, "wd": 0.004, "epochs": 60},
        *rates((0.001,), (0.004,)),
        **FIFTH, epochs=250,
    ),
    setting(
        "figure1", "P1, Figure 1: periods with all weights trainable, ConvNet and ResNet-18",
        *rates((0.003, 0.01, 0.03, 0.1), variants=(
            {"model": "ConvNetSIAf"}, {"model": "ResNet18SIAf", "dataset": "CIFAR100"})),
        **FIFTH, **TRAINABLE,
    ),
    setting(
        "figure1_cpu",
        "P1, Figure 1 on a CPU: all weights trainable, width 8, 1,280 CIFAR-10 images",
        *rates((0.03, 0.1, 0.3), (0.01,), (
            {"model": "ConvNetSIAf"}, {"model": "ResNet18SIAf", "epochs": 700})),
        **TRAINABLE, num_channels=8, use_data_size=1280, epochs=500, save_freq=10, keep=2,
    ),
    setting(
        "fixed_norm", "P1, fixed norm: periods with ρ free, none with ρ held at several values",
        *rates((0.03,), variants=({}, {"fix_si_pnorm": True}, *held_at(2.0, 5.0, 10.0, 20.0))),
        keep=2,
    ),
    setting(
        "fixed_norm_cpu",
        "P1, fixed norm: periods with ρ free, none with ρ held at several values; 256 digits",
        *rates((0.1,), (0.1,), ({}, *held_at(1.0, 2.0, 3.0, 4.0, 8.0))),
        **TINY_DIGITS, epochs=120,
    ),
    setting(
        "range", "P1, range: periods over a decade of η and one of λ, and outside of them",
        *rates((0.001, 0.005, 0.015, 0.05, 1.0)),
        *rates((0.03,), (0.0003, 0.001, 0.003)),
        keep=2,
    ),
    setting(
        "vary_lr", "P1, frequency of periods by learning rate",
        *rates((0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)), keep=2,
    ),
    setting(
        "vary_wd", "P1, frequency of periods by weight decay",
        *rates((0.03,), (0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003)), keep=2,
    ),
    setting(
        "vary_images", "P1, frequency of periods on other images: CIFAR-100",
        *rates((0.005, 0.01, 0.02, 0.03)), keep=2, dataset="CIFAR100",
    ),
    setting(
        "base",
        "P1, one period: one line with periods, every step and epoch saved, to branch off from",
        *rates((0.03,)), trace=True,
    ),
    setting(
        "chaos", "P1, norm in chaos; P2, ordinary chaos: every step of three lines",
        *rates((1.0,), (0.001, 0.002, 0.004)), keep=2, trace=True, epochs=200,
    ),
    setting(
        "minima", "P1, minima of successive periods: functions and test errors",
        *rates((0.03,)), save_freq=10,
    ),
    setting(
        "full_batch", "P1, full-batch gradient descent: one step an epoch",
        *rates((1.0,), (0.005,)), fbgd=True, epochs=3000, save_freq=50,
    ),
    setting(
        "each", "P1, practice: with momentum, with augmentation, with all weights trainable",
        *rates((0.03,), variants=(
            {"momentum": 0.9, "noaug": True, "lr_init": 0.003}, {}, {**TRAINABLE, "noaug": True})),
        keep=2, noaug=False,
    ),
    setting(
        "practice", "P1, practice: momentum, augmentation and all weights at once; CIFAR-10",
        *rates((0.003,)), keep=2, **TRAINABLE, momentum=0.9, noaug=False,
    ),
    setting("adam", "P1, Adam", *rates((0.001, 0.003)), keep=2, optimizer="adam"),
    setting(
        "norms", "P1, other normalisations: layer, group, instance, weight",
        *rates((0.03,), variants=[{"norm": n} for n in ("layer", "group", "instance", "weight")]),
        keep=2,
    ),
    setting(
        "angles", "new: angle of a step in equilibrium, with momentum and with AdamW",
        *rates(variants=(
            {"momentum": 0.9, "lr_init": 0.1},
            {"optimizer": "adamw", "lr_init": 0.003, "wd": 0.1})),
        keep=2, trace=True, epochs=200,
    ),
)
