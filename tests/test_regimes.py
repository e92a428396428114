"""A regime is named where the record suffices to tell; else the reason is given."""

import numpy as np
import pytest

from theory import toy
from theory.dynamics import next_norm
from theory.regimes import find_regime

TIME = np.linspace(0, 1, 60)


def noise(seed, size=60, spread=0.2):
    return np.exp(np.random.default_rng(seed).normal(0, spread, size))


def fall(start, end, power=1.0):
    return start * (end / start) ** (TIME**power)


# On the sphere: loss, error as a fraction of guessing's, and what can be said.
SPHERE = {
    "learnt and still improving": (fall(2, 1e-3), fall(1, 1e-3), "convergence"),
    "learnt, as a power law": (1 / (1 + 60 * TIME), 0.3 / (1 + 60 * TIME) ** 2, "convergence"),
    "learnt at once": (np.full(60, 1e-5), np.zeros(60), "convergence"),
    "exactly at zero": (np.zeros(60), np.zeros(60), "convergence"),
    "a slow fall": (fall(2, 0.5), fall(1, 0.3), "the loss still falls"),
    "falling from 14 to 2, no error learnt": (fall(14, 2), fall(1, 0.95), "the loss still falls"),
    "a high loss that grows": (fall(2, 10), fall(1, 1.02), "the loss still rises"),
    "level in the middle": (np.full(60, 0.9), np.full(60, 0.3), "chaotic equilibrium"),
    "level after a fast fall": (0.9 + 5 * np.exp(-20 * TIME), np.full(60, 0.3),
                                "chaotic equilibrium"),
    "a loss that falls by a twentieth": (fall(1, 0.9), np.full(60, 0.3), "chaotic equilibrium"),
    "level at guessing": (np.full(60, 2.3), np.full(60, 0.99), "divergence"),
    "worse than guessing": (np.full(60, 12.0), np.full(60, 1.05), "divergence"),
    "just below the level of guessing": (np.full(60, 2.0), np.full(60, 0.89),
                                         "chaotic equilibrium"),
    "just above a minimum": (np.full(60, 0.1), np.full(60, 0.021), "chaotic equilibrium"),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", SPHERE)
def test_regimes_on_the_sphere(case, seed):
    loss, error, expected = SPHERE[case]
    found = find_regime(loss * noise(seed, spread=0.1), error)
    assert (found.name or found.reason) == expected
    assert (found.name is None) == bool(found.reason)


def test_too_little_is_not_named():
    level, error = noise(0), np.full(60, 0.5)
    assert find_regime(level[:19], error[:19]).reason == "19 records (needs 20)"
    assert find_regime([], []).reason == "nothing is recorded"
    assert find_regime(level[:20], error[:20]).name == "chaotic equilibrium"
    # Weights that hardly move stay at the level of guessing without wandering there.
    assert find_regime(np.linspace(2.31, 2.3, 60), np.ones(60)).reason == "the loss hardly changes"
    cycle = np.where(TIME < 0.1, 2.0, 0.5)  # that weights have fallen into
    assert find_regime(cycle, cycle / 2).name == "chaotic equilibrium"


def test_a_loss_that_is_lost_is_divergence_however_short():
    for loss in ([2.3, 9.0, np.nan], [2.3, np.inf], [np.nan] * 40):
        assert find_regime(loss, np.full(len(loss), 0.5)).name == "divergence"
    once = np.where(np.arange(60) == 40, np.nan, noise(0))
    assert find_regime(once, np.full(60, 0.5)).name == "chaotic equilibrium"


def ordinary(lr, wd, steps, gradient, rho=3.0, seed=0):
    """η̃ by record of ten steps, and e-folds: ρ under gradients of this effective norm."""
    rng, norms = np.random.default_rng(seed), []
    for _ in range(steps):
        rho = float(next_norm(rho, gradient * rng.uniform(0.8, 1.2), lr, wd))
        norms.append(rho)
    return lr / np.array(norms[9::10]) ** 2, steps * lr * wd


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("error, name", [
    (0.5, "chaotic equilibrium"), (0.95, "divergence"), (0.01, "chaotic equilibrium"),
])  # fmt: skip
def test_ordinary_training_has_a_regime_once_its_norm_has_settled(seed, error, name):
    record = ordinary(1.0, 0.01, 600, 1.0, seed=seed)
    assert find_regime(noise(seed), np.full(60, error), *record).name == name


@pytest.mark.parametrize("seed", range(2))
def test_ordinary_training_that_has_not_settled_is_not_named(seed):
    level, half = noise(seed), np.full(60, 0.5)
    short = ordinary(0.1, 0.01, 600, 1.0, seed=seed)
    assert find_regime(level, half, *short).reason == "0.6 e-folds of decay (needs 2)"
    falling = ordinary(1.0, 0.01, 600, 0.01, rho=24.0, seed=seed)  # as by decay alone
    assert find_regime(level, half, *falling).reason == "η̃ still rises"
    growing = ordinary(1.0, 0.01, 600, 0.0, seed=seed)[0][::-1]
    assert find_regime(level, half, growing).reason == "η̃ still falls"
    assert find_regime(fall(2, 1e-3), fall(1, 1e-3), *short).name is None  # before its first period
    schedule = np.where(TIME < 0.75, 0.1, 0.01)
    assert find_regime(level, half, schedule).reason == "η̃ still falls"
    slow = find_regime(fall(2, 0.2) * level, fall(1, 1e-3), *ordinary(1.0, 0.01, 600, 1.0))
    assert slow.reason == "the loss still falls"


def test_level_and_spread_and_half_of_the_errors_are_of_the_second_half():
    found = find_regime([*[100.0] * 11, *range(11)], np.full(22, 0.5))
    assert (found.low, found.level, found.high) == (1, 5, 9)
    assert find_regime([1.0] * 30 + [1, np.inf] * 14 + [1, 1], np.full(60, 0.5)).high == np.inf
    error = np.where(np.arange(60) % 5 == 0, 9.0, 0.5)  # whose mean is above that of guessing
    assert find_regime(noise(1), error).name == "chaotic equilibrium"


def test_lengths_that_differ_are_refused():
    for columns in (([1, 2], [1]), ([1, 2], [1, 2], [1])):
        with pytest.raises(ValueError, match="same length"):
            find_regime(*columns)


@pytest.mark.parametrize("elr, level, regime", [
    (0.1, 0.0, "convergence"), (1.0, 1.27, "chaotic equilibrium"), (1000.0, 1.75, "divergence"),
])  # fmt: skip
def test_the_toy_function_has_all_three(elr, level, regime):
    loss = toy.descend(elr, 2000, (1, 2, 4), runs=256).mean(0)
    assert loss[1000:].mean() == pytest.approx(level, abs=0.05)
    assert find_regime(loss, loss / toy.random_level((1, 2, 4))).name == regime


# --- what is said of runs ---


@pytest.mark.parametrize("loss, rho, error, config, expected", [
    (np.ones(60), fall(24, 10), 0.5, {"lr_init": 1.0, "wd": 0.01}, "no period yet: η̃ still rises"),
    (np.ones(60), fall(24, 10), 0.5, {}, "no period yet: 0.94 e-folds of decay (needs 2)"),
    (np.ones(60), np.full(60, 5.0), 0.5, {"lr_init": 1.0}, "chaotic equilibrium"),
    (fall(14, 2), np.full(60, 5.0), 0.87, {"lr_init": 1.0}, "no period yet: the loss still falls"),
    (fall(2, 0.2), np.full(60, 5.0), 0.04, {"lr_init": 1e-3, "wd": 0.03},
     "no period yet: 0.0071 e-folds of decay (needs 2)"),
    (fall(2, 1e-3), np.full(60, 5.0), 0.0, {"wd": 0.0}, "convergence"),
    (fall(2, 1e-3), np.full(60, 5.0), 0.0, {"fix_si_pnorm": True}, "convergence"),
    (fall(2, 0.5), np.full(60, 5.0), 0.3, {"fix_elr": True}, "no regime yet: the loss still falls"),
    (np.ones(60), np.full(60, 5.0), 0.85, {"optimizer": "adam"}, "divergence"),
    (np.ones(60), np.full(60, 5.0), 0.0, {"optimizer": "adam"}, "chaotic equilibrium"),
    (np.ones(60), np.full(60, 5.0), 0.0, {"optimizer": "adam", "wd": 0.0}, "convergence"),
    (np.ones(12), np.full(12, 5.0), 0.5, {"fix_elr": True}, "no regime yet: 12 records (needs 20)"),
    ([2.0, 9.0, np.nan], np.full(3, 5.0), 0.9, {}, "divergence"),
])  # fmt: skip
def test_what_a_run_does(make, loss, rho, error, config, expected):
    loss = np.asarray(loss) * noise(0, len(loss), 0.05)
    run = make(loss, rho, config, train_acc=np.full(len(loss), 1 - error))
    assert run.behaviour == expected


def test_what_is_not_recorded_is_named_and_a_schedule_that_falls_is_no_regime(make):
    run = make(noise(0), np.full(60, 5.0), {"fix_elr": True}, lr=fall(1, 0.01))
    assert run.behaviour == "no regime yet: η̃ still falls"
    run = make(noise(0), np.full(60, 5.0), {"fix_elr": True})
    (run.folder / "log.csv").unlink()
    assert run.regime.reason == "train loss unknown"
