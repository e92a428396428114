"""train.py and test.py give what the independent implementation in `reference` gives."""

import functools
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import torch
from conftest import measure, state_of
from PIL import Image

import runs
import train
from options import train_options
from training.trainer import schedule

# 100 images in batches of 30: 4 steps an epoch, the last of them on ten images.
BASE = (
    "--dataset ImageFolder --batch_size 30 --model ConvNetSI --num_channels 2 --noninvlr 0 "
    "--init_scale 2 --lr_init 0.003 --wd 1 --momentum 0 --epochs 2 --use_test --noaug "
    "--no_schedule --save_freq 1 --eval_freq 2 --gpu -1"
)
ALL = "--model ConvNetSIAf --noninvlr -1"
RESNET = "--use_data_size 60 --model ResNet18SI"
# Options to add to the base, and those of the base to leave out.
GRID = {
    "the base": "",
    "all weights, momentum": f"{ALL} --momentum 0.9",
    "full batch, momentum, held": "--fbgd --momentum 0.9 --fix_si_pnorm --noninvlr 0.1",
    "held at 3": "--fix_si_pnorm --fix_si_pnorm_value 3 --momentum 0.5",
    "sphere": "--fix_elr --elr 0.0005",
    "sphere, others on their own": "--fix_elr --elr 0.0005 --noninvlr 0.1",
    "every filter held": "--fix_all_elr --elr 0.0005 --momentum 0.5",
    "squared loss": f"--use_squared_loss {ALL}",
    "full batch, squared loss": "--use_squared_loss --fbgd --fix_elr --elr 0.001",
    "Adam": f"--optimizer adam --lr_init 0.001 {ALL} without --momentum 0",
    "AdamW": f"--optimizer adamw --lr_init 0.001 --wd 10 {ALL} without --momentum 0",
    "augmentation": "without --noaug",
    "default schedule": "--epochs 4 --noninvlr 0.01 without --no_schedule",
    "cosine on the sphere": (
        f"{ALL} --momentum 0.9 --cosan_schedule --fix_elr --elr 0.0005 without --no_schedule"
    ),
    "corrupted": "--corrupt_train 0.3",
    "corrupted, held-out images": "--corrupt_train 0.4 --use_data_size 80 without --use_test",
    "held-out images": "--seed 3 --trial 2 without --use_test",
    "first images, one batch": "--batch_size 700 --use_data_size 50",
    "channels last": "--num_channels 8 --use_data_size 40 --momentum 0.9",
    "deep": "--depth 5",
    "layer": "--norm layer --model ConvNetSIAf --noninvlr 0.05",
    "group": "--norm group --num_channels 3",
    "weight": f"--norm weight {ALL} --lr_init 0.001",
    "ResNet, all weights": f"{RESNET}Af --noninvlr -1 --momentum 0.9",
    "ResNet, weight": f"{RESNET}Af --norm weight",
}


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A folder of 100 and 40 images of noise in 5 classes. In noise no two patches are alike. In
    digits many are, and rounding decides which of them a maximum is taken from."""
    folder, random = tmp_path_factory.mktemp("noise"), np.random.RandomState(0)
    for part, i in [("train", i) for i in range(100)] + [("test", i) for i in range(40)]:
        path = folder / part / "abcde"[random.randint(5)] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(256, size=(32, 32, 3)).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def trained(noise, tmp_path_factory):
    """The folder of a run of the grid, which is trained once."""

    @functools.cache
    def folder_of(name):
        extra, _, left_out = GRID[name].partition("without ")
        assert left_out in BASE
        folder = tmp_path_factory.mktemp("run")
        words = f"{BASE.replace(left_out, '')} {extra} --data_path {noise} --dir {folder}"
        train.main(words.split())
        return runs.trial_folder(folder, 2 if "--trial 2" in extra else 0)

    return folder_of


def images_of(noise, *which):
    """Normalised training images, labels and which of these are corrupted."""
    (pixels, labels, corrupted), _ = reference.split(noise, *which)
    return reference.normalised(pixels), labels, corrupted


@pytest.mark.parametrize("name", GRID)
def test_a_run_is_the_plain_one(trained, name):
    assert_plain(trained(name))


@pytest.mark.parametrize("name, extra", [
    ("the base", "--epochs 4 --lr_init 0.002 --d_schedule 2"),
    ("the base", "--epochs 3 --cosan_schedule --fix_si_pnorm"),
    ("the base", "--epochs 2 --no_schedule --fix_elr --elr 0.0003"),
    ("the base", "--epochs 3 --c_schedule 4 --fbgd"),
    ("held at 3", "--epochs 1 --no_schedule --momentum 0 --fix_si_pnorm --fix_si_pnorm_value 5"),
    ("sphere", "--epochs 1 --no_schedule --fix_si_pnorm --fix_si_pnorm_value 2"),
    ("every filter held", "--epochs 1 --no_schedule --momentum 0"),
])  # fmt: skip
def test_a_branch_is_the_plain_run_from_its_checkpoint(run, trained, noise, name, extra):
    """Its schedule begins there, and it holds the norm that it asks for itself."""
    shutil.copytree(trained(name), run.folder)
    run(f"{extra} --data_path {noise} --resume_epoch 1", base=BASE.replace("--no_schedule", ""))
    (branch,) = run.folder.glob("branch-1*")
    assert_plain(branch, 1)
    asked = runs.read_config(branch)["fix_si_pnorm_value"]
    if asked > 0:
        assert runs.read_log(branch)[0]["si_norm"] == pytest.approx(asked, rel=1e-6)


def assert_plain(folder, first=0):
    """What the folder holds from checkpoint `first` on is what the reference gets from there."""
    options = SimpleNamespace(**runs.read_config(folder))
    start, rows = state_of(folder, first), runs.read_log(folder)
    assert len(rows) == options.epochs
    assert options.base_lr == pytest.approx(rows[0]["lr"])  # every schedule begins at 1
    sizes = {k: start[k].numel() for k in reference.trainable(start)}
    assert options.si_parameters == sum(sizes[k] for k in reference.invariant(start))
    assert options.other_parameters == sum(sizes.values()) - options.si_parameters
    assert options.num_classes == 5
    plain = reference.train(dict(start), options, first)
    for row, (expected, weights) in zip(rows, plain, strict=True):
        tested = {k for k, value in row.items() if value is not None}
        assert tested - {"seconds"} == expected.keys()
        for key, value in expected.items():
            assert row[key] == pytest.approx(value, rel=5e-4, abs=1e-6), key
        path = runs.checkpoint_path(folder, expected["epoch"])
        content = torch.load(path, weights_only=True)
        for part in ("train", "test"):  # accuracy in per cent there, as in official checkpoints
            loss, accuracy = row[f"{part}_loss"], row[f"{part}_acc"]
            percent = None if loss is None else pytest.approx(100 * accuracy)
            assert content[f"{part}_res"] == {"loss": loss, "accuracy": percent}
        found = content["state_dict"]
        assert found.keys() == weights.keys()
        moved = reference.length(weights[k] - start[k] for k in reference.trainable(start))
        for key, value in weights.items():  # up to rounding, beside what training has changed
            change = reference.length([value - start[key]])
            error = reference.length([found[key] - value])
            assert error <= 1e-2 * change + 1e-5 * moved, key


def test_schedules_are_the_plain_ones():
    for words in ("", "--no_schedule", "--d_schedule 3", "--c_schedule 3", "--cosan_schedule"):
        asked, _ = train_options(words.split())
        for progress in np.arange(40) / 40:
            expected = reference.factor(progress, asked)
            assert schedule(asked, progress) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("extra", [
    "", "--trial 3 --seed 7", "--same_last_layer", "--same_init", "--same_last_layer --same_init",
])  # fmt: skip
def test_a_run_begins_with_pytorchs_own_initialisation(run, noise, extra):
    """In the order of the layers, from the documented seed."""
    folder = run(f"{extra} --epochs 1 --data_path {noise}", base=BASE)
    seed, trial = (7, 3) if "seed" in extra else (1, 0)
    first = state_of(folder.with_name(f"trial_{trial}"), 0)
    torch.manual_seed(228 if "same_init" in extra else reference.seed_of(seed, trial))
    for number, inputs, outputs in ((0, 3, 2), (3, 2, 4), (7, 4, 8), (11, 8, 16)):
        layer = torch.nn.Conv2d(inputs, outputs, 3, bias=False)
        assert torch.equal(first[f"conv_layers.{number}.weight"], layer.weight)
    if "same_last_layer" in extra:
        torch.manual_seed(228)
    last = torch.nn.Linear(16, 5)
    assert torch.equal(first["linear_layers.2.bias"], last.bias)
    expected = 2 * last.weight / last.weight.norm()  # --init_scale 2
    assert torch.allclose(first["linear_layers.2.weight"], expected)


# How the arrays are asked for, and of which run.
MEASURED = {
    "train-tm": ("--train_mode", "corrupted"),
    "train-em": ("", "corrupted"),
    "test-em": ("--use_test", "the base"),
    "trained-on": ("--train_mode", "held-out images"),
    "all-weights": ("--train_mode", "all weights, momentum"),
    "squared": ("--train_mode --use_squared_loss --corrupt_train 0.4", "sphere"),
    "deep": ("--train_mode", "deep"),
    "ResNet": ("--train_mode --prebn_only", "ResNet, all weights"),
    "weight": ("--train_mode", "weight"),
}
ARRAYS = (
    "--eval_model --all_pnorm --calc_grad_norms --calc_grad_norms_all --calc_grads "
    "--calc_grad_norms_param_groups --calc_batch_outliers --calc_probs_stats --calc_cos_init "
    "--calc_l2_init"
)


@pytest.mark.parametrize("name", MEASURED)
def test_arrays_are_the_plain_ones(trained, noise, name):
    flags, of = MEASURED[name]
    folder, on_test = trained(of), "--use_test" in flags
    o = SimpleNamespace(**runs.read_config(folder))
    subsets = "" if on_test else "--eval_on_train_subsets"
    found = measure(folder, f"{ARRAYS} {flags} {subsets}", f"{name}.npz")
    corrupt = 0.4 if "0.4" in flags else o.corrupt_train or 0.0
    images = images_of(noise, o.use_test, o.use_data_size, corrupt)
    if on_test:
        pixels, labels = reference.split(noise)[1]
        images = reference.normalised(pixels), labels, labels < 0  # all are true
    assert found.pop("report_epochs").tolist() == [0, 1, 2]
    first = state_of(folder, 0)
    names = (reference.invariant if "prebn" in flags else reference.trainable)(first)
    for epoch in range(3):
        state = state_of(folder, epoch)
        expected = reference.measure(
            state, images, names, o.batch_size, "train_mode" in flags, "squared" in flags,
            norm=o.norm, depth=o.depth,
        ) | reference.since(first, state)  # fmt: skip
        if on_test:
            expected = {k: v for k, v in expected.items() if not k.endswith(("normal", "corrupt"))}
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            error = f"{key} of epoch {epoch}"
            np.testing.assert_allclose(found[key][epoch], value, 1e-3, 1e-6, err_msg=error)


@pytest.mark.parametrize("squared", [False, True])
def test_curvature_is_that_of_the_explicit_matrices(run, noise, squared):
    """Of all 45 SI weights of a small network, in batches of 12, 12 and 6."""
    folder = run(
        f"--data_path {noise} --depth 1 --num_channels 1 --use_data_size 30 --corrupt_train 0.4 "
        f"--batch_size 12 --epochs 1 {'--use_squared_loss' * squared}", base=BASE,
    )  # fmt: skip
    found = measure(
        folder,
        "--train_mode --prebn_only --eval_on_train_subsets --hess_trace --fisher_trace "
        "--hess_evals --fisher_evals --sharpness --seed 5 --epochs 1",
    )
    state, images = state_of(folder, 1), images_of(noise, True, 30, 0.4)
    both = reference.curvature(state, images, 12, squared, depth=1)
    generator = torch.Generator().manual_seed(reference.seed_of(5))
    vectors = torch.randn(5, 45, generator=generator).double()
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    for ending, matrices in both.items():
        for kind, matrix in zip(("hess", "fisher"), matrices, strict=True):
            trace = torch.einsum("va,ab,vb->v", vectors, matrix, vectors).mean().item()
            near = pytest.approx(trace, rel=2e-3, abs=1e-4 * matrix.norm().item())
            assert found[f"{kind}_trace{ending}"][0] == near
            if ending == "":
                values = torch.linalg.eigvalsh(matrix).flip(0)[:10].numpy()
                near = 2e-3 * np.abs(values).max()
                np.testing.assert_allclose(found[f"{kind}_evals"][0], values, atol=near)
    weights = torch.cat([state[k].flatten() for k in reference.invariant(state)]).double()
    u = weights / weights.norm()
    tangent = torch.eye(45) - torch.outer(u, u)
    values = torch.linalg.eigvalsh(weights.norm() ** 2 * tangent @ both[""][0] @ tangent)
    assert found["sharpness"][0] == pytest.approx(values[-1].item(), rel=5e-3)
