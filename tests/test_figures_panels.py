"""Panels show what the runs on disk hold: every epoch, loss and norm in one colour."""

import itertools
import json

import numpy as np
import pytest

import figures
from figures.report import panels, report
from runs import Run, write_arrays, write_log

EPOCHS = np.arange(1, 101)
FALL = np.exp(-0.02 * (EPOCHS % 20))  # ρ and loss fall for 20 epochs and jump, five times


def recorded(folder, name, loss, rho, accuracy=1.0, lr=0.1):
    """A run of which there is only the log."""
    config = {"lr_init": lr, "wd": 0.01, "model": "ConvNetSI", "trial": 0, "num_classes": 10,
              "optimizer": "sgd", "momentum": 0.0, "fbgd": False, "train_images": 512,
              "batch_size": 128}  # fmt: skip
    path = folder / name / "trial_0"
    columns = {"epoch": EPOCHS, "train_loss": loss, "si_norm": rho, "train_acc": accuracy, "lr": lr}
    rows = [dict(zip(columns, row, strict=True)) for row in np.broadcast(*columns.values())]
    path.mkdir(parents=True)
    write_log(path, rows)
    return Run(path, {**config, "fix_si_pnorm_value": -1.0})


@pytest.fixture
def three(tmp_path):
    swings = np.random.default_rng(0).normal(scale=0.05, size=len(EPOCHS))
    return [
        recorded(tmp_path, "a", 1 / EPOCHS, np.full(100, 5.0), lr=0.001),
        recorded(tmp_path, "b", FALL**10, 5 * FALL, lr=0.1),
        recorded(tmp_path, "c", np.exp(swings), 5 * np.exp(swings / 10), 0.4, lr=1.0),
    ]


def lines(axis):
    """The curves that are drawn over all epochs, with their colour."""
    return [
        (line.get_ydata(), line.get_color()) for line in axis.lines if len(line.get_xdata()) == 100
    ]


def test_a_run_is_said_to_be_periodic_or_in_its_regime(three):
    assert [run.behaviour for run in three] == [
        "no period yet: 0.004 e-folds of decay (needs 2)",
        "5 periods, CV 0.00",
        "chaotic equilibrium",
    ]


def test_panels_show_loss_above_norm_of_every_epoch(three):
    figure = panels(three)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    titles = [axis.get_title() for axis in shown if axis.get_title()]
    assert titles == [
        "η = 0.001:\nno period yet: 0.004 e-folds of\ndecay (needs 2)",
        "η = 0.1: 5 periods, CV 0.00",
        "η = 1: chaotic equilibrium",
    ]
    for column, run in enumerate(three):
        (loss, colour), (rho, same) = lines(shown[column])[0], lines(shown[3 + column])[0]
        assert np.array_equal(loss, run.history["train_loss"].values)
        assert np.array_equal(rho, run.history["si_norm"].values)
        assert colour == same == figures.style.COLOURS[column]


def test_lines_that_the_label_does_not_tell_apart_have_a_panel_each(tmp_path):
    runs = [recorded(tmp_path, name, FALL**10, 5 * FALL) for name in "ab"]
    titles = [axis.get_title() for axis in panels(runs).axes if axis.get_title()]
    words = [f"{run.folder}:5periods,CV0.00" for run in runs]
    assert ["".join(title.split()) for title in titles] == words


def test_a_run_without_measured_gradients_is_drawn(three, tmp_path):
    for run in three:  # its test error alone is measured
        write_arrays(run.folder / "test-em.npz", {"report_epochs": [0, 100], "acc": [0.1, 0.9]})
        (run.folder / "config.json").write_text(json.dumps({**run.config, "resume_epoch": None}))
    report([tmp_path])
    assert {path.name for path in tmp_path.glob("*.png")} == {"periods.png", "overview.png"}


def test_titles_of_panels_are_beside_one_another(three):
    figure = figures.loss_panels({f"full-batch descent, trial {i} (worst)": run
                                  for i, run in enumerate(three)})  # fmt: skip
    figure.draw_without_rendering()
    ends = [axis.title.get_window_extent().get_points()[:, 0] for axis in figure.axes[:3]]
    assert all(left[1] < right[0] for left, right in itertools.pairwise(ends))
