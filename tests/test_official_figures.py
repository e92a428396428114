"""Results of the official code are found and drawn; so is what is measured in part."""

import re
import sys

import numpy as np
import pytest
import torch
from conftest import measure
from made_runs import CONFIG

import figures
import models
import runs
from options import Model

EPOCHS = np.arange(6)
LOSS = {"loss": np.geomspace(2, 0.01, 6), "acc": np.linspace(0.1, 0.9, 6)}


def write_arrays(folder, names=("train-tm", "train-tm-prebn", "test-em"), **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        np.savez(folder / f"{name}.npz", report_epochs=EPOCHS, **LOSS, **arrays)


def write_tree(root, name="lr_0.01_wd_0.001", rates=(0.01,) * 6, norms=None, checkpoints=True):
    """An official experiment: info/<name> and checkpoints/<name>/trial_0."""
    norms = np.linspace(3, 1, 6) if norms is None else norms
    write_arrays(root / "info" / name, params_norm=norms, gnorm_m=np.ones(6))
    folder = root / "checkpoints" / name / "trial_0"
    if checkpoints:
        folder.mkdir(parents=True)
        network = models.build(Model("ConvNetSI", 1), 7)
        first, second, *_ = network.parameters()
        for epoch, rate in zip(EPOCHS, map(np.float64, rates), strict=True):
            groups = [{"params": [first], "lr": rate}, {"params": [second], "lr": 0}]
            optimizer = torch.optim.SGD(groups, weight_decay=0.001, momentum=0.9)
            state = {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({"epoch": int(epoch), **state}, folder / f"checkpoint-{epoch}.pt")
    return root / "info" / name


def test_an_official_tree_is_found(tmp_path):
    info = write_tree(tmp_path / "exp")
    for root in (tmp_path, tmp_path / "exp", info.parent):
        (run,) = runs.find_runs(root)
        assert (run.config["lr_init"], run.config["wd"]) == (0.01, 0.001)
        assert figures.label(run, [run]) == "lr_0.01_wd_0.001"
        assert list(run.metrics("test-em")["report_epochs"]) == list(EPOCHS)
        norms = run.curves["si_norm"].values
        np.testing.assert_allclose(run.curves["effective_lr"].values, 0.01 / norms**2)
    assert list(runs.find_experiments(tmp_path)) == ["exp"]
    folder = tmp_path / "exp" / "checkpoints" / info.name / "trial_0"
    for path in info.glob("*.npz"):  # metrics beside the checkpoints
        path.rename(folder / path.name)
    for parent in ("a", "info"):
        (tmp_path / "exp").rename(tmp_path / parent)
        (run,) = runs.find_runs(tmp_path)
        assert run.config["name"] == "lr_0.01_wd_0.001/trial_0" and run.config["lr_init"] == 0.01
        (tmp_path / parent).rename(tmp_path / "exp")


def test_rates_are_those_of_the_checkpoints_and_of_the_weights_that_are_trained(tmp_path):
    """They follow a schedule. Of several groups the others are frozen, whichever is first."""
    rates = np.array([0.1, 0.1, 0.1, 0.05, 0.05, 0.01])
    write_tree(tmp_path, rates=rates)
    for path in (tmp_path / "checkpoints").rglob("*.pt"):
        (run,) = runs.find_runs(tmp_path)
        np.testing.assert_array_equal(run.lr_at(EPOCHS), rates)
        content = torch.load(path, weights_only=False)
        content["optimizer"]["param_groups"].reverse()
        torch.save(content, path)


def test_adam_is_known_by_its_moments(tmp_path):
    write_tree(tmp_path)
    for path in (tmp_path / "checkpoints").rglob("*.pt"):
        content = torch.load(path, weights_only=False)
        for group in content["optimizer"]["param_groups"]:
            group["betas"] = (0.9, 0.999)
        torch.save(content, path)
    (run,) = runs.find_runs(tmp_path)
    norms = run.curves["si_norm"].values
    np.testing.assert_allclose(run.curves["effective_lr"].values, 0.01 / norms)


def test_a_held_norm_is_the_sphere(tmp_path):
    write_tree(tmp_path, norms=np.full(6, 2.0), rates=(0.0, *(4e-3,) * 5))
    found = runs.find_runs(tmp_path)
    assert figures.on_sphere(found)
    assert found[0].config["elr"] == pytest.approx(1e-3) and found[0].config["num_classes"] == 7
    figures.three_regimes(found)
    assert "0.001" in figures.table(found)


def test_a_run_without_periods_has_no_regime_since_its_steps_are_not_known(tmp_path, capsys):
    """Its arrays of Python objects (norms by parameter group) are passed over."""
    groups = np.array([{"conv": 1.0}] * 6, dtype=object)
    write_arrays(write_tree(tmp_path), ["train-tm-prebn"], params_norm=np.linspace(3, 1, 6),
                 gnorm_m=np.ones(6), gnorm_m_param_groups=groups)  # fmt: skip
    (found,) = runs.find_runs(tmp_path)
    assert found.regime.reason == "number of steps in an epoch unknown"
    figures.report([tmp_path])
    assert "periods.png" in capsys.readouterr().out


def test_without_checkpoints_or_configuration_the_curves_are_drawn_all_the_same(tmp_path, capsys):
    write_tree(tmp_path / "official", "one", checkpoints=False)
    write_tree(tmp_path / "official", "two")
    found = runs.find_runs(tmp_path / "official")
    assert [run.config["name"] for run in found] == ["two", "one"]  # the unknown rate last
    assert len(figures.figure2(found).axes[0].lines) >= 2
    figures.table(found)
    write_arrays(tmp_path / "x/lr_0.1/trial_0", params_norm=np.ones(6), gnorm_m=np.ones(6))
    figures.report([tmp_path / "x"])
    assert "overview.png" in capsys.readouterr().out
    assert not (tmp_path / "x" / "effective_step.png").exists()


def test_own_runs_with_metrics_in_official_folders_keep_their_configuration(run, tmp_path):
    place = tmp_path / "checkpoints" / "name"
    place.mkdir(parents=True)
    folder = run("--epochs 1").rename(place / "trial_0")
    measure(folder, "--use_test --eval_model", "../../../info/name/test-em.npz")
    (found,) = runs.find_runs(tmp_path)
    assert found.config["model"] == "ConvNetSI" and "acc" in found.metrics("test-em")
    assert len(found.log()["epoch"]) == 1


def test_runs_on_the_sphere_that_are_measured_in_part_are_drawn_in_part(tmp_path, capsys):
    for elr, name in ((1.0, "train-tm"), (2.0, "test-em")):
        run = tmp_path / f"elr_{elr}" / "trial_0"
        runs.write_config(run, CONFIG | {"fix_elr": True, "elr": elr})
        write_arrays(run, [name])
    figures.report([tmp_path])
    shown = capsys.readouterr().out
    assert "regime_diagram.png" in shown and "three_regimes" not in shown
    assert re.search(r"2 +not measured +10\.00 +10\.00", shown)


def test_an_older_run_with_corrupted_labels_is_drawn_and_not_measured(run, refused):
    folder = run("--corrupt_train 0.3 --epochs 1 --metrics")
    config = runs.read_config(folder)
    del config["norm_eps"]
    runs.write_config(folder, config)
    assert len(runs.find_runs(folder)) == 1
    assert "corrupted other labels" in refused(measure, folder, "")


def test_official_results_are_drawn_beside_published_values_and_own_runs(
    tmp_path, make, monkeypatch
):
    """Neither their length nor their network is known; beside own runs nothing published is."""
    report, asked, saved = sys.modules["figures.report"], [], []

    def figure2(runs, published):
        asked.append(published)
        return figures.figure2(runs, published)

    monkeypatch.setattr(report, "figure2", figure2)
    monkeypatch.setattr(report, "save", lambda figure, path: saved.append(path.name))
    write_tree(tmp_path / "figure2")
    made = make(np.ones(6), np.ones(6), {"lr_init": 0.01}, "own/line")
    figures.report([tmp_path / "figure2"])
    figures.report([tmp_path / "figure2", made.folder])
    assert asked == [True, False] and "loss_and_error" in saved[-1]
