"""Checkpoints and measuring lines of the official code: arrays against plain computations."""

import numpy as np
import pytest
import torch
from torch import nn

import data
import models
import options
import test as test_script
from experiments import Experiment
from experiments.lines import lines_of
from measuring import Meter, Wanted

# A line of the official get_info.py, on other data.
LINE = (
    "--dataset Digits --data_path ~/datasets/ --use_data_size 200 --batch_size 64 --num_channels 2 "
    "--depth 3 --init_scale 10. --noninvlr 0.0 --num_workers 4 --seed 1 --gpu -1"
)
TRACES = "--hess_trace --fisher_trace"
ALL = (
    "--eval_model --all_pnorm --calc_grad_norms_small_memory --calc_grad_norms_all "
    "--calc_grad_norms_param_groups --calc_batch_outliers --calc_probs_stats --calc_grads "
    f"--calc_cos_init --calc_l2_init --eval_on_train_subsets {TRACES}"
)
CORRUPT = 0.3


def official_convnet(affine: bool) -> nn.Module:
    """ConvNet of width 2 and depth 3 with the official names and PyTorch's own batch norm."""
    layers = []
    for inputs, outputs in ((3, 2), (2, 4), (4, 8), (8, 16)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                   nn.BatchNorm2d(outputs, affine=affine), nn.ReLU()]  # fmt: skip
        layers += [nn.MaxPool2d(2)] if inputs != 3 else []
    network = nn.Module()
    network.conv_layers = nn.Sequential(*layers)
    network.linear_layers = nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16, 10))
    network.forward = lambda x: network.linear_layers(network.conv_layers(x))
    return network


def write_official(path, network, prefix=""):
    """A checkpoint as the official code writes it: NumPy scalars, accuracy in per cent."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    optimizer.param_groups[0]["lr"] = np.float64(0.01)
    results = {"loss": np.float64(2.3), "accuracy": 11.0}
    state = {prefix + key: value for key, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"epoch": 1, "state_dict": state, "optimizer": optimizer.state_dict()}
    torch.save({**content, "train_res": results, "test_res": results}, path)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A folder with two official checkpoints, and the two networks; the norm is small."""
    folder = tmp_path_factory.mktemp("official") / "checkpoints" / "run" / "trial_0"
    networks = []
    for epoch in (0, 1):
        torch.manual_seed(epoch)
        network = official_convnet(affine=False)
        with torch.no_grad():
            for name, weight in network.named_parameters():
                weight.mul_(0.05 if "conv" in name else 3)
        write_official(folder / f"checkpoint-{epoch}.pt", network)
        networks.append(network)
    return folder, networks


def measure(folder, arguments, out):
    test_script.main(f"--models_dir {folder} --save_path {out} {LINE} {arguments}".split())
    with np.load(f"{out}.npz" if out.suffix != ".npz" else out) as file:
        return dict(file)


def losses_of(logits, labels, squared):
    if not squared:
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    target = nn.functional.one_hot(labels, 10)
    return ((logits - target) ** 2).mean(1)


