"""Settings for a CPU alone; those that are a paper's setting made small are in papers.py."""

from dataclasses import replace

from experiments.papers import CONVENTIONAL, DIGITS, SMALL_CIFAR
from experiments.setting import PAPER, Experiment, elrs, rates

TINY = replace(DIGITS, num_channels=4, use_data_size=256, batch_size=64, save_freq=5, keep=2)
ON_SPHERE = {"fix_elr": True, "elr": 1.0}  # the lines say at which rate

DEMOS = (
    Experiment(
        "demo",
        "no, slow and fast periods, and chaos: digits, width 4",
        replace(PAPER, dataset="Digits", num_channels=4, epochs=120, save_freq=2),
        rates(lrs=(0.001, 0.04, 0.15, 2.0), wds=(0.03,)),
    ),
    Experiment(
        "demo_regimes",
        "the three regimes on the sphere in minutes on a CPU: width 4, digits",
        replace(PAPER, dataset="Digits", num_channels=4, epochs=60, **ON_SPHERE),
        elrs(1e-4, 1e-3, 3e-3, 1e-2, 1.5e-2, 2e-2, 1e-1, 1.0),
        quick={"lines": elrs(1e-3, 3e-3, 2e-2, 1.0), "epochs": 16},
    ),
    # A 20th of the images makes a 20th of the steps an epoch: λ is 20 times figure2's, so that an
    # epoch of weight decay shrinks ρ as much as there.
    Experiment(
        "figure2_cpu",
        "figure2 as far as a CPU goes: 2,560 CIFAR-10 images, width 8, 20 times the weight decay",
        replace(SMALL_CIFAR, save_freq=4),
        rates(lrs=(0.001, 0.01, 0.03, 1.0), wds=(0.02,)),
    ),
    # Instead of the weight decay of an epoch, this matches the published number of steps, 391,000,
    # and the product of λ and steps: half of the steps at twice λ.
    Experiment(
        "figure2_steps",
        "figure2 step for step as far as a CPU goes: 195,500 steps, 2,560 CIFAR-10 images, width 8",
        replace(SMALL_CIFAR, epochs=9775, save_freq=39),
        (
            *rates(lrs=(0.01, 0.03, 0.001), wds=(0.002,)),
            *rates(lrs=(1.0,), wds=(0.002,), variants=({"epochs": 2000},)),
        ),
    ),
    # All of the published setting but its length: four times λ in a quarter of the epochs is the
    # same total weight decay.
    Experiment(
        "figure2_quarter",
        "figure2 on a CPU, all of its network and images: 250 epochs instead of 1,000, λ 0.004 "
        "instead of 0.001",
        replace(PAPER, epochs=250, eval_freq=1, save_freq=5),
        (
            *rates(lrs=(0.01, 0.03), wds=(0.004,)),
            *rates(lrs=(1.0,), wds=(0.004,), variants=({"epochs": 60},)),
            *rates(lrs=(0.001,), wds=(0.004,)),
        ),
    ),
    Experiment(
        "three_regimes_cpu",
        "three_regimes as far as a CPU goes: 2,560 CIFAR-10 images, width 8",
        replace(SMALL_CIFAR, epochs=300, save_freq=4, **ON_SPHERE),
        elrs(1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 5e-2, 1e-1),
    ),
    # One figure of the papers each, in minutes
    Experiment(
        "figure1_cpu",
        "P1, Figure 1 on a CPU: all weights trainable, width 8, 1,280 CIFAR-10 images",
        replace(
            SMALL_CIFAR,
            use_data_size=1280,
            noninvlr=-1,
            init_scale=-1,
            epochs=500,
            save_freq=10,
            keep=2,
        ),
        (
            *rates(lrs=(0.03, 0.1, 0.3), wds=(0.01,), variants=({"model": "ConvNetSIAf"},)),
            *rates(
                lrs=(0.03, 0.1, 0.3),
                wds=(0.01,),
                variants=({"model": "ResNet18SIAf", "epochs": 700},),
            ),
        ),
    ),
    Experiment(
        "fixed_norm_cpu",
        "P1, fixed norm: periods with ρ free, none with ρ held at several values; 256 digits",
        replace(TINY, epochs=120),
        rates(
            lrs=(0.1,),
            wds=(0.1,),
            variants=(
                {},
                *(
                    {"fix_si_pnorm": True, "fix_si_pnorm_value": v}
                    for v in (1.0, 2.0, 3.0, 4.0, 8.0)
                ),
            ),
        ),
    ),
    Experiment(
        "conventional_cpu",
        "P2, conventional training: constant rates and cosines, with momentum and without; digits",
        replace(TINY, epochs=40),
        rates(lrs=(0.01, 0.1, 0.3, 1.0), wds=(0.02,), variants=CONVENTIONAL),
    ),
    Experiment(
        "sphere_minima_cpu",
        "P2, minima of the first regime: sharpness by rate, paths and angles; 512 digits",
        replace(DIGITS, epochs=100, **ON_SPHERE),
        (
            *({"elr": elr, "trial": 0} for elr in (5e-4, 1e-3, 2e-3, 4e-3, 2e-2)),
            {"elr": 6e-2, "trial": 0, "epochs": 50},
            *({"elr": elr, "trial": 1} for elr in (1e-3, 4e-3)),
        ),
    ),
    Experiment(
        "three_regimes_resnet_cpu",
        "P2, ResNet-18: the three regimes by effective rate; 256 digits",
        replace(TINY, model="ResNet18SI", num_channels=2, epochs=24, save_freq=3, **ON_SPHERE),
        elrs(1e-3, 1e-2, 1e-1, 1.0),
    ),
    Experiment(
        "three_regimes_noise_cpu",
        "P2, label noise: losses of true and of corrupted labels by effective rate; 256 digits",
        replace(TINY, epochs=80, corrupt_train=0.2, **ON_SPHERE),
        elrs(5e-4, 2e-3, 8e-3, 3e-2),
    ),
)
