"""Jumps are found where they are, and nowhere else."""

import numpy as np
import pytest

import analysis


def saw(jumps, length=200, seed=0):
    """A loss that falls a decade in 20 epochs and jumps back to 1 at the given epochs."""
    noise = np.random.RandomState(seed).normal(0, 0.05, length)
    starts = np.zeros(length, dtype=int)
    for jump in jumps:
        starts[jump:] = jump
    return 10 ** (-(np.arange(length) - starts) / 20 + noise)


@pytest.mark.parametrize("jumps", [[], [50], [40, 90, 130, 170], [60, 198]])
def test_jumps(jumps):
    assert analysis.find_jumps(np.arange(200), saw(jumps)).tolist() == jumps


def test_periods():
    found = analysis.find_periods(np.arange(200), saw([40, 90, 130, 170]))
    assert found.mean == pytest.approx(130 / 3)
    assert np.isnan(analysis.find_periods(np.arange(200), saw([50])).mean)


def test_no_jumps_in_chaos_or_in_too_short_a_record():
    chaos = 0.4 * np.exp(np.random.RandomState(0).normal(0, 0.5, 300))
    assert len(analysis.find_jumps(np.arange(300), chaos)) == 0
    assert len(analysis.find_jumps([], [])) == 0
    assert len(analysis.find_jumps([1, 2], [1.0, 5.0])) == 0


def test_infinite_loss_counts_as_high():
    loss = saw([50, 120])
    loss[50] = np.inf
    assert analysis.find_jumps(np.arange(200), loss).tolist() == [50, 120]


def test_effective_quantities():
    assert analysis.effective_lr(0.5, [1, 2]).tolist() == [0.5, 0.125]
    assert analysis.effective_gradient_norm([3.0], [2.0]).tolist() == [6.0]