@pytest.mark.filterwarnings("ignore:std")  # of the one image of a class
@pytest.mark.parametrize("squared", [False, True])
def test_every_array_against_a_plain_computation(official, tmp_path, squared):
    folder, (first, network) = official
    flags = "--use_squared_loss" if squared else ""
    asked = ALL.removesuffix(TRACES)  # which are held against matrices below
    line = f"--model ConvNetSI --train_mode {asked} --corrupt_train {CORRUPT} {flags}"
    found = measure(folder, line, tmp_path / "train-tm")
    images, _ = data.load("Digits", "", use_test=True, use_data_size=200, corrupt_train=CORRUPT)
    network.train()
    names, parameters = zip(*network.named_parameters(), strict=True)
    outputs, losses, gradients, wrong = [], [], [], []
    for x, y in images.batches(64):
        logits = network(x)
        losses.append(losses_of(logits, y, squared))
        gradients.append(torch.autograd.grad(losses[-1].mean(), parameters))
        outputs.append(logits.detach().softmax(1))
        wrong.append([int(((logits.argmax(1) != y) & (y == c)).sum()) for c in range(10)])
    near = {"rtol": 2e-4, "atol": 1e-7}
    all_losses, bad = torch.cat(losses).detach(), images.corrupted
    for name, part in (("", slice(None)), ("_corrupt", bad), ("_normal", ~bad)):
        assert found[f"loss{name}"][1] == pytest.approx(all_losses[part].mean().item(), 1e-4)
        right = (torch.cat(outputs).argmax(1) == images.labels)[part]
        assert found[f"acc{name}"][1] == right.double().mean().item()
    np.testing.assert_array_equal(found["outliers_list"][1], wrong)

    flat = torch.stack([torch.cat([g.flatten() for g in grads]) for grads in gradients])
    np.testing.assert_allclose(found["gnorm_all"][1], flat.norm(dim=1), **near)
    assert found["gnorm_m"][1] == pytest.approx(flat.norm(dim=1).mean().item(), 2e-4)
    assert found["gm_norm"][1] == pytest.approx(flat.mean(0).norm().item(), 2e-4)
    assert found["gs_norm"][1] == pytest.approx(flat.std(0).norm().item(), 2e-4)
    filters = [
        np.mean([g[i][f].norm().item() for g in gradients])
        for i, name in enumerate(names)
        if "conv" in name
        for f in range(len(parameters[i]))
    ]
    assert len(filters) == 2 + 4 + 8 + 16
    np.testing.assert_allclose(found["gnorm_m_param_groups"][1], filters, **near)

    before, now = (
        torch.cat([p.detach().flatten() for n, p in net.named_parameters() if "conv" in n]).double()
        for net in (first, network)
    )
    cosine = (before @ now / before.norm() / now.norm()).item()
    assert found["cos_init"].tolist() == pytest.approx([1, cosine])
    both = (nn.utils.parameters_to_vector(n.parameters()) for n in (first, network))
    distance = (next(both) - next(both)).norm().item()
    assert found["l2_init"].tolist() == pytest.approx([0, distance])

    statistics = found["p_stats"]
    assert statistics.shape == (2, 5, 4, 10, 10)
    for b, (p, (_, y)) in enumerate(zip(outputs, images.batches(64), strict=True)):
        for c in range(10):
            of_class = p[y == c]
            if len(of_class) == 0:
                assert np.isnan(statistics[1, :, b, c]).all()
                continue
            expected = [of_class.mean(0), of_class.std(0), of_class.min(0)[0],
                        of_class.max(0)[0], of_class.median(0)[0]]  # fmt: skip
            np.testing.assert_allclose(
                statistics[1, :, b, c], torch.stack(expected), rtol=1e-3, atol=1e-6
            )


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("kind", ["hess", "fisher"])
def test_curvature_of_the_subsets_and_of_the_squared_loss(kind, squared):
    """Traces against matrices built element by element, of one layer of a small network."""
    from measuring.meter import _unit_vectors
    from training.loss import cross_entropy, squared_loss

    torch.manual_seed(3)
    model = models.build("ConvNetSI", 10, 1, depth=1, init_scale=10)
    images, _ = data.load("Digits", "", use_test=True, use_data_size=24, corrupt_train=CORRUPT)
    name = "conv_layers.0.weight"
    wanted = Wanted.from_flags([f"{kind}_trace", f"{kind}_evals", "eval_on_train_subsets"])
    found = Meter(
        model, images, wanted, train_mode=True, batch_size=24, scopes={"one": [name]},
        loss=squared_loss if squared else cross_entropy, vector_seed=2,
    ).measure()["one"]  # fmt: skip
    model.double().train()
    (x, y), = images.batches(24)  # fmt: skip
    weight = model.get_parameter(name).detach()
    model.requires_grad_(False)

    def logits_of(w):
        return torch.func.functional_call(model, {name: w}, (x.double(),))

    def matrix(part):
        if kind == "hess":
            h = torch.autograd.functional.hessian(
                lambda w: losses_of(logits_of(w), y, squared)[part].mean(), weight
            )
            return h.reshape(weight.numel(), -1)
        jacobian = torch.autograd.functional.jacobian(logits_of, weight)[part].flatten(2)
        p = logits_of(weight)[part].softmax(1)
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        inner = 2 / 10 * torch.eye(10).double().expand_as(inner) if squared else inner
        return torch.einsum("nia,nij,njb->ab", jacobian, inner, jacobian) / len(p)

    vectors = _unit_vectors(weight.numel(), 2, torch.device("cpu")).double()
    for ending, part in (("", slice(None)), ("_normal", ~images.corrupted),
                         ("_corrupt", images.corrupted)):  # fmt: skip
        expected = torch.einsum("va,ab,vb->v", vectors, matrix(part), vectors).mean().item()
        assert found[f"{kind}_trace{ending}"] == pytest.approx(expected, rel=2e-3)
    values = torch.linalg.eigvalsh(matrix(slice(None))).flip(0)[:10].numpy()
    np.testing.assert_allclose(found[f"{kind}_evals"], values, atol=2e-3 * values[0])


