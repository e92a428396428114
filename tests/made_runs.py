"""Runs with given losses and norms, for the tests of the claims."""

import itertools

import numpy as np
import pytest

import figures
import runs
from theory.dynamics import next_norm

CONFIG = {
    "lr_init": 0.1, "wd": 0.04, "trial": 10, "fix_si_pnorm": False, "fix_si_pnorm_value": -1.0,
    "momentum": 0.0, "noaug": True, "noninvlr": 0.0, "num_classes": 10, "fix_elr": False,
    "resume_epoch": None, "model": "ConvNetSI", "optimizer": "sgd", "fbgd": False, "elr": None,
    "train_images": 512, "batch_size": 128, "epochs": 600, "norm": "batch",
}  # fmt: skip


def saw(period, length=600, decay=0.016, slower=1.1):
    """Loss and norm that fall for a period, by weight decay of so much an epoch, and jump."""
    since = np.arange(length) % period
    noise = np.random.RandomState(0).normal(0, 0.05, length)
    return 10 ** (-1.5 * since / period + noise), 3 * np.exp(-decay / slower * since)


def chaos(length=600, level=2.0):
    rng = np.random.RandomState(1)
    return level * np.exp(rng.normal(0, 0.2, length)), 3 + rng.normal(0, 0.05, length)


def falling(length=600):
    return 10 ** (-np.arange(length) / length), np.full(length, 3.0)


def trace_of(run, columns, steps=4):
    for epoch in range(len(columns["loss"]) // steps):
        part = slice(steps * epoch, steps * (epoch + 1))
        row = {name: values[part] for name, values in columns.items()}
        runs.write_trace(run.folder, epoch, {"lr": run.config["lr_init"], **row})


def seeds_of(make, course, count, line=None, **config):
    """Trials from 40 on with the same losses and norms."""
    return [make(*course, {**config, "trial": 40 + i}, line) for i in range(count)]


def chaotic(make, rho_factor, loss, line, **config):
    """A run whose norm is that of the equilibrium of its gradients, times a factor, since half."""
    run = make(*chaos(2), {"lr_init": 1.0, **config}, line)
    rng, rho, rows = np.random.RandomState(0), 3.0, []
    for _ in range(600):
        effective = 5 * rng.uniform(0.9, 1.1)
        rows.append((rho_factor * rho, effective / rho / rho_factor))
        rho = float(next_norm(rho, effective, 1.0, config["wd"]))
    norms, gradients = np.tile(np.array(rows[200:]), (2, 1)).T
    norms[:400] *= 5
    columns = {"loss": np.full(800, loss), "si_norm": norms, "gradient_norm": gradients}
    trace_of(run, columns, steps=400)
    return run


def on_sphere(make, elr, loss, error, gradient=5.0, trial=10):
    config = {"fix_elr": True, "elr": elr, "base_lr": elr, "trial": trial}
    n, at = len(loss), {"report_epochs": np.arange(len(loss))}
    run = make(loss, np.ones(n), config, train_acc=1 - error)
    for name in ("train-tm", "test-em"):
        np.savez(run.folder / f"{name}.npz", **at, loss=loss, acc=1 - error)
    si = {"params_norm": np.ones(n), "gnorm_m": np.full(n, gradient)}
    np.savez(run.folder / "train-tm-prebn.npz", **at, **si)
    return run


def sphere_of(make, rates, trial):
    """Traced chaos at three rates, with a loss around 2 at the middle one."""
    for elr, level in zip(rates, (1.8, 2.0, 2.2), strict=True):
        loss = chaos(60, level)[0]
        run = on_sphere(make, elr, loss, np.full(60, 0.5), trial=trial)
        columns = {"loss": loss, "si_norm": np.ones(60), "gradient_norm": np.full(60, 5.0)}
        trace_of(run, columns, steps=30)
        yield run


@pytest.fixture(autouse=True)
def closed():
    yield
    figures.plt.close("all")


@pytest.fixture
def make(tmp_path):
    """Write a run with a given training loss and norm by epoch; its other columns follow."""
    number = itertools.count()

    def run(loss, rho, config=None, line=None, **columns):
        count = next(number)
        folder = tmp_path / (line or f"line_{count}") / f"trial_{count}"
        folder.mkdir(parents=True)
        config = {**CONFIG, "epochs": len(loss), **(config or {})}
        runs.write_config(folder, config)
        n = len(loss)
        columns = {"epoch": np.arange(1, n + 1), "lr": np.full(n, config["lr_init"]),
                   "train_loss": loss, "si_norm": rho,
                   "train_acc": np.full(n, 0.5), "test_acc": np.full(n, 0.9),
                   "effective_lr": 0.1 / np.asarray(rho) ** 2, **columns}  # fmt: skip
        rows = zip(*columns.values(), strict=True)
        runs.write_log(folder, [dict(zip(columns, row, strict=True)) for row in rows])
        return runs.Run(folder, runs.read_config(folder))

    return run


# Of `distinct`: what each file reports, in epochs, states within an epoch among them.
LOGGED = np.arange(1.0, 61)
TRAIN_AT = np.array([0, 4, 7, 7.25, 7.5, 8, 19, 20, 33, 39, 40, 51, 59, 60])
SI_AT = np.array([0, 3, 4, 7.5, 8, 19, 20, 39, 40, 51, 58, 59, 60])
TEST_AT = np.array([0, 4, 8, 19, 30, 39, 40, 55, 59])
EVALS = np.random.default_rng(5).permuted(np.arange(1, 1 + 10 * len(TRAIN_AT)))


@pytest.fixture
def distinct(make):
    """A run whose every column, epoch and array differs from every other; three turns. It has a
    schedule, states within an epoch, a norm of all weights other than ρ, eigenvalues in either
    order, and files over other epochs."""

    def run(config=None, seed=3, line="distinct"):
        rng = np.random.default_rng(seed)
        config = {"lr_init": 0.5, "wd": 0.02, "epochs": 60, **(config or {})}
        since = LOGGED % 20
        depth = np.where(since <= 16, since, 32 - since)  # lowest before ρ turns
        loss = 10 ** (-2 * depth / 20) * np.exp(rng.normal(0, 0.01, 60))
        rho = 3 * np.exp(-0.9 * since / 20) * np.exp(rng.normal(0, 0.01, 60))
        rates = 0.5 * np.exp(-LOGGED / 100)
        made = make(loss, rho, config, line, lr=rates, train_acc=rng.uniform(0.1, 0.4, 60),
                    test_loss=np.arange(60), test_acc=rng.uniform(0.5, 0.6, 60))  # fmt: skip

        def write(name, at, more=None, **ranges):
            arrays = {key: rng.uniform(*ends, len(at)) for key, ends in ranges.items()}
            np.savez(made.folder / f"{name}.npz", report_epochs=at, **arrays, **(more or {}))

        evals, names = np.sort(EVALS.reshape(-1, 10)), ("conv.0", "conv.1", "linear")
        spectra = {"hess_evals": evals, "fisher_evals": evals[::-1, ::-1] + 1000}
        norms = {f"{name}.weight_norm": (4 + i, 5 + i) for i, name in enumerate(names)}
        write("train-tm", TRAIN_AT, spectra, loss=(1, 2), acc=(0.6, 0.7), gnorm_m=(10, 20),
              params_norm=(30, 40))  # fmt: skip
        write("train-tm-prebn", SI_AT, loss=(60, 70), gnorm_m=(50, 60), params_norm=(2, 3), **norms)
        write("test-em", TEST_AT, loss=(80, 90), acc=(0.7, 0.8), params_norm=(90, 95))
        return made

    return run
