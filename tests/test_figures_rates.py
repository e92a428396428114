"""Figures of P2 by rate, and of paths: what their artists hold."""

import numpy as np
import pytest
from made_runs import chaos, falling, on_sphere, saw

from figures import __main__ as command
from figures import paths, rates
from utils import UserError


def add(run, file, **arrays):
    """Add arrays to one of the run's files of metrics."""
    np.savez(run.folder / f"{file}.npz", **run.metrics(file), **arrays)


def lines(axis):
    """The data of an axis's lines by (x, y), without empty ones."""
    return [line.get_xydata() for line in axis.get_lines() if len(line.get_xdata())]


def test_paths_and_barriers(tmp_path):
    arrays = {
        "checkpoint": np.array(["a/checkpoint-1.pt", "a/checkpoint-2.pt", "b/c.pt", "d/c.pt"]),
        "trial": np.array([0, 0, 1, 1]), "arc": np.array(False),
        "lr": np.ones(4), "elr": np.array([0.1, 0.1, 0.1, 0.2]),
        "regime": np.array(["convergence"] * 3 + ["chaotic equilibrium"]),
        "pair": np.array([[0, 1], [0, 2], [0, 3]]), "t": np.array([0, 0.5, 1]),
        "angle": np.radians([5, 80, 90]),
        "train_loss": np.array([[1, 1, 1], [1, 3, 1], [1, 2, 3]], dtype=float),
        "test_error": np.full((3, 3), 0.5), "train_loss_barrier": np.array([0, 2, 0.0]),
        "test_error_barrier": np.array([0.01, 0.02, 0.03]),
    }  # fmt: skip
    figure = paths.path_barriers(arrays)
    loss, error, loss_barrier, error_barrier = figure.axes
    assert [line.get_ydata().tolist() for line in loss.get_lines()] == arrays["train_loss"].tolist()
    assert lines(error)[0][:, 1].tolist() == [50, 50, 50]
    assert [line.tolist() for line in lines(loss_barrier)] == [[[5, 0]], [[80, 2]], [[90, 0]]]
    assert [line[0, 1] for line in lines(error_barrier)] == [1, 2, 3]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [paths.RELATIONS[i] for i in (0, 1, 4)]
    np.savez(tmp_path / "some.npz", **arrays)
    command.main([str(tmp_path / "some.npz")])
    assert (tmp_path / "some.png").exists()
    np.savez(tmp_path / "other.npz", t=arrays["t"])
    for name in ("other.npz", "none.npz"):
        with pytest.raises(UserError, match=name):
            command.main([str(tmp_path / name)])
    arrays["regime"][:] = "convergence"
    assert paths.relation(arrays, 0, 3) == paths.RELATIONS[3]
    assert paths.relation(arrays, 2, 3) == paths.RELATIONS[2]


def test_sharpness_by_rate_is_on_the_unit_sphere_and_times_the_rate(make):
    low = on_sphere(make, 0.01, falling(60)[0], np.zeros(60), gradient=3.0)
    other = on_sphere(make, 0.01, falling(60)[0], np.full(60, 0.01), gradient=5.0)
    high = on_sphere(make, 0.1, chaos(60)[0], np.full(60, 0.5))
    spread = np.append(np.full(59, np.nan), 2.0)
    for run in (low, other, high):
        arrays = {"params_norm": np.full(60, 2.0), "params_numel": np.full(60, 100),
                  "fisher_trace": spread, "sharpness": 10 * spread}  # fmt: skip
        arrays = {**run.metrics("train-tm-prebn"), **arrays}
        np.savez(run.folder / "train-tm-prebn.npz", **arrays)
    gradient, fisher, hessian, error = rates.sharpness_by_rate([low, other, high]).axes
    converged, others, means = lines(gradient)
    assert converged.tolist() == [[0.01, 6], [0.01, 10]] and means.tolist() == [[0.01, 8]]
    assert others.tolist() == [[0.1, 10]]
    assert lines(fisher)[0][0] == pytest.approx([0.01, 0.01 * 2 * 100 * 2**2])
    assert lines(hessian)[1][0] == pytest.approx([0.1, 0.1 * 20])
    assert lines(error)[0][:, 1] == pytest.approx([0, 1])
    assert set(rates.applicable([low, other, high])) == {"sharpness"}


