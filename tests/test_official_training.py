"""What the official code can do in training: labels, classes, saves, conventions of its files."""

import numpy as np
import pytest
import torch
from conftest import TINY

import data
import models
import options
import runs
import test as test_script
from models.layers import NORM_EPS
from runs import checkpoints
from training.table import Table


def states(folder):
    return {k: checkpoints.load(p)["state_dict"] for k, p in runs.checkpoints_in(folder).items()}


@pytest.mark.parametrize("loaded, count", [
    ({"use_test": True}, 1500), ({}, 1350), ({"use_test": True, "use_data_size": 90}, 90),
])  # fmt: skip
def test_corrupted_labels_are_the_official_ones(loaded, count):
    """Drawn after truncation and hold-out: a mask first, then its labels alone."""
    plain, corrupted = (data.load("Digits", "", corrupt_train=p, **loaded)[0] for p in (None, 0.3))
    random = np.random.RandomState(228)
    mask = random.rand(count) <= 0.3
    labels = plain.labels.numpy().copy()
    labels[mask] = random.choice(10, mask.sum())
    np.testing.assert_array_equal(corrupted.labels, labels)
    np.testing.assert_array_equal(corrupted.corrupted, mask)


@pytest.mark.parametrize("half, classes", [(0, [0, 1, 2, 8, 9]), (1, [3, 4, 5, 6, 7])])
def test_half_of_the_classes(half, classes):
    whole = data.load("Digits", "", use_test=True)
    halves = data.load("Digits", "", use_test=True, split_classes=half)
    for images, part in zip(whole, halves, strict=True):
        kept = [i for i, label in enumerate(images.labels.tolist()) if label in classes]
        assert torch.equal(part.images, images.images[kept]) and part.num_classes == 5
        assert [classes[label] for label in part.labels] == images.labels[kept].tolist()


def test_labels_of_half_of_the_classes_are_corrupted_among_them():
    (plain, _), (corrupted, _) = (
        data.load("Digits", "", use_test=True, split_classes=0, corrupt_train=p)
        for p in (None, 1.0)
    )
    assert torch.equal(plain.images, corrupted.images) and corrupted.corrupted.all()
    assert set(corrupted.labels.tolist()) == {0, 1, 2, 3, 4}


def test_half_of_the_classes_is_trained_and_measured(run):
    folder = run("--split_classes 1 --corrupt_train 0.5 --epochs 1 --metrics")
    assert states(folder)[1, 0]["linear_layers.2.bias"].shape == (5,)
    test_script.main(f"--models_dir {folder} --use_test --eval_model --gpu -1".split())


def test_svhn_comes_through_torchvision(tmp_path, monkeypatch):
    from torchvision import datasets

    pixels = np.random.RandomState(0).randint(256, size=(9, 3, 32, 32)).astype(np.uint8)

    class Fake:
        def __init__(self, root, split, download):
            assert download and root == str(tmp_path / "svhn")
            self.data = pixels[:6] if split == "train" else pixels[6:]
            self.labels = np.arange(len(self.data))

    Fake.split_list = datasets.SVHN.split_list
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn" / "train_32x32.mat").touch()
    monkeypatch.setattr(datasets, "SVHN", Fake)
    train_images, test_images = data.load("SVHN", tmp_path, use_test=True)
    assert (len(train_images), len(test_images), train_images.num_classes) == (6, 3, 10)
    assert train_images.images[2, 5, 7].tolist() == pixels[2, :, 5, 7].tolist()
    assert torch.allclose(train_images.mean, torch.tensor([0.4914, 0.4822, 0.4465]))


def test_so_many_saves_an_epoch(run):
    """Of 4 steps an epoch, after steps 1 and 2 of 3 parts; reported at thirds."""
    folder = run("--save_freq_int 3 --epochs 2 --save_freq 1 --metrics")
    found = runs.checkpoints_in(folder)
    assert list(found) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    times = [checkpoints.load(path)["epoch"] for path in found.values()]
    assert times == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    reported = runs.Metrics.read(folder / "train-tm.npz").rows
    assert list(reported) == pytest.approx(times)
    thirds = states(folder)
    steps = states(run("--save_freq_int 4 --epochs 1 --overwrite"))
    for key in ((0, 1), (0, 2)):
        assert torch.equal(*(part[key]["conv_layers.0.weight"] for part in (thirds, steps)))


def test_accuracies_of_a_checkpoint_are_in_per_cent(run):
    folder = run("--eval_freq 1")
    for row in runs.read_log(folder):
        content = checkpoints.load(folder / f"checkpoint-{row['epoch']:g}.pt")
        for kind in ("train", "test"):
            assert content[f"{kind}_res"]["accuracy"] == pytest.approx(100 * row[f"{kind}_acc"])
            assert content[f"{kind}_res"]["loss"] == row[f"{kind}_loss"]


