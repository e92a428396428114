"""Training on the sphere: the update, the norm, the toy function, the names of the regimes."""

import shutil

import numpy as np
import pytest
import torch
from conftest import TINY

import figures
import models
import runs
from options import Model
from runs import checkpoints
from theory import toy

SPHERE = TINY.replace("--lr_init 0.1 --wd 0.001", "--fix_elr --elr 0.01")


def states(folder):
    return {k: checkpoints.load(p)["state_dict"] for k, p in runs.checkpoints_in(folder).items()}


@pytest.mark.parametrize(
    "name, extra",
    [("ConvNetSI", ""), ("ResNet18SIAf", "--momentum 0.9 --noninvlr -1 --wd 0.01")],
)
def test_norm_is_held_over_a_whole_run(run, name, extra):
    folder = run(f"--model {name} --epochs 2 --save_freq_int 4 {extra}", base=SPHERE)
    si = models.si_parameters(models.build(Model(name, 2), 10))
    norms = np.array([models.norm(s[k] for k in si).item() for s in states(folder).values()])
    assert len(norms) == 9 and np.abs(norms / norms[0] - 1).max() < 1e-6
    rows = runs.read_log(folder)
    assert all(row["effective_lr"] == pytest.approx(0.01, rel=1e-6) for row in rows)


def test_rate_is_dropped_on_the_sphere_by_a_branch_and_by_a_schedule(run):
    folder = run("--save_freq 1 --epochs 2", base=SPHERE)
    run("--resume_epoch 2 --epochs 1", base=SPHERE.replace("--elr 0.01", "--elr 0.001"))
    branch = folder / "branch-2_elr=0.001"
    assert runs.read_log(branch)[0]["effective_lr"] == pytest.approx(0.001, rel=1e-6)
    shutil.rmtree(branch)
    base = SPHERE.replace("--no_schedule", "--d_schedule 10")
    folder = run("--epochs 8 --overwrite", base=base)
    rates = [row["effective_lr"] for row in runs.read_log(folder)]
    wanted = [1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5]
    np.testing.assert_allclose(rates, wanted, rtol=1e-5)


def test_same_last_layer():
    def last(seed, **options):
        torch.manual_seed(seed)
        return models.build(Model("ConvNetSI", 2, **options), 10).last_layer.weight

    assert not torch.equal(last(1), last(2))
    assert torch.equal(last(1, same_last_layer=True), last(2, same_last_layer=True))
    torch.manual_seed(1)
    plain = models.build(Model("ConvNetSI", 2), 10)
    torch.manual_seed(1)
    same = models.build(Model("ConvNetSI", 2, same_last_layer=True), 10)
    assert torch.equal(plain.conv_layers[0].weight, same.conv_layers[0].weight)


# --- the toy function ---

ALPHA = (1.0, 2.0, 4.0)


def test_toy_gradient():
    w = toy.random_points(5, 3)
    leaf = torch.tensor(w, requires_grad=True)
    x, y = leaf[:, 0], leaf[:, 1]
    (0.5 * (torch.tensor(ALPHA) * x**2 / (x**2 + y**2)).sum()).backward()
    np.testing.assert_allclose(toy.gradient(w, ALPHA), leaf.grad.numpy(), rtol=1e-12)
    assert np.abs((w * toy.gradient(w, ALPHA)).sum((-1, -2))).max() < 1e-14


@pytest.mark.parametrize("alpha", [(1, 2, 4), (3,), (0.5, 0.5, 5)])
def test_toy_boundary_is_the_stability_bound(alpha):
    found = toy.convergence_boundary(alpha, steps=3000, runs=4, tolerance=0.01)
    assert found == pytest.approx(toy.stability_bound(alpha), rel=0.03)


def test_toy_points_are_uniform_on_the_sphere_and_runs_begin_apart():
    points = toy.random_points(2000, 3)
    assert np.linalg.norm(points, axis=(1, 2)) == pytest.approx(np.ones(2000))
    assert np.abs(points.mean(0)).max() < 0.05
    assert (points**2).mean(0) == pytest.approx(np.full((2, 3), 1 / 6), rel=0.1)
    assert toy.loss(points, ALPHA).mean() == pytest.approx(toy.random_level(ALPHA), rel=0.05)
    assert len({*toy.descend(0.1, 0, ALPHA, runs=4)[:, 0]}) == 4


def test_toy_boundary_is_where_most_runs_converge(monkeypatch):
    def descend(elr, steps, alpha, runs, seed):
        last = [elr > bound for bound in (0.2, 0.3, 0.4, 0.5)]
        return np.array([[1.0, end] for end in last])

    monkeypatch.setattr(toy, "descend", descend)
    assert toy.convergence_boundary() == pytest.approx(0.3, rel=2e-3)


def test_toy_refuses_what_it_cannot_mean():
    for elr, alpha in ((0, (1, 2)), (-1, (1,)), (0.1, (1, -2))):
        with pytest.raises(ValueError, match="positive"):
            toy.descend(elr, 1, alpha)


def test_figures_and_table_of_small_runs(run, tmp_path, capsys):
    for trial, elr in enumerate((0.001, 30.0)):
        run(f"--trial {trial} --metrics --save_freq 1 --epochs 6 --elr {elr}", base=SPHERE)
    figures.report([tmp_path / "run"])
    out = capsys.readouterr().out
    assert "6 records (needs 20)" in out
    for name in ("three_regimes.png", "regime_diagram.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")
    figures.plt.close(figures.diagram_of_toy([0.1, 1, 100]))