@pytest.mark.parametrize("name", list(models.MODELS))
def test_four_official_models_are_read_and_foreign_ones_refused(name, tmp_path, capsys):
    folder = tmp_path / "trial_0"
    network = models.build(name, 10, 2)
    write_official(folder / "checkpoint-1.pt", network, prefix="module.")
    found = measure(folder, f"--model {name} --prebn_only --all_pnorm", tmp_path / "out.npz")
    assert found["params_norm"][0] == pytest.approx(
        models.norm(models.si_parameters(network).values()).item()
    )
    assert "measured as the official code's" in capsys.readouterr().out
    for other in models.MODELS:
        if other == name:
            continue
        with pytest.raises(SystemExit) as stop:
            measure(folder, f"--model {other}", tmp_path / "other.npz")
        error = capsys.readouterr().err
        assert stop.value.code == 2 and "belongs to another network" in error
        if name.endswith("Af") != other.endswith("Af"):
            assert "trainable scale and shift" in error


def test_checkpoints_within_an_epoch(official, tmp_path, run):
    folder = tmp_path / "trial_0"
    for name in ("0", "0-1", "0-2", "0-3", "1", "1-1"):
        write_official(folder / f"checkpoint-{name}.pt", official[1][0])
    arguments = "--model ConvNetSI"
    expected = [0, 0.25, 0.5, 0.75, 1, 1.25]
    for option in ("", "--save_freq_int 4"):
        found = measure(folder, f"{arguments} {option}", tmp_path / "out.npz")
        assert found["report_epochs"].tolist() == expected
    found = measure(folder, f"{arguments} --save_freq_int 8", tmp_path / "out.npz")
    assert found["report_epochs"].tolist() == [0, 0.125, 0.25, 0.375, 1, 1.125]


def test_without_a_number_a_random_subset_is_at_most_the_whole(official, tmp_path):
    folder, _ = official
    shared = "--model ConvNetSI --eval_model"
    whole = measure(folder, shared, tmp_path / "whole.npz")
    subset = measure(folder, f"{shared} --eval_on_random_subset", tmp_path / "subset.npz")
    np.testing.assert_allclose(subset["loss"], whole["loss"], rtol=1e-5)


def test_train_subsets_of_the_test_set_are_ignored(official, tmp_path, capsys):
    found = measure(
        official[0], "--model ConvNetSI --use_test --eval_on_train_subsets", tmp_path / "out.npz"
    )
    assert "--eval_on_train_subsets changes nothing" in capsys.readouterr().out
    assert found.keys() == {"report_epochs", "params_norm", "params_numel"}


def test_what_a_file_of_other_batches_holds_is_not_mixed(official, tmp_path, capsys):
    folder, _ = official
    out = tmp_path / "out.npz"
    measure(folder, "--model ConvNetSI --calc_grad_norms_all", out)
    write_official(folder / "checkpoint-2.pt", official[1][0])
    with pytest.raises(SystemExit):
        measure(folder, "--model ConvNetSI --calc_grad_norms_all --batch_size 40 --update", out)
    (folder / "checkpoint-2.pt").unlink()
    assert "gnorm_all of other batches" in capsys.readouterr().err
    with np.load(out) as file:
        assert file["gnorm_all"].shape == (2, 4)


def test_the_driver_measures_the_subsets_of_corrupted_runs(run):
    def line(**params):
        (made,) = lines_of(Experiment("x", "y", dataset="Digits", params=params))
        return made.commands["train-tm"]

    assert "--eval_on_train_subsets" in line(corrupt_train=0.2)
    assert "--eval_on_train_subsets" not in line()
    folder = run("--corrupt_train 0.3 --epochs 1 --metrics")
    with np.load(folder / "train-tm.npz") as file:
        assert {"loss_corrupt", "acc_corrupt", "loss_normal", "acc_normal"} <= set(file)


def test_checkpoints_of_older_runs_are_at_the_time_that_they_say(run, tmp_path):
    """Older versions counted steps in a file's name."""
    folder = run("--save_freq_int 2 --epochs 1")
    (folder / "checkpoint-0-1.pt").rename(folder / "checkpoint-0-37.pt")
    out = tmp_path / "out.npz"
    test_script.main(f"--models_dir {folder} --save_path {out} --gpu -1 --save_freq_int 5".split())
    with np.load(out) as file:
        assert file["report_epochs"].tolist() == [0, 0.5, 1]


def test_every_option_of_an_official_line_is_known():
    line = (
        "--dataset CIFAR10 --data_path ~/datasets/ --model ResNet18SIAf --models_dir x "
        "--save_path y --num_channels 32 --depth 3 --initscale -1. --fix_noninvlr -1 --gpu 0 "
        "--batch_size 128 --use_data_size 50000 --corrupt_train 0.0 --num_workers 4 --seed 1 "
        "--use_test --no_aug --use_aug --prebn_only --update --fisher_evals --hess_evals "
        "--train_mode --calc_grad_norms --save_freq_int 0 --split_classes 0 --use_squared_loss "
        f"--eval_on_random_subset {ALL}"
    )
    args, words = options.test_options(line.split())
    assert {"init_scale", "noninvlr", "noaug", "calc_grad_norms"} <= words
    assert args.eval_on_random_subset == 0 and args.split_classes == 0