@pytest.mark.parametrize("terminal, rows", [(False, 3), (True, 1)])
def test_a_log_has_a_row_every_epoch(run, capsys, monkeypatch, terminal, rows):
    monkeypatch.setattr(Table, "watched", staticmethod(lambda: terminal))
    run("--eval_freq 3")
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert len(shown) == rows


@pytest.mark.parametrize("name", ["ConvNetSI", "ResNet18SIAf"])
def test_every_filter_is_held_at_one_norm(run, name):
    base = TINY.replace("--lr_init 0.1 --wd 0.001", "--fix_all_elr --elr 0.01")
    folder = run(f"--model {name} --epochs 1 --save_freq_int 4", base=base)
    si = models.si_parameters(models.build(name, 10, 2))
    for state in states(folder).values():
        norms = torch.cat([state[key].flatten(1).norm(dim=1) for key in si])
        assert torch.allclose(norms, norms.mean().expand_as(norms), rtol=1e-5)
    total = norms.square().sum().item()
    assert runs.read_log(folder)[0]["lr"] == pytest.approx(0.01 * total, rel=1e-5)


def test_squared_loss_is_measured_as_it_is_trained(run, tmp_path):
    folder = run("--use_squared_loss --metrics --epochs 1 --batch_size 200 --lr_init 0.01")
    images, _ = data.load("Digits", "", use_test=True, use_data_size=200)
    model = models.build("ConvNetSI", 10, 2).train()
    test_script.main(f"--models_dir {folder} --train_mode --eval_model --gpu -1 --save_path "
                     f"{tmp_path}/x.npz".split())  # fmt: skip
    found = np.load(tmp_path / "x.npz")["loss"]
    np.testing.assert_array_equal(found, np.load(folder / "train-tm.npz")["loss"])
    for epoch in (0, 1):
        path = folder / f"checkpoint-{epoch}.pt"
        checkpoints.load_weights(model, checkpoints.load(path), path)
        with torch.no_grad():
            outputs = model(images.normalise(images.images))
        target = torch.nn.functional.one_hot(images.labels, 10)
        assert found[epoch] == pytest.approx((outputs - target).square().mean().item(), rel=1e-4)
    assert runs.read_log(folder)[0]["train_loss"] == pytest.approx(found[0], rel=1e-4)


# --- the epsilon of the normalisation ---


def test_own_runs_are_scale_invariant_by_default(run):
    assert options.NORM_EPS == NORM_EPS == 1e-12
    folder = run("--epochs 1")
    assert runs.read_config(folder)["norm_eps"] == 1e-12
    assert runs.read_config(run("--epochs 1 --norm_eps 1e-3 --overwrite"))["norm_eps"] == 1e-3


def loss_of(model, images):
    model.train()
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(model(images.normalise(images.images)),
                                                 images.labels).item()  # fmt: skip


def test_checkpoints_without_a_configuration_have_the_official_epsilon(run, tmp_path):
    """In measuring, and in a branch off them; a branch of an own run has its run's."""
    folder = run("--epochs 1 --norm_eps 0.5 --batch_size 200 --save_freq 1")
    run("--resume_epoch 1 --epochs 1")
    assert runs.read_config(folder / "branch-1_batch_size=64")["norm_eps"] == 0.5
    images, _ = data.load("Digits", "", use_test=True, use_data_size=200)
    content = checkpoints.load(folder / "checkpoint-1.pt")
    # Small weights, so that the loss depends on the epsilon.
    for key in models.si_parameters(models.build("ConvNetSI", 10, 2)):
        content["state_dict"][key] *= 1e-3
    checkpoints.save(folder / "checkpoint-1.pt", content)
    line = (
        f"--models_dir {folder} --save_path {tmp_path}/x.npz --train_mode --eval_model --gpu -1 "
        "--dataset Digits --num_channels 2 --batch_size 200 --use_data_size 200"
    )
    for config, extra, eps in ((True, "", 0.5), (False, "", 1e-5), (False, "--norm_eps 0.1", 0.1)):
        if not config:
            (folder / "config.json").unlink(missing_ok=True)
        test_script.main([*line.split(), *extra.split()])
        model = models.build("ConvNetSI", 10, 2, norm_eps=eps)
        checkpoints.load_weights(model, content, "")
        with np.load(tmp_path / "x.npz") as found:
            assert found["loss"][-1] == pytest.approx(loss_of(model, images), rel=1e-4)
    run("--resume_epoch 1 --epochs 1")
    assert runs.read_config(folder / "branch-1")["norm_eps"] == 1e-5


def test_a_run_with_labels_of_an_older_version_is_named(run):
    folder = run("--epochs 1 --corrupt_train 0.5")
    config = runs.read_config(folder)
    del config["norm_eps"]
    runs.write_config(folder, config)
    with pytest.raises(runs.config.UserError, match="other labels"):
        runs.read_config(folder)
