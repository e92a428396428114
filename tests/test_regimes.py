"""A regime is named where the record suffices to tell; else the reason is given."""

import numpy as np
import pytest

from theory.dynamics import next_norm
from theory.regimes import find_regime

TIME = np.linspace(0, 1, 60)


def noise(seed, size=60, spread=0.2):
    return np.exp(np.random.default_rng(seed).normal(0, spread, size))


def fall(start, end):
    return start * (end / start) ** TIME


# On the sphere: loss, error as a fraction of guessing's, and what can be said.
SPHERE = {
    "learnt and still improving": (fall(2, 1e-3), fall(1, 1e-3), "convergence"),
    "learnt, as a power law": (1 / (1 + 60 * TIME), 0.3 / (1 + 60 * TIME) ** 2, "convergence"),
    "learnt at once": (1e-5, 0.0, "convergence"),
    "exactly at zero": (0.0, 0.0, "convergence"),
    "a slow fall": (fall(2, 0.5), fall(1, 0.3), "the loss still falls"),
    "falling from 14 to 2, no error learnt": (fall(14, 2), fall(1, 0.95), "the loss still falls"),
    "a high loss that grows": (fall(2, 10), fall(1, 1.02), "the loss still rises"),
    "level in the middle": (0.9, 0.3, "chaotic equilibrium"),
    "level after a fast fall": (0.9 + 5 * np.exp(-20 * TIME), 0.3, "chaotic equilibrium"),
    "a loss that falls by a twentieth": (fall(1, 0.9), 0.3, "chaotic equilibrium"),
    "just below the level of guessing": (2.0, 0.89, "chaotic equilibrium"),
    "just above a minimum": (0.1, 0.021, "chaotic equilibrium"),
    "level at guessing": (2.3, 0.99, "divergence"),
    "worse than guessing": (12.0, 1.05, "divergence"),
}


def told(loss, error, *record):
    """The regime, or the reason why there is none; `error` may be one number."""
    found = find_regime(loss, np.zeros(len(loss)) + error, *record)
    assert (found.name is None) == bool(found.reason)
    return found.name or found.reason


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", SPHERE)
def test_regimes_on_the_sphere(case, seed):
    loss, error, expected = SPHERE[case]
    assert told(loss * noise(seed, spread=0.1), error) == expected


def test_too_little_is_not_named():
    level = noise(0)
    assert told(level[:19], 0.5) == "19 records (needs 20)"
    assert told([], 0.5) == "nothing is recorded"
    assert told(level[:20], 0.5) == "chaotic equilibrium"
    # Weights that hardly move stay at the level of guessing without wandering there.
    assert told(np.linspace(2.31, 2.3, 60), 1) == "the loss hardly changes"
    cycle = np.where(TIME < 0.1, 2.0, 0.5)  # that weights have fallen into
    assert told(cycle, cycle / 2) == "chaotic equilibrium"


def test_a_loss_that_is_lost_is_divergence_however_short():
    for loss in ([2.3, 9.0, np.nan], [2.3, np.inf], [np.nan] * 40):
        assert told(loss, 0.5) == "divergence"
    once = np.where(np.arange(60) == 40, np.nan, noise(0))
    assert told(once, 0.5) == "chaotic equilibrium"


def ordinary(lr, gradient, seed, rho=3.0):
    """η̃ by record of ten steps at λ = 0.01, and e-folds: ρ under gradients of this norm."""
    rng, norms = np.random.default_rng(seed), []
    for _ in range(600):
        rho = float(next_norm(rho, gradient * rng.uniform(0.8, 1.2), lr, 0.01))
        norms.append(rho)
    return lr / np.array(norms[9::10]) ** 2, 600 * lr * 0.01


