"""The settings of the papers at full scale, for a GPU."""

from experiments.setting import PAPER, TRAINABLE, Experiment

_RECORD = {"metrics": True, "keep": 2}
_EVERY_200 = {**_RECORD, "keep_epochs": "0,200,400,600,800"}
PAPERS = (
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
        "P1, Figure 2: from no period to chaotic equilibrium, by learning rate",
        params={**PAPER, **_EVERY_200},
        lrs=(0.001, 0.01, 0.03, 1.0),
    ),
    Experiment(
        "range",
        "periods over a decade of learning rates and one of weight decays, and outside of them",
        params={**PAPER, **_RECORD},
        lrs=(0.03,),
        variants=(
            *({"lr_init": lr} for lr in (0.001, 0.005, 0.015, 0.05, 1.0)),
            *({"wd": wd} for wd in (0.0003, 0.001, 0.003)),
        ),
    ),
    Experiment(
        "vary_lr",
        "frequency of periods by learning rate",
        params={**PAPER, **_RECORD},
        lrs=(0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1),
    ),
    Experiment(
        "vary_images",
        "frequency of periods by learning rate on other images: CIFAR-100",
        dataset="CIFAR100",
        params={**PAPER, **_RECORD},
        lrs=(0.005, 0.01, 0.02, 0.03),
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
        "base",
        "one line with periods, every step and every epoch of it, to branch off from",
        params={**PAPER, "metrics": True, "trace": True},
        lrs=(0.03,),
    ),
    Experiment(
        "chaos",
        "every step of three lines in chaotic equilibrium",
        params={**PAPER, **_RECORD, "trace": True, "epochs": 200},
        lrs=(1.0,),
        wds=(0.001, 0.002, 0.004),
    ),
    Experiment(
        "minima",
        "test errors at the minima of successive periods",
        params={**PAPER, "metrics": True, "save_freq": 10},
        lrs=(0.03,),
    ),
    Experiment(
        "full_batch",
        "periods in full-batch gradient descent: one step an epoch",
        params={**PAPER, "metrics": True, "epochs": 3000, "save_freq": 50},
        lrs=(1.0,),
        wds=(0.005,),
        add_params="--use_test --noaug --no_schedule --fbgd",
    ),
    Experiment(
        "each",
        "periods with momentum, with augmentation, with all weights trainable",
        params={**PAPER, **_RECORD},
        add_params="--use_test --no_schedule",
        lrs=(0.03,),
        variants=(
            {"momentum": 0.9, "noaug": True, "lr_init": 0.003},
            {},
            {**TRAINABLE, "noaug": True},
        ),
    ),
    Experiment(
        "practice",
        "periods as one trains: momentum, augmentation and all weights",
        network="ConvNetSIAf",
        fix_noninvlr=-1,
        params={**PAPER, **_RECORD, "init_scale": -1, "momentum": 0.9},
        add_params="--use_test --no_schedule",
        lrs=(0.003,),
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
