"""The arrays of test.py against plain computations of the same quantities."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import data
import models
import runs
import test as test_script
from measuring import Meter, Wanted, parameter_names
from measuring.meter import _unit_vectors, mode
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


def batch_gradients(model, images, names, batch_size=64):
    model.train()
    parameters = [model.get_parameter(n) for n in names]
    gradients = []
    for x, y in images.batches(batch_size):
        g = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
        gradients.append(torch.cat([t.flatten() for t in g]).double())
    return torch.stack(gradients)


def test_train_mode(folder, last):
    model, (images, _) = last
    found = measure(folder, "--train_mode --eval_model --calc_grad_norms --calc_grads --all_pnorm")
    assert found["report_epochs"].tolist() == [0, 1, 2]
    model.train()
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in images.batches(64)])
    assert found["loss"][2] == pytest.approx(F.cross_entropy(logits, images.labels).item(), 1e-5)
    assert found["acc"][2] == (logits.argmax(1) == images.labels).double().mean().item()
    names = [name for name, _ in model.named_parameters()]
    gradients = batch_gradients(model, images, names)
    assert found["gnorm_m"][2] == pytest.approx(gradients.norm(dim=1).mean().item(), 1e-5)
    assert found["gm_norm"][2] == pytest.approx(gradients.mean(0).norm().item(), 1e-5)
    deviation = gradients.std(0).norm().item()
    assert found["gs_norm"][2] == pytest.approx(deviation, 1e-5)
    for name, parameter in model.named_parameters():
        assert found[f"{name}_norm"][2] == pytest.approx(parameter.norm().item(), 1e-5)
        assert found[f"{name}_numel"].tolist() == [parameter.numel()] * 3
    assert found["params_numel"][2] == sum(p.numel() for p in model.parameters())
    squares = sum(found[f"{name}_norm"][2] ** 2 for name in names)
    assert found["params_norm"][2] == pytest.approx(squares**0.5, 1e-6)


def test_si_only_alone_and_from_the_same_pass(folder, last):
    model, (images, _) = last
    arguments = "--train_mode --calc_grad_norms --calc_grads --all_pnorm --hess_trace"
    alone = measure(folder, f"{arguments} --prebn_only")
    measure(folder, f"{arguments} --prebn_save_path {folder}/si.npz")
    with np.load(folder / "si.npz") as file:
        together = dict(file)
    assert alone.keys() == together.keys()
    for name, array in alone.items():
        np.testing.assert_allclose(array, together[name], rtol=1e-5)
    names = list(models.si_parameters(model))
    assert {n.removesuffix("_norm") for n in alone if n.endswith("weight_norm")} == set(names)
    gradients = batch_gradients(model, images, names)
    assert alone["gnorm_m"][2] == pytest.approx(gradients.norm(dim=1).mean().item(), 1e-5)
    assert alone["gs_norm"][2] == pytest.approx(gradients.std(0).norm().item(), 1e-5)


def test_test_set_in_eval_mode(folder, last):
    model, (_, images) = last
    found = measure(folder, "--use_test --eval_model")
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(x) for x, _ in images.batches(64)])
    assert found["loss"][2] == pytest.approx(F.cross_entropy(logits, images.labels).item(), 1e-5)
    assert found["acc"][2] == pytest.approx((logits.argmax(1) == images.labels).double().mean())
    assert len(images) == 297


def test_subsets_make_up_the_whole(folder):
    found = measure(folder, "--train_mode --eval_model --eval_on_train_subsets")
    for name in ("loss", "acc"):
        whole = 0.7 * found[f"{name}_normal"] + 0.3 * found[f"{name}_corrupt"]
        np.testing.assert_allclose(whole, found[name], rtol=1e-9)


def test_random_subset_and_augmentation(folder):
    whole = measure(folder, "--train_mode --eval_model")
    part, again = (
        measure(folder, "--train_mode --eval_model --eval_on_random_subset 100") for _ in "ab"
    )
    augmented = measure(folder, "--train_mode --eval_model --use_aug")
    np.testing.assert_array_equal(part["loss"], again["loss"])
    assert (part["loss"] != whole["loss"]).all() and (augmented["loss"] != whole["loss"]).all()


@pytest.fixture(scope="module")
def matrices(folder):
    """Hessian and Fisher matrix of the SI weights of the first layer, built element by element."""
    model, (images, _) = load_last(folder)
    name = "conv_layers.0.weight"
    weight = model.double().get_parameter(name)
    hessian = torch.zeros(weight.numel(), weight.numel()).double()
    fisher = hessian.clone()
    with mode(model, train_mode=True):
        for x, y in images.batches(64):
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
def test_curvature_against_the_explicit_matrix(last, matrices, kind):
    model, (images, _) = last
    name, *both = matrices
    matrix = dict(zip(("hess", "fisher"), both, strict=True))[kind]
    wanted = Wanted(**{f"{kind}_trace": True, f"{kind}_evals": True})
    meter = Meter(
        model, images, wanted, train_mode=True, batch_size=64, scopes={"one": [name]}, vector_seed=5
    )
    found = meter.measure()["one"]
    vectors = _unit_vectors(len(matrix), 5, torch.device("cpu")).numpy()
    estimate = np.mean([v @ matrix @ v for v in vectors])
    assert found[f"{kind}_trace"] == pytest.approx(estimate, rel=1e-3)
    values = np.sort(np.linalg.eigvalsh(matrix))[::-1][:10]
    np.testing.assert_allclose(found[f"{kind}_evals"], values, atol=2e-3 * values[0])


@pytest.mark.parametrize("norm", ["batch", "weight"])
def test_sharpness_is_that_of_the_unit_sphere(norm):
    torch.manual_seed(0)
    model = models.build("ConvNetSI", 10, 1, depth=1, init_scale=10, norm=norm)
    images, _ = data.load("Digits", "", use_test=True, use_data_size=90)
    names = parameter_names(model, si_only=True)
    weights = [model.get_parameter(name) for name in names]

    def measured():
        meter = Meter(
            model, images, Wanted(sharpness=True), train_mode=True, batch_size=45,
            scopes={"all": parameter_names(model, si_only=False)},
        )  # fmt: skip
        return meter.measure()["all"]["sharpness"]

    first = measured()
    models.rescale_to_norm(weights, 1.0)
    model.train()
    rows = 0
    for x, y in images.batches(45):
        loss = F.cross_entropy(model(x), y) / 2
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
    assert torch.linalg.eigvalsh(rows.double())[-1].item() > 0


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


def test_measuring_leaves_the_network_alone(last):
    model, (images, _) = last
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wanted = Wanted(eval_model=True, calc_grad_norms=True, hess_trace=True)
    scopes = {"all": parameter_names(model, si_only=False)}
    Meter(model, images, wanted, train_mode=True, batch_size=64, scopes=scopes).measure()
    assert model.training
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


def test_finer_checkpoints_have_fractional_epochs(run):
    folder = run("--save_freq_int 2 --epochs 1")
    found = measure(folder, "--train_mode")
    assert found["report_epochs"].tolist() == [0, 0.5, 1]  # 4 steps; the last is checkpoint-1
    assert list(runs.checkpoints_in(folder)) == [(0, 0), (0, 2), (1, 0)]


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