@pytest.mark.parametrize("seed", range(2))
def test_ordinary_training_has_a_regime_once_its_norm_has_settled(seed):
    level, fast = noise(seed), fall(2, 1e-3)
    settled, short = ordinary(1.0, 1.0, seed), ordinary(0.1, 1.0, seed)
    rising = ordinary(1.0, 0.01, seed, rho=24.0)  # as by decay alone
    falling, schedule = rising[0][::-1], np.where(TIME < 0.75, 0.1, 0.01)
    for loss, error, record, expected in (
        (level, 0.5, settled, "chaotic equilibrium"),
        (level, 0.01, settled, "chaotic equilibrium"),
        (level, 0.95, settled, "divergence"),
        (level, 0.5, short, "0.6 e-folds of decay (needs 2)"),
        (level, 0.5, rising, "η̃ still rises"),
        (level, 0.5, (falling,), "η̃ still falls"),
        (level, 0.5, (schedule,), "η̃ still falls"),
        (fast, fast / 2, short, "0.6 e-folds of decay (needs 2)"),  # before its first period
        (fall(2, 0.2) * level, fast / 2, settled, "the loss still falls"),
    ):
        assert told(loss, error, *record) == expected


def test_level_and_spread_and_half_of_the_errors_are_of_the_second_half():
    found = find_regime([*[100.0] * 11, *range(11)], np.full(22, 0.5))
    assert (found.low, found.level, found.high) == (1, 5, 9)
    assert find_regime([1.0] * 30 + [1, np.inf] * 14 + [1, 1], np.full(60, 0.5)).high == np.inf
    error = np.where(np.arange(60) % 5 == 0, 9.0, 0.5)  # whose mean is above that of guessing
    assert told(noise(1), error) == "chaotic equilibrium"


def test_lengths_that_differ_are_refused():
    for columns in (([1, 2], [1]), ([1, 2], [1, 2], [1])):
        with pytest.raises(ValueError, match="same length"):
            find_regime(*columns)


LEVEL, FREE = np.ones(60), {"lr_init": 1.0}


@pytest.mark.parametrize("loss, rho, error, config, expected", [
    (LEVEL, fall(24, 10), 0.5, {**FREE, "wd": 0.01}, "no period yet: η̃ still rises"),
    (LEVEL, fall(24, 10), 0.5, {}, "no period yet: 0.94 e-folds of decay (needs 2)"),
    (LEVEL, 5.0, 0.5, FREE, "chaotic equilibrium"),
    (LEVEL, 5.0, 0.04, {"lr_init": 1e-3, "wd": 0.03},
     "no period yet: 0.0071 e-folds of decay (needs 2)"),
    (fall(2, 1e-3), 5.0, 0.0, {"wd": 0.0}, "convergence"),
    (fall(2, 1e-3), 5.0, 0.0, {"fix_si_pnorm": True}, "convergence"),
    (fall(2, 0.5), 5.0, 0.3, {"fix_elr": True}, "no regime yet: the loss still falls"),
    (LEVEL, 5.0, 0.85, {"optimizer": "adam"}, "divergence"),
    (LEVEL, 5.0, 0.0, {"optimizer": "adam"}, "chaotic equilibrium"),
    (LEVEL, 5.0, 0.0, {"optimizer": "adam", "wd": 0.0}, "convergence"),
    (LEVEL[:12], 5.0, 0.5, {"fix_elr": True}, "no regime yet: 12 records (needs 20)"),
    (np.array([2.0, 9.0, np.nan]), 5.0, 0.9, {}, "divergence"),
])  # fmt: skip
def test_what_a_run_does(make, loss, rho, error, config, expected):
    loss, rho = loss * noise(0, len(loss), 0.05), rho + np.zeros(len(loss))
    run = make(loss, rho, config, train_acc=np.full(len(loss), 1 - error))
    assert run.behaviour == expected


def test_what_is_not_recorded_is_named_and_a_schedule_that_falls_is_no_regime(make):
    run = make(noise(0), np.full(60, 5.0), {"fix_elr": True}, lr=fall(1, 0.01))
    assert run.behaviour == "no regime yet: η̃ still falls"
    run = make(noise(0), np.full(60, 5.0), {"fix_elr": True})
    (run.folder / "log.csv").unlink()
    assert run.regime.reason == "train loss unknown"
