"""The arrays of test.py against plain computations of the same quantities."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from conftest import ROOT
from torch.nn import functional as F

import data
import models
import options
import runs
import test as test_script
from measuring import Meter, Wanted, minima, parameter_names
from measuring.meter import _unit_vectors, mode
from measuring.rebuild import rebuild
from runs import checkpoints
from utils import UserError


def measure(folder, arguments):
    path = folder / "out.npz"
    test_script.main(f"--models_dir {folder} --save_path {path} --gpu -1 {arguments}".split())
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from conftest import TINY

    import train

    directory = tmp_path_factory.mktemp("measured")
    train.main(f"{TINY} --dir {directory} --corrupt_train 0.3 --epochs 2".split())
    return runs.trial_folder(directory, 0)


@pytest.fixture
def last(folder):
    return load_last(folder)


def load_last(folder):
    """The last network and the images it was trained and tested on."""
    model = models.build("ConvNetSI", 10, 2)
    path = folder / "checkpoint-2.pt"
    checkpoints.load_weights(model, checkpoints.load(path), path)
    return model, data.load("Digits", "", use_test=True, use_data_size=200, corrupt_train=0.3)


def test_si_only_alone_and_from_the_same_pass(folder, last):
    model, _ = last
    arguments = (
        "--train_mode --calc_grad_norms --calc_grads --all_pnorm --hess_trace "
        "--eval_on_random_subset 40 --batch_size 25"
    )
    alone = measure(folder, f"{arguments} --prebn_only")
    everything = measure(folder, f"{arguments} --prebn_save_path {folder}/si.npz")
    with np.load(folder / "si.npz") as file:
        together = dict(file)
    assert alone.keys() == together.keys()
    for name, array in alone.items():
        np.testing.assert_allclose(array, together[name], rtol=1e-5)
    names = list(models.si_parameters(model))
    assert {n.removesuffix("_norm") for n in alone if n.endswith("weight_norm")} == set(names)
    for name in ("gnorm_m", "gm_norm", "gs_norm", "hess_trace", "params_norm"):
        assert (alone[name] != everything[name]).all()


def test_one_file_is_not_two(folder):
    for name in ("twice", "twice.npz", f"../{folder.name}/twice"):
        with pytest.raises(SystemExit) as stop:
            test_script.main(
                f"--models_dir {folder} --save_path {folder}/twice.npz --eval_model "
                f"--prebn_save_path {folder}/{name}".split()
            )
        assert stop.value.code == 2 and not (folder / "twice.npz").exists()


def load_few(folder):
    """The last network and a few of its images: every product is a pass over them."""
    model, (images, _) = load_last(folder)
    return model, images.subset(slice(0, 60))


@pytest.fixture(scope="module")
def matrices(folder):
    """Hessian and Fisher matrix of the SI weights of the first layer, built element by element."""
    model, images = load_few(folder)
    name = "conv_layers.0.weight"
    weight = model.double().get_parameter(name)
    hessian = torch.zeros(weight.numel(), weight.numel()).double()
    fisher = hessian.clone()
    with mode(model, train_mode=True):
        for x, y in images.batches(25):  # of 25, 25 and 10
            x = x.double()

            def logits_of(w, x=x):
                return torch.func.functional_call(model, {name: w}, (x,))

            def loss_of(w, y=y):
                return F.cross_entropy(logits_of(w), y)

            h = torch.autograd.functional.hessian(loss_of, weight.detach())
            hessian += h.reshape(hessian.shape) * len(y) / len(images)
            w, step = weight.detach(), 1e-6
            units = torch.eye(w.numel()).double().view(-1, *w.shape) * step
            columns = [(logits_of(w + u) - logits_of(w - u)).detach() / (2 * step) for u in units]
            jacobian = torch.stack(columns, 2)
            p = logits_of(weight).softmax(1).detach()
            inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
            fisher += torch.einsum("nia,nij,njb->ab", jacobian, inner, jacobian).detach() / len(
                images
            )
    return name, hessian.numpy(), fisher.numpy()


@pytest.mark.parametrize("kind", ["hess", "fisher"])
def test_curvature_against_the_explicit_matrix(folder, matrices, kind):
    model, images = load_few(folder)
    name, *both = matrices
    matrix = dict(zip(("hess", "fisher"), both, strict=True))[kind]
    wanted = Wanted(**{f"{kind}_trace": True, f"{kind}_evals": True})
    meter = Meter(
        model, images, wanted, train_mode=True, batch_size=25, scopes={"one": [name]}, vector_seed=5
    )
    found = meter.measure()["one"]
    vectors = _unit_vectors(len(matrix), 5, torch.device("cpu")).numpy()
    estimate = np.mean([v @ matrix @ v for v in vectors])
    assert found[f"{kind}_trace"] == pytest.approx(estimate, rel=1e-3)
    values = np.sort(np.linalg.eigvalsh(matrix))[::-1][:10]
    np.testing.assert_allclose(found[f"{kind}_evals"], values, atol=2e-3 * values[0])


def test_sharpness_is_that_of_the_unit_sphere():
    torch.manual_seed(0)
    model = models.build("ConvNetSI", 10, 1, depth=1, init_scale=10, norm="weight")
    images, _ = data.load("Digits", "", use_test=True, use_data_size=50)
    names = parameter_names(model, si_only=True)
    weights = [model.get_parameter(name) for name in names]

    def measured():
        meter = Meter(
            model, images, Wanted(sharpness=True), train_mode=True, batch_size=30,
            scopes={"all": parameter_names(model, si_only=False)},
        )  # fmt: skip
        return meter.measure()["all"]["sharpness"]

    first = measured()
    models.rescale_to_norm(weights, 1.0)
    model.train()
    rows = 0
    for x, y in images.batches(30):  # of 30 and of 20
        loss = F.cross_entropy(model(x), y) * len(y) / 50
        gradient = torch.autograd.grad(loss, weights, create_graph=True)
        rows = rows + torch.stack([
            torch.cat([h.flatten() for h in torch.autograd.grad(g, weights, retain_graph=True)])
            for g in torch.cat([g.flatten() for g in gradient])
        ])  # fmt: skip
    u = torch.cat([w.flatten() for w in weights]).detach()
    project = torch.eye(len(u)) - torch.outer(u, u)
    expected = torch.linalg.eigvalsh((project @ rows @ project).double())[-1].item()
    assert first == pytest.approx(expected, rel=5e-3)
    assert measured() == pytest.approx(expected, rel=5e-3)


def test_random_vectors_are_those_of_the_seed(folder, last):
    found = measure(folder, "--hess_trace --prebn_only --train_mode --seed 7 --batch_size 200")
    model, (images, _) = last
    names = parameter_names(model, si_only=True)
    meter = Meter(
        model, images, Wanted(hess_trace=True), train_mode=True, batch_size=200,
        scopes={"si": names}, vector_seed=reference.seed_of(7),
    )  # fmt: skip
    assert found["hess_trace"][2] == pytest.approx(meter.measure()["si"]["hess_trace"])


def test_trace_estimate_is_the_trace_by_dimension(matrices):
    _, hessian, _ = matrices
    vectors = _unit_vectors(len(hessian), 0, torch.device("cpu")).numpy()
    many = np.concatenate(
        [_unit_vectors(len(hessian), s, torch.device("cpu")).numpy() for s in range(400)]
    )
    assert len(vectors) == 5
    mean = np.einsum("vi,ij,vj->v", many, hessian, many).mean()
    spread = np.abs(np.linalg.eigvalsh(hessian)).max()
    assert abs(mean - np.trace(hessian) / len(hessian)) < 0.02 * spread


@pytest.mark.parametrize("training, train_mode", [(True, True), (True, False), (False, True)])
def test_measuring_leaves_the_network_alone(last, training, train_mode):
    model, (images, _) = last
    model.train(training)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wanted = Wanted(eval_model=True, calc_grad_norms=True, hess_trace=True)
    scopes = {"all": parameter_names(model, si_only=False)}
    Meter(model, images, wanted, train_mode=train_mode, batch_size=64, scopes=scopes).measure()
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_update_adds_arrays_and_epochs_and_computes_only_what_is_missing(folder, monkeypatch):
    first = measure(folder, "--train_mode --eval_model")
    calls = []
    real = Meter.measure
    monkeypatch.setattr(Meter, "measure", lambda self: calls.append(1) or real(self))
    second = measure(folder, "--train_mode --eval_model --update")
    assert not calls
    third = measure(folder, "--train_mode --calc_grad_norms --update")
    assert len(calls) == 3
    assert third.keys() == {*first, "gnorm_m"}
    np.testing.assert_array_equal(first["loss"], second["loss"])
    np.testing.assert_array_equal(first["loss"], third["loss"])


def meter_of(folder, flags, **how):
    """A meter of the first layer, on 60 images that are partly corrupted."""
    model, images = load_few(folder)
    scopes = {"one": ["conv_layers.0.weight"]}
    how = {"train_mode": True, "batch_size": 25, "scopes": scopes, **how}
    if "init" in flags:
        how["initial"] = {n: p.detach() + 1 for n, p in model.named_parameters()}
    return Meter(model, images, Wanted.from_flags(flags.split()), **how)


@pytest.mark.parametrize("flags", [
    *[f.name for f in fields(Wanted)], "hess_trace fisher_trace eval_on_train_subsets",
])  # fmt: skip
def test_a_second_measurement_is_the_first_and_has_the_arrays_that_are_looked_for(folder, flags):
    meter = meter_of(folder, flags)
    first, second = (meter.measure()["one"] for _ in range(2))
    np.testing.assert_equal(first, second)
    names = Wanted.from_flags(flags.split()).names(["conv_layers.0.weight"])
    assert sorted(names) == sorted(first)
    assert len(names) > 2


def test_traces_of_the_subsets_are_looked_for():
    wanted = Wanted(hess_trace=True, eval_on_train_subsets=True, eval_model=True)
    assert wanted.lacking(lambda names: "hess_trace_corrupt" in names, []) == {
        "hess_trace", "eval_on_train_subsets",
    }  # fmt: skip
    assert wanted.lacking(lambda names: "acc" in names, []) == {"eval_model"}
    assert wanted.lacking(lambda names: False, []) == set()


@pytest.mark.parametrize("flag, name", [
    ("calc_batch_outliers", "outliers_list"), ("calc_grad_norms_all", "gnorm_all"),
    ("calc_probs_stats", "p_stats"),
])  # fmt: skip
def test_what_is_of_a_batch_is_of_the_batches_asked_for_in_evaluation_mode_too(folder, flag, name):
    found = meter_of(folder, flag, train_mode=False).measure()["one"][name]
    assert 3 in found.shape[:2]  # of 25, 25 and 10 images


def test_a_run_is_rebuilt_as_it_was(run):
    words = {"use_data_size": 150, "corrupt_train": 0.3, "split_classes": 1}
    line = " ".join(f"--{key} {value}" for key, value in words.items())
    model, images, others = rebuild(runs.read_config(run(f"{line} --norm_eps 0.1 --epochs 1")))
    for found, expected in zip((images, others), data.load("Digits", "", use_test=True, **words),
                               strict=True):  # fmt: skip
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels) and found.num_classes == 5
    assert model.conv_layers[1].eps == 0.1 and model.last_layer.out_features == 5


def test_distances_are_from_checkpoint_0_of_the_run_that_a_branch_comes_from(folder, last):
    found = measure(folder, "--calc_l2_init")
    assert found["l2_init"][0] == 0 < found["l2_init"][2]
    first = torch.load(folder / "checkpoint-0.pt")["state_dict"]
    for where in (folder, folder / "branch-1", folder / "branch-1" / "branch-2_wd=0.5"):
        weights = test_script.initial_weights(last[0], where)
        assert all(torch.equal(first[name], weight) for name, weight in weights.items())


def test_what_is_measured_is_written_on_the_way(folder, tmp_path, monkeypatch):
    path, seen, real = tmp_path / "x.npz", [], Meter.measure

    def noted(self):
        seen.append(list(runs.Metrics.read_if_there(path).rows))
        return real(self)

    monkeypatch.setattr(Meter, "measure", noted)
    monkeypatch.setattr(test_script, "WRITE_EVERY", -1)
    monkeypatch.setattr(test_script, "WRITING_SHARE", 0)
    test_script.main(f"--models_dir {folder} --save_path {path} --gpu -1".split())
    assert seen == [[], [0], [0, 1]]


@pytest.mark.parametrize("words, name", [
    ("", "train-em"), ("--train_mode", "train-tm"), ("--use_test", "test-em"),
    ("--use_test --train_mode --prebn_only", "test-tm-prebn"), ("--prebn_only", "train-em-prebn"),
])  # fmt: skip
def test_files_are_named_after_what_they_hold(words, name):
    asked, _ = options.test_options(["--models_dir", "x", *words.split()])
    assert test_script.save_path(asked, Path("x")) == Path("x") / f"{name}.npz"


def test_a_random_subset_is_of_five_thousand_images_unless_told_otherwise(monkeypatch):
    many = data._image_set(np.zeros((6000, 1, 1, 3), np.uint8), np.zeros(6000), 10)
    monkeypatch.setattr(data, "load", lambda *_, **__: (many, many))
    for words, count in (("", 6000), ("--eval_on_random_subset", 5000),
                         ("--eval_on_random_subset 7", 7)):  # fmt: skip
        asked, _ = options.test_options(["--models_dir", "x", *words.split()])
        assert len(test_script.image_set(asked, True)) == count


def test_finer_checkpoints_have_fractional_epochs(run):
    folder = run("--save_freq_int 2 --epochs 1")
    found = measure(folder, "--train_mode")
    assert found["report_epochs"].tolist() == [0, 0.5, 1]  # 4 steps; the last is checkpoint-1
    assert list(runs.checkpoints_in(folder)) == [(0, 0), (0, 1), (1, 0)]
    found = measure(folder, "--train_mode --epochs 0")
    assert found["report_epochs"].tolist() == [0, 0.5, 1]  # it adds
    (folder / "out.npz").unlink()
    assert measure(folder, "--train_mode --epochs 0")["report_epochs"].tolist() == [0]


@pytest.mark.parametrize("arguments, message", [
    ("--models_dir {f}/nothing", "no checkpoint"),
    ("--models_dir {f} --model ResNet18SI", "another network"),
    ("--models_dir {f} --num_channels 3", "another network"),
    ("--models_dir {f} --eval_on_random_subset 900", "900 is more than"),
])  # fmt: skip
def test_mistakes_are_one_line(folder, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        test_script.main(arguments.format(f=folder).split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_damaged_metrics_file_is_named(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"bad\.npz"):
        runs.Metrics.read(tmp_path / "bad.npz")


def test_only_what_is_missing_is_measured(folder, monkeypatch):
    measure(folder, "--train_mode --eval_model")
    asked, real = [], Meter.measure

    def noted(self):
        asked.append(self.wanted)
        return real(self)

    monkeypatch.setattr(Meter, "measure", noted)
    measure(folder, "--train_mode --eval_model --calc_grad_norms --all_pnorm --update")
    assert asked == [Wanted(calc_grad_norms=True, all_pnorm=True)] * 3
    asked.clear()
    measure(folder, "--train_mode --eval_model --update --prebn_only")
    assert not asked
    measure(folder, "--train_mode --eval_model")  # without --update all of it
    assert asked == [Wanted(eval_model=True)] * 3


def test_the_random_subset_and_the_random_crops_are_those_of_the_seed(folder):
    state = torch.load(folder / "checkpoint-2.pt", weights_only=True)["state_dict"]
    images, _ = data.load("Digits", "", use_test=True, use_data_size=200, corrupt_train=0.3)
    plain = [(255 * 0.3222 * x + 255 * 0.3051, y) for x, y in images.batches(200)]
    ((pixels, labels),) = plain
    for seed in (1, 7):
        generator = torch.Generator().manual_seed(reference.seed_of(seed))
        index = torch.randperm(200, generator=generator)[:50]
        expected = losses(state, pixels[index], labels[index])
        found = measure(
            folder, f"--train_mode --eval_model --eval_on_random_subset 50 --seed {seed}"
        )
        assert found["loss"][2] == pytest.approx(expected, rel=1e-4)
        generator = torch.Generator().manual_seed(reference.seed_of(seed))
        top, left = torch.randint(9, (2, 200), generator=generator)
        flip = torch.randint(2, (200,), generator=generator)
        expected = losses(state, reference.augmented(pixels, top, left, flip), labels)
        found = measure(folder, f"--train_mode --eval_model --use_aug --seed {seed}")
        assert found["loss"][2] == pytest.approx(expected, rel=1e-4)


def losses(state, pixels, labels):
    """Mean loss in batches of 64 with their own statistics."""
    total = 0
    for x, y in zip(pixels.split(64), labels.split(64), strict=True):
        logits = reference.Network(dict(state), True)((x / 255 - 0.3051) / 0.3222)
        total += F.cross_entropy(logits, y, reduction="sum").item()
    return total / len(labels)


def test_committed_minima_are_what_their_numbers_say(capsys, tmp_path):
    minima.main([])
    assert "agrees with results/minima/minima.json" in capsys.readouterr().out
    written = json.loads((ROOT / "results" / "minima" / "minima.json").read_text())
    name, numbers = next(iter(written.items()))
    minima.check({name: {**numbers, "loss": 1.01 * numbers["loss"]}}, {name: numbers})
    with pytest.raises(UserError, match="loss is nan"):
        minima.check({}, {name: numbers})
    with pytest.raises(UserError, match="loss"):
        minima.check({name: {**numbers, "loss": 1.05 * numbers["loss"]}}, {name: numbers})
    with pytest.raises(UserError, match="no checkpoint"):
        minima.main(["--folder", str(tmp_path)])
