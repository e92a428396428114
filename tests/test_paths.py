"""Paths between checkpoints, where loss, barrier and angle are known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from conftest import TINY, load_images, state_of

import runs
import train
from measuring import diversity, paths
from runs import checkpoints
from utils import UserError

QUANTITIES = ("train_loss", "train_error", "test_loss", "test_error")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and its last checkpoint (3) once more: rescaled (10) and permuted (11)."""
    directory = tmp_path_factory.mktemp("paths")
    train.main(f"{TINY} --dir {directory} --save_freq 1 --metrics".split())
    folder = runs.trial_folder(directory, 0)
    content = checkpoints.load(runs.checkpoint_path(folder, 3))
    weights = content["state_dict"]
    si = reference.invariant(weights)
    permuted = {si[0]: weights[si[0]].flip(0), si[1]: weights[si[1]].flip(1)}
    for epoch, changed in ((10, {name: 4 * weights[name] for name in si}), (11, permuted)):
        changed = {**content, "epoch": epoch, "state_dict": {**weights, **changed}}
        checkpoints.save(runs.checkpoint_path(folder, epoch), changed)
    return folder


def connect(folder, *epochs):
    return paths.connect([runs.checkpoint_path(folder, e) for e in epochs], points=5)


def test_nothing_changes_on_the_way_to_the_same_or_a_rescaled_checkpoint(folder):
    same, rescaled = connect(folder, 3, 3), connect(folder, 3, 10)
    assert same["angle"] == 0 and rescaled["angle"] == pytest.approx(0, abs=1e-7)
    for name in QUANTITIES:
        np.testing.assert_allclose(same[name], same[name][:, :1].repeat(5, 1), rtol=1e-12)
        assert abs(same[f"{name}_barrier"]) < 1e-12
    np.testing.assert_allclose(rescaled["train_loss"], rescaled["train_loss"][0, 0], rtol=1e-5)
    assert rescaled["train_loss_barrier"] == pytest.approx(0, abs=1e-6)
    assert rescaled["test_error_barrier"] == pytest.approx(0, abs=1 / 297)


def test_a_permuted_network_is_the_same_function_behind_a_barrier(folder):
    found = connect(folder, 3, 11)
    for name in QUANTITIES:
        assert found[name][0, 0] == pytest.approx(found[name][0, -1], rel=1e-4)
    assert found["train_loss_barrier"] > 0.05 and found["angle"] > 0.3


def test_ends_are_what_the_other_measurements_give(folder, monkeypatch):
    """The test set is measured with the mean statistics of the training batches."""
    train_images, test_images = load_images("Digits", use_test=True, use_data_size=200)
    ((x, y),) = test_images.batches(297)
    monkeypatch.setattr(runs.Run, "regime", SimpleNamespace(name="divergence"))
    found = connect(folder, 1, 3)
    metrics = runs.Metrics.read(folder / "train-tm.npz").rows
    for end, epoch in ((0, 1), (-1, 3)):
        assert found["train_loss"][0, end] == pytest.approx(metrics[epoch]["loss"], rel=1e-6)
        assert found["train_error"][0, end] == pytest.approx(1 - metrics[epoch]["acc"])
        batches = [x for x, _ in train_images.batches(64)]
        outputs = reference.Network(reference.renewed(state_of(folder, epoch), batches), False)(x)
        error = (outputs.argmax(1) != y).double().mean().item()
        assert found["test_error"][0, end] == pytest.approx(error)
        loss = reference.losses_of(outputs, y).mean().item()
        assert found["test_loss"][0, end] == pytest.approx(loss, rel=1e-5)
    inner = found["train_loss"][0] - np.linspace(*found["train_loss"][0, [0, -1]], 5)
    assert found["train_loss_barrier"] == pytest.approx(max(inner))
    run = runs.read_run(folder)
    run = replace(run, config={**run.config, "fix_elr": True, "elr": 0.25})
    monkeypatch.setattr(runs, "read_run", lambda folder: run)
    for ends, elr, regime in ((found, np.nan, ""), (connect(folder, 1, 3), 0.25, "divergence")):
        expected = {"epoch": [1, 3], "lr": [0.1] * 2, "elr": [elr] * 2, "trial": [0, 0]}
        for name, values in expected.items():
            np.testing.assert_array_equal(ends[name], values)
        assert ends["regime"].tolist() == [regime] * 2


def test_command(folder, tmp_path, capsys):
    names = [str(runs.checkpoint_path(folder, epoch)) for epoch in (1, 2, 3)]
    path = tmp_path / "some.npz"
    paths.main([*names, "--points", "3", "--save_path", str(path)])
    with np.load(path) as file:
        assert file["pair"].tolist() == [[0, 1], [0, 2], [1, 2]]
        assert file["checkpoint"].tolist() == names and file["test_loss"].shape == (3, 3)
        degrees = f"{math.degrees(file['angle'][0]):.1f}°"
    assert degrees in capsys.readouterr().out
    with pytest.raises(UserError, match="two ends"):
        paths.main(names[:1])


def test_runs_with_other_images_are_refused(folder, tmp_path):
    network = {"model": "ResNet18SI", "num_channels": 9, "depth": 4, "norm": "layer",
               "norm_eps": 1e-5, "use_squared_loss": True, "batch_size": 9}  # fmt: skip
    images = {"dataset": "SVHN", "use_data_size": 9, "use_test": False, "use_test_size": 9,
              "corrupt_train": 0.5, "split_classes": 1}  # fmt: skip
    for key, value in (network | images).items():
        runs.write_config(tmp_path / key, {**runs.read_config(folder), key: value})
        with pytest.raises(UserError, match=f"differ in {key}$"):
            paths.connect([runs.checkpoint_path(folder, 1), tmp_path / key / "checkpoint-1.pt"])
        with pytest.raises(UserError, match=f"differ in {key}$"):
            diversity.compare(folder, 1, tmp_path / key)
    with pytest.raises(UserError, match="has no config"):
        paths.connect([tmp_path / "checkpoint-1.pt"])
