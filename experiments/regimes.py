"""Experiments of P2: at full scale, and as far as a CPU goes (_cpu)."""

from experiments.setting import CIFAR, FIFTH, TINY_DIGITS, elrs, rates, setting

FIGURE1 = (1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 5e-2, 1e-1)
# Ordinary training at a constant rate and with a cosine, with and without momentum
CONVENTIONAL = tuple(
    {"momentum": momentum, **schedule}
    for schedule in ({}, {"cosan_schedule": True})
    for momentum in (0.0, 0.9)
)

# fmt: off
REGIMES = (
    setting(
        "demo_regimes", "the three regimes on the sphere in minutes on a CPU: width 4, digits",
        *elrs(1e-4, 1e-3, 3e-3, 1e-2, 1.5e-2, 2e-2, 1e-1, 1.0),
        dataset="Digits", num_channels=4, epochs=60,
    ),
    setting(
        "three_regimes",
        "P2, Figure 1: convergence, chaotic equilibrium and divergence, by effective rate",
        *elrs(*FIGURE1), **FIFTH,
    ),
    setting(
        "three_regimes_cpu",
        "three_regimes as far as a CPU goes: 2,560 CIFAR-10 images, width 8",
        *elrs(*FIGURE1), **CIFAR, epochs=300, save_freq=4,
    ),
    setting(
        "three_regimes_resnet", "P2, ResNet-18: the three regimes by effective rate",
        *elrs(*FIGURE1), **FIFTH, model="ResNet18SI",
    ),
    setting(
        "three_regimes_resnet_cpu",
        "P2, ResNet-18: the three regimes by effective rate; 256 digits",
        *elrs(1e-3, 1e-2, 3e-2, 1e-1, 1.0),
        **{**TINY_DIGITS, "num_channels": 2, "save_freq": 3}, model="ResNet18SI", epochs=24,
    ),
    setting(
        "three_regimes_cifar100", "P2, 100 classes: the three regimes by effective rate",
        *elrs(*FIGURE1), **FIFTH, dataset="CIFAR100",
    ),
    setting(
        "three_regimes_noise",
        "P2, label noise: losses of true and of corrupted labels by effective rate",
        *elrs(*FIGURE1[:6]), **FIFTH, corrupt_train=0.2,
    ),
    setting(
        "three_regimes_noise_cpu",
        "P2, label noise: losses of true and of corrupted labels by effective rate; 256 digits",
        *elrs(5e-4, 2e-3, 8e-3, 3e-2), **TINY_DIGITS, epochs=80, corrupt_train=0.2,
    ),
    setting(
        "sphere_cifar",
        "P2, the three regimes: minima by rate, levels, stationarity, a random walk",
        *elrs(1e-4, 2e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1), **FIFTH,
    ),
    setting(
        "sphere",
        "P1, norm in chaos; P2, ordinary chaos: every step on the sphere at the rates of `chaos`",
        *elrs(5e-4, 8e-4, 1.2e-3, 1.8e-3, 2.5e-3), keep=2, trace=True, epochs=100,
    ),
    setting(
        "sphere_minima",
        "P2, minima of the first regime: sharpness by rate, linear paths and angles between them",
        *({**line, "trial": t} for t in range(3) for line in elrs(1e-4, 2e-4, 5e-4, 1e-3, 5e-3)),
        save_freq=50,
    ),
    setting(
        "sphere_minima_cpu",
        "P2, minima of the first regime: sharpness by rate, paths and angles; digits, width 4",
        *({"elr": elr, "trial": 0} for elr in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 2e-2, 3e-2)),
        *({"elr": elr, "trial": 1} for elr in (2e-3, 8e-3)),
        dataset="Digits", num_channels=4, epochs=100, save_freq=10,
    ),
    setting(
        "optima",
        "P2, better optima: constant rates, the best of which on held-out images is compared with "
        "a drop of the rate",
        *elrs(1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3, 2e-3), **FIFTH, use_test=False,
    ),
    setting(
        "conventional",
        "P2, conventional training: constant rates and cosines, with and without momentum",
        *rates((0.003, 0.01, 0.03, 0.1, 0.3, 1.0), variants=CONVENTIONAL), **FIFTH, epochs=200,
    ),
    setting(
        "conventional_cpu",
        "P2, conventional training: constant rates and cosines, with momentum and without; digits",
        *rates((0.01, 0.1, 0.3, 1.0), (0.02,), CONVENTIONAL), **TINY_DIGITS, epochs=40,
    ),
)