def with_metrics(make, lr, momentum, rho, **config):
    config = {"lr_init": lr, "momentum": momentum, **config}
    run = make(np.full(20, 2.0), np.full(20, rho), config)
    epochs = np.array([0, 10, 20])
    np.savez(run.folder / "train-tm.npz", report_epochs=epochs, loss=lr * np.ones(3))
    np.savez(run.folder / "test-em.npz", report_epochs=epochs, acc=np.array([0.1, 0.5, 1 - lr]))
    np.savez(run.folder / "train-tm-prebn.npz", report_epochs=epochs, params_norm=np.full(3, rho))
    return run


def test_conventional_training_by_initial_rate(make):
    found = [with_metrics(make, lr, mu, 2.0) for lr in (0.3, 0.1) for mu in (0.0, 0.9)]
    figure = rates.conventional(found, boundaries=[(0.01, 0.02)])
    loss, error, plain, momentum = figure.axes
    assert [line.tolist() for line in lines(loss)] == 2 * [[[0.1, 0.1], [0.3, 0.3]]]
    assert lines(error)[0] == pytest.approx(np.array([[0.1, 10], [0.3, 30]]))
    assert (plain.get_title(), momentum.get_title()) == (
        "constant, momentum 0", "constant, momentum 0.9",
    )  # fmt: skip
    assert [line[0, 1] for line in lines(plain)] == pytest.approx([0.1 / 4, 0.3 / 4])
    assert [line[0, 1] for line in lines(momentum)] == pytest.approx([1 / 4, 3 / 4])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert not rates.applicable(found) and not rates.applicable(found[:1])
    cosine = [
        with_metrics(make, lr, mu, 2.0, cosan_schedule=True) for lr in (1, 2) for mu in (0, 1)
    ]
    assert set(rates.applicable([*found, *cosine])) == {"conventional"}
    assert names[2:] == ["η = 0.1", "η = 0.3", "a regime of the sphere ends"]


def test_losses_of_true_and_corrupted_labels(make):
    run = on_sphere(make, 0.01, falling(3)[0], np.full(3, 0.2))
    add(run, "train-tm", loss_normal=np.array([2, 1, 0.5]), loss_corrupt=np.array([4, 5, 6.0]),
        acc_corrupt=np.array([0.1, 0.2, 0.3]))  # fmt: skip
    normal, corrupted, error, test = rates.label_noise([run]).axes
    assert lines(normal)[0][:, 1].tolist() == [2, 1, 0.5]
    assert lines(corrupted)[0][:, 1].tolist() == [4, 5, 6]
    assert lines(error)[0][:, 1] == pytest.approx([90, 80, 70])
    assert lines(test)[0][:, 1] == pytest.approx([20, 20, 20])
    assert set(rates.applicable([run])) == {"label_noise"}


def test_loss_and_error_have_a_row_for_each_network(make):
    found = [make(*saw(50, 200), {"model": m, "lr_init": lr})
             for m in ("ConvNetSIAf", "ResNet18SIAf") for lr in (0.1, 0.2)]  # fmt: skip
    for run in found:
        np.savez(run.folder / "test-em.npz", report_epochs=[0, 200], acc=np.array([0.1, 0.7]))
    figure = rates.loss_and_error(found)
    assert [axis.get_title() for axis in figure.axes[::2]] == [
        "ConvNetSIAf Train loss", "ResNet18SIAf Train loss",
    ]  # fmt: skip
    for axis, error in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        first, turns = lines(axis)[:2]
        assert len(first) == 200 and len(turns) == len(found[0].periods) > 1
        assert lines(error)[0] == pytest.approx(np.array([[0, 90], [200, 30]]))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[0] == "ConvNetSIAf: η = 0.1" and len(names) == 4
    assert set(rates.applicable(found)) == {"loss_and_error"}
