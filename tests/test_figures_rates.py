"""Figures of P2 by rate, of paths, and P1's Figure 1: what their artists hold."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from made_runs import chaos, falling, on_sphere, saw

import figures
from figures import __main__ as command
from figures import paths
from figures.report import MORE
from utils import UserError


def add(run, file, **arrays):
    """Add arrays to one of the run's files of metrics."""
    np.savez(run.folder / f"{file}.npz", **{**run.metrics(file), **arrays})


def lines(axis):
    """The data of an axis's lines by (x, y), without empty ones."""
    return [line.get_xydata() for line in axis.get_lines() if len(line.get_xdata())]


def names(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(runs):
    """The figures of P2, and P1's Figure 1, that have something to show of these runs."""
    chosen = ("sharpness", "label_noise", "conventional", "loss_and_error")
    return [name for name in chosen if MORE[name](runs)]


def test_paths_and_barriers(tmp_path):
    arrays = {
        "checkpoint": np.array(["a/checkpoint-1.pt", "a/checkpoint-2.pt", "b/c.pt", "d/c.pt"]),
        "trial": np.array([0, 0, 1, 1]),
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
    assert lines(error)[0].tolist() == [[0, 50], [0.5, 50], [1, 50]]
    assert [line.tolist() for line in lines(loss_barrier)] == [[[5, 0]], [[80, 2]], [[90, 0]]]
    assert [line[0, 1] for line in lines(error_barrier)] == [1, 2, 3]
    assert names(figure) == [paths.RELATIONS[i] for i in (0, 1, 4)]
    np.savez(tmp_path / "some.npz", **arrays)
    command.main([str(tmp_path / "some.npz")])
    assert (tmp_path / "some.png").exists()
    np.savez(tmp_path / "other.npz", t=arrays["t"])
    for name in ("other.npz", "none.npz"):
        with pytest.raises(UserError, match=name):
            command.main([str(tmp_path / name)])
    arrays["regime"][2] = "divergence"  # beside a chaotic end
    assert paths.relation(arrays, 0, 2) == paths.relation(arrays, 2, 3) == paths.RELATIONS[5]
    arrays["regime"][:] = "convergence"
    assert [paths.relation(arrays, i, 3) for i in (0, 2)] == [paths.RELATIONS[i] for i in (3, 2)]
    arrays |= {"elr": np.full(4, np.nan), "lr": np.array([1, 1, 1, 2])}  # off the sphere
    assert [paths.relation(arrays, 0, i) for i in (2, 3)] == [paths.RELATIONS[i] for i in (1, 3)]
    arrays |= {
        "run": np.array([0, 1, 1, 3]),
        "setting": np.array([0, 0, 0, 3]),
        "seed": np.array([0, 1, 1, 0]),
    }
    found = [paths.relation(arrays, *pair) for pair in ((0, 1), (1, 2), (0, 3))]
    assert found == [paths.RELATIONS[i] for i in (1, 0, 6)]
    arrays["seed"][:] = 0  # of a run and a branch off it
    assert paths.relation(arrays, 0, 1) == paths.RELATIONS[7]


def test_sharpness_by_rate_is_on_the_unit_sphere_and_times_the_rate(make):
    low = on_sphere(make, 0.01, falling(60)[0], np.zeros(60), gradient=3.0)
    other = on_sphere(make, 0.01, falling(60)[0], np.full(60, 0.01))  # a gradient of 5
    high = on_sphere(make, 0.1, chaos(60)[0], np.full(60, 0.5))
    bare = [on_sphere(make, elr, chaos(60)[0], np.full(60, 0.5)) for elr in (0.01, 0.1)]
    assert not drawn(bare)
    spread = np.append(np.full(58, np.nan), (2.0, np.nan))
    for run in (low, other, high):
        add(run, "train-tm-prebn", params_norm=np.full(60, 2.0), params_numel=np.full(60, 100),
            fisher_trace=spread, sharpness=10 * spread)  # fmt: skip
    gradient, fisher, hessian, error = figures.sharpness_by_rate([low, other, high]).axes
    converged, others, means = lines(gradient)
    assert converged.tolist() == [[0.01, 6], [0.01, 10]] and means.tolist() == [[0.01, 8]]
    assert others.tolist() == [[0.1, 10]]
    assert lines(fisher)[0][0] == pytest.approx([0.01, 0.01 * 2 * 100 * 2**2])
    assert lines(hessian)[1][0] == pytest.approx([0.1, 0.1 * 20])
    assert lines(error)[0][:, 1] == pytest.approx([0, 1])
    assert drawn([low, other, high]) == drawn([low, bare[1]]) == ["sharpness"]


def test_conventional_training_by_initial_rate(make):
    epochs, found = np.array([0, 10, 20]), []
    for cosine, lr, momentum in itertools.product((False, True), (0.3, 0.1), (0.0, 0.9)):
        config = {"lr_init": lr, "momentum": momentum, "cosan_schedule": cosine}
        run = make(np.full(20, 2.0), np.full(20, 2.0), {**config, "no_schedule": not cosine})
        np.savez(run.folder / "train-tm.npz", report_epochs=epochs, loss=lr * np.ones(3))
        np.savez(run.folder / "test-em.npz", report_epochs=epochs, acc=[0.1, 0.5, 1 - lr])
        found.append(run)
    assert not drawn(found[:4]) and not drawn(found[:2]) and not drawn(found[::2])
    assert drawn(found) == ["conventional"]
    figure = figures.conventional(found, boundaries=[(0.01, 0.02)])
    loss, error, *courses = figure.axes
    assert [line.tolist() for line in lines(loss)] == 4 * [[[0.1, 0.1], [0.3, 0.3]]]
    assert lines(error)[0] == pytest.approx(np.array([[0.1, 10], [0.3, 30]]))
    kinds = [f"{kind}, momentum {mu}" for kind in ("constant", "cosine") for mu in ("0", "0.9")]
    assert [axis.get_title() for axis in courses] == kinds
    for axis, factor in zip(courses, (1, 10, 1, 10), strict=True):
        rates = [line[0, 1] for line in lines(axis)]
        assert rates == pytest.approx([factor * 0.1 / 4, factor * 0.3 / 4])
        assert [patch.get_y() for patch in axis.patches] == [0.01]
    assert names(figure) == [*kinds, "η = 0.1", "η = 0.3", "a regime of the sphere ends"]
    other = [replace(run, config={**run.config, "no_schedule": False}) for run in found]
    assert not drawn(other)  # of the constant ones, which now have the usual schedule, none is left
    assert figures.table([replace(run, window=(1, 5)) for run in found])  # between checkpoints
    assert not drawn([replace(run, window=(1, 5)) for run in found])
    adam = [replace(run, config={**run.config, "optimizer": "adam"}) for run in found[::2]]
    figure = figures.conventional([*found[::2], *found[1::2], *adam])
    assert [axis.get_title() for axis in figure.axes[2:5]] == [
        "constant, momentum 0, sgd", "constant, adam", "constant, momentum 0.9, sgd"]  # fmt: skip
    many = [replace(run, config={**run.config, "momentum": mu}) for run in found[::2]
            for mu in (0.0, 0.5, 0.9, 0.99)]  # fmt: skip
    loss, *_ = figures.conventional(many).axes
    assert len(lines(loss)) == 8 and len({line.get_color() for line in loss.lines}) == 8


def test_losses_of_true_and_corrupted_labels(make):
    run = on_sphere(make, 0.01, falling(3)[0], np.full(3, 0.2))
    true, corrupted = np.array([2, 1, 0.5]), np.array([4, 5, 6.0])
    add(run, "train-tm", loss_normal=true, loss_corrupt=np.full(3, np.nan))
    assert not drawn([run])  # measured apart, but without label noise
    add(run, "train-tm", loss_corrupt=corrupted, acc_corrupt=[0.1, 0.2, 0.3])
    expected = (true, corrupted, [90, 80, 70], [20, 20, 20])
    for axis, values in zip(figures.label_noise([run]).axes, expected, strict=True):
        assert lines(axis)[0] == pytest.approx(np.array([[0, 1, 2], values]).T)
    assert drawn([run]) == ["label_noise"]
    assert not drawn([run, on_sphere(make, 0.02, falling(3)[0], np.full(3, 0.2))])  # all or none


def test_loss_and_error_have_a_row_for_each_network(make):
    found = [make(*saw(50, 200), {"model": m, "lr_init": lr})
             for m in ("ConvNetSIAf", "ResNet18SIAf") for lr in (0.1, 0.2)]  # fmt: skip
    for run in found:
        np.savez(run.folder / "test-em.npz", report_epochs=[0, 200], acc=np.array([0.1, 0.7]))
    figure = figures.loss_and_error(found)
    titles = [axis.get_title() for axis in figure.axes[::2]]
    assert titles == ["ConvNetSIAf Train loss", "ResNet18SIAf Train loss"]
    for axis, error in zip(figure.axes[::2], figure.axes[1::2], strict=True):
        first, _, turns, _ = lines(axis)
        assert len(first) == 200 and len(turns) == len(found[0].periods) > 1
        assert lines(error)[0] == pytest.approx(np.array([[0, 90], [200, 30]]))
    assert names(figure)[0] == "ConvNetSIAf: η = 0.1" and len(names(figure)) == 5
    held = make(*falling(9), {"fix_si_pnorm": True})
    assert drawn(found) == drawn([found[0], held]) == ["loss_and_error"] and not drawn(found[:2])
