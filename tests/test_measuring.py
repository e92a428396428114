"""test.py, metrics measured while training, and what is measured of checkpoints afterwards.

The arrays themselves are held against an independent implementation in test_reference.py.
"""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from conftest import TINY, load_images, measure, state_of
from torch import nn
from tqdm import tqdm

import data
import models
import options
import runs
import test as test_script
import train
from experiments import Experiment
from experiments.lines import lines_of
from measuring import Meter, diversity, meter, recorder, wanted
from measuring.rebuild import measure_checkpoint
from options import Train

FLAGS = "--train_mode --eval_model --all_pnorm --calc_grad_norms --calc_grads --hess_trace"
MORE = (
    "--calc_grad_norms_all --calc_grad_norms_param_groups --calc_batch_outliers "
    "--calc_probs_stats --calc_l2_init --eval_on_train_subsets --sharpness"
)
ADDED = "--calc_cos_init --fisher_trace"


def arrays(folder):
    """All metrics that were measured while training, under names as "train-tm loss"."""
    files = {name: np.load(folder / f"{name}.npz") for name in runs.METRICS}
    return {f"{name} {key}": file[key] for name, file in files.items() for key in file}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("measured")
    train.main(f"{TINY} --dir {directory} --corrupt_train 0.3 --epochs 2".split())
    return runs.trial_folder(directory, 0)


@pytest.mark.parametrize("train_mode", [True, False])
def test_measuring_leaves_any_network_as_it_was(train_mode):
    """Here one with statistics of every kind, one of its layers kept in evaluation mode."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, bias=False), nn.InstanceNorm2d(4, track_running_stats=True),
        nn.Conv2d(4, 4, 3, 2, bias=False), nn.BatchNorm2d(4).eval(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8, momentum=None),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 10)),
    )  # fmt: skip
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    with meter.mode(model, train_mode):
        assert all(module.training == train_mode for module in model.modules())
        model(torch.randn(8, 3, 32, 32))
    assert flags == [module.training for module in model.modules()]
    assert_same(before, model.state_dict())


def test_a_network_that_draws_random_numbers(run, tmp_path):
    """It trains alike measured, resumed or whole, and every measurement draws the same."""
    (tmp_path / "own.py").write_text(
        "import random\nfrom torch import nn\n"
        "class Drop(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x * (1 + 0.1 * random.random()) if self.training else x\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 5, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU(),"
        " nn.Flatten(), nn.Dropout(0.5), Drop(), nn.Linear(196, num_classes))\n"
    )
    extra = f"--model {tmp_path}/own.py:net --save_freq 1 --noninvlr -1 --save_freq_int 2"
    whole = state_of(run(f"{extra} --epochs 2"), 2)
    assert_same(whole, state_of(run(f"{extra} --epochs 2 --metrics --eval_freq 1 --overwrite"), 2))
    run(f"{extra} --epochs 1 --overwrite")
    assert_same(whole, state_of(run(f"{extra} --epochs 2 --resume --metrics"), 2))
    metrics = arrays(run.folder)
    for _ in range(2):
        found = measure(run.folder, "--train_mode --eval_model --calc_grad_norms")
        assert_same(found, {name: metrics[f"train-tm {name}"] for name in found})


def test_the_eigenvalues_of_dropout_are_those_of_one_mask():
    """Every product of the iteration draws the same."""
    images, _ = load_images("Digits", use_test=True, use_data_size=20)
    drawn = []
    dropout = nn.Dropout(0.5)
    dropout.register_forward_hook(lambda module, inputs, outputs: drawn.append(outputs != 0))
    model = nn.Sequential(
        nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 8), dropout, nn.Linear(8, 10)
    )
    asked = options.Measure(hess_evals=True, train_mode=True, batch_size=20)
    Meter(model, images, asked).measure()
    assert len(drawn) > 10 and all(torch.equal(mask, drawn[0]) for mask in drawn)


def test_a_saturated_network_has_no_curvature():
    images, _ = load_images("Digits", use_test=True, use_data_size=20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(1e6 * torch.eye(10)[0])
    (found,) = Meter(model, images, options.Measure(fisher_evals=True)).measure().values()
    assert found["fisher_evals"].tolist() == [0.0] * 10


def test_a_parameter_with_the_name_of_a_metric_does_not_replace_it():
    images, _ = load_images("Digits", use_test=True, use_data_size=20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    model.params = nn.Parameter(torch.ones(4))
    (found,) = Meter(model, images, options.Measure(all_pnorm=True)).measure().values()
    assert found["params_norm"] == pytest.approx(models.norm(model.parameters()).item())


# --- which arrays, of what, in which file ---


def test_si_weights_alone_and_from_the_same_pass(folder):
    flags = f"{FLAGS} --eval_on_random_subset 40 --batch_size 25 --epochs"
    alone = measure(folder, f"{flags} 0,2 --prebn_only", "alone.npz")
    everything = measure(folder, f"{flags} 0,2 --prebn_save_path {folder}/si.npz", "all.npz")
    with np.load(folder / "si.npz") as together:
        assert alone.keys() == together.keys()
        for name, array in alone.items():
            np.testing.assert_allclose(array, together[name], rtol=1e-5)
    last = measure(folder, f"{flags} 2", "last.npz")  # on its own
    assert_same(last, {name: array[1:] for name, array in everything.items()})


@pytest.mark.parametrize("words, name", [
    ("", "train-em"), ("--train_mode", "train-tm"), ("--use_test", "test-em"),
    ("--use_test --train_mode --prebn_only", "test-tm-prebn"), ("--prebn_only", "train-em-prebn"),
])  # fmt: skip
def test_files_are_named_after_what_they_hold(folder, words, name):
    (folder / f"{name}.npz").unlink(missing_ok=True)
    test_script.main(f"--models_dir {folder} --gpu -1 {words}".split())
    assert (folder / f"{name}.npz").exists()


def test_update_measures_only_what_is_missing(run, capsys, monkeypatch):
    """Here the checkpoints are damaged meanwhile: what needs them fails."""
    folder = run("--epochs 1 --depth 1 --num_channels 1 --use_data_size 40 --batch_size 30")
    first = measure(folder, f"{FLAGS} {MORE}")
    path = folder / "checkpoint-1.pt"
    content = path.read_bytes()
    path.write_bytes(b"damaged")
    capsys.readouterr()
    for flags in ("--train_mode --eval_model", f"{FLAGS} {MORE}"):
        assert_same(first, measure(folder, f"{flags} --update"))
        assert "passed over" not in capsys.readouterr().out
    measure(folder, f"{FLAGS} {MORE} {ADDED} --update")
    assert "passed over" in capsys.readouterr().out
    path.write_bytes(content)
    measured, real = [], Meter.measure
    monkeypatch.setattr(
        Meter, "measure", lambda self: measured.append(wanted.flags(self.options)) or real(self)
    )
    third = measure(folder, f"{FLAGS} {MORE} {ADDED} --update")
    added = {"cos_init", "fisher_trace", "fisher_trace_normal", "fisher_trace_corrupt"}
    assert third.keys() == {*first, *added} and np.isfinite(third["cos_init"]).all()
    assert measured == [["eval_on_train_subsets", "calc_cos_init", "fisher_trace"]]


def test_distances_of_a_branch_are_from_checkpoint_0_of_its_trial(run):
    run("--epochs 1")
    run("--resume_epoch 1 --epochs 1 --lr_init 0.2 --save_freq 1")
    branch = next(run.folder.glob("branch-1*"))
    found = measure(branch, "--calc_l2_init --calc_cos_init")
    for i, epoch in enumerate((1, 2)):
        expected = reference.since(state_of(run.folder, 0), state_of(branch, epoch))
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(float(value))


def test_a_random_subset_is_of_five_thousand_images_unless_told_otherwise(monkeypatch):
    many = data._image_set(np.zeros((6000, 1, 1, 3), np.uint8), np.zeros(6000), 10)
    monkeypatch.setattr(data, "load", lambda *_, **__: (many, many))
    for words, count in (("", 6000), ("--eval_on_random_subset", 5000),
                         ("--eval_on_random_subset 7", 7)):  # fmt: skip
        asked, _ = options.measure_options(["--models_dir", "x", *words.split()])
        assert len(test_script.image_set(asked, True)) == count


def test_the_random_subset_and_the_random_crops_are_those_of_the_seed(folder):
    state = state_of(folder, 2)
    images, _ = load_images("Digits", use_test=True, use_data_size=200, corrupt_train=0.3)
    ((pixels, labels),) = ((255 * (0.3222 * x + 0.3051), y) for x, y in images.batches(200))

    def loss(pixels, labels):
        """In batches of 64 with their own statistics."""
        found = []
        for x, y in zip(pixels.split(64), labels.split(64), strict=True):
            logits = reference.Network(dict(state), True)((x / 255 - 0.3051) / 0.3222)
            found.append(reference.losses_of(logits, y))
        return pytest.approx(torch.cat(found).mean().item(), rel=1e-4)

    for seed in (1, 7):
        flags = f"--train_mode --eval_model --seed {seed}"
        generator = torch.Generator().manual_seed(reference.seed_of(seed))
        part = torch.randperm(200, generator=generator)[:50]
        found = measure(folder, f"{flags} --eval_on_random_subset 50")
        assert found["loss"][-1] == loss(pixels[part], labels[part])
        generator.manual_seed(reference.seed_of(seed))
        top, left = torch.randint(9, (2, 200), generator=generator)
        flip = torch.randint(2, (200,), generator=generator)
        crops = reference.augmented(pixels, top, left, flip)
        assert measure(folder, f"{flags} --use_aug")["loss"][-1] == loss(crops, labels)


@pytest.mark.parametrize("arguments, message", [
    ("--models_dir {f}/config.json", "no checkpoint"),
    ("--models_dir {f} --model ResNet18SI", "another network"),
    ("--models_dir {f} --num_channels 3", "another network"),
    ("--models_dir {f} --eval_on_random_subset 900", "900 is more than"),
    ("--models_dir {f} --epochs 9", "there are 3 epochs from 0 to 2"),
    ("--models_dir {f}/none --epochs every3", "no checkpoint-<epoch>.pt in"),
    ("--models_dir=", "--models_dir: it is empty"),
    ("--models_dir {f} --save_path {f}/x.npz --prebn_save_path {f}/x.npz", "same file"),
    ("--models_dir {f} --save_path {f}/x.npz --prebn_save_path {f}/../trial_0/x.npz", "same file"),
])  # fmt: skip
def test_mistakes_are_one_line(folder, arguments, message, refused):
    assert message in refused(test_script.main, arguments.format(f=folder).split())
    assert not (folder / "x.npz").exists()


def test_some_epochs_or_one_checkpoint_are_measured_and_added(run, capsys):
    folder = run("--epochs 6 --save_freq 1")
    for words, epochs in (("/checkpoint-2.pt", [2]), (" --epochs 0,5", [0, 2, 5]),
                          (" --epochs every3", [0, 2, 3, 5, 6])):  # fmt: skip
        test_script.main(f"--models_dir {folder}{words} --eval_model --gpu -1".split())
        with np.load(folder / "train-em.npz") as file:
            assert file["report_epochs"].tolist() == epochs
            assert np.isfinite(file["loss"]).all() and "missing" not in file
            loss = file["loss"]
    assert f"{folder}: 1 checkpoint on" in capsys.readouterr().out
    # On other images it is measured anew, unless what is there is to be kept
    for words, again in ((" --update", False), ("", True)):
        more = f"--eval_on_random_subset 40 --models_dir {folder} --epochs 2,3 --gpu -1{words}"
        test_script.main(f"--eval_model {more}".split())
        changed = np.load(folder / "train-em.npz")["loss"] != loss
        assert changed.tolist() == [False, again, again, False, False]
    test_script.main(f"--models_dir {folder} --epochs every1 --calc_l2_init --gpu -1".split())
    with np.load(folder / "train-em.npz") as file:  # though these are all
        assert {"loss", "l2_init"} <= {*file} and len(file["l2_init"]) == 7
    run("--resume_epoch 1 --epochs 1")
    with pytest.raises(SystemExit):
        test_script.main(f"--models_dir {folder}/branch-1 --epochs every3".split())
    assert "no checkpoint of every3" in capsys.readouterr().err


def test_long_metrics_show_how_far_they_are(folder, monkeypatch):
    shown = io.StringIO()

    def bar(*words, disable, **more):
        assert disable is None  # on a terminal
        return tqdm(*words, file=shown, mininterval=0, **more)

    monkeypatch.setattr(meter, "tqdm", bar)
    few = "--eval_on_random_subset 40 --batch_size 12"  # four batches
    measure(folder, f"--epochs 1 --sharpness --train_mode {few}", "long.npz")
    for text in ("sharpness, product 1:", "sharpness, product 2:", "| 4/4 "):
        assert text in shown.getvalue()


def test_what_is_measured_is_written_on_the_way(folder, monkeypatch):
    seen, real = [], Meter.measure

    def noted(self):
        seen.append(list(runs.Metrics.read(folder / "some.npz").rows))
        return real(self)

    monkeypatch.setattr(Meter, "measure", noted)
    monkeypatch.setattr(test_script, "WRITE_EVERY", -1)
    monkeypatch.setattr(test_script, "WRITING_SHARE", 0)
    measure(folder, "", "some.npz")
    assert seen == [[], [0], [0, 1]]


# --- metrics measured while training ---

HELD_OUT = TINY.replace("--use_test", "").replace("--use_data_size 200", "--use_data_size 1350")


@pytest.mark.parametrize("extra, base", [
    ("--save_freq_int 2 --corrupt_train 0.5 --use_test_size 20", TINY),
    ("--model ResNet18SIAf --noninvlr -1 --epochs 1", TINY),
    ("--num_channels 8 --fbgd --use_squared_loss", TINY),
    ("--save_freq_int 3 --norm_eps 1e-3 --norm layer", TINY),
    ("--split_classes 0 --use_test_size 50 --epochs 1", HELD_OUT),
])  # fmt: skip
def test_metrics_are_those_of_the_test_script(run, extra, base):
    """On the test set, also where the log has the accuracy on held-out images."""
    folder = run(f"--save_freq 1 --epochs 2 --metrics {extra}", base)
    expected, config = arrays(folder), runs.read_config(folder)
    for name in runs.METRICS:
        (folder / f"{name}.npz").unlink()
    (line,) = lines_of(Experiment("x", "", Train(epochs=1, corrupt_train=config["corrupt_train"])))
    for words in list(line.commands.values())[1:]:  # those of the driver, for another folder
        words = [str(folder) if "trial_0" in w and ".npz" not in w else w for w in words]
        words = [str(folder / w.split("/")[-1]) if ".npz" in w else w for w in words]
        test_script.main([*words[1:], "--gpu", "-1"])
    assert_same(expected, arrays(folder))
    if base == HELD_OUT:
        assert runs.read_log(folder)[0]["test_acc"] != expected["test-em acc"][1]
    if config["use_test_size"] == 20:
        np.testing.assert_allclose(20 * expected["test-em acc"] % 1, 0, atol=1e-9)
        whole = measure(folder, "--use_test --eval_model --use_test_size 297")["acc"]
        assert (whole != expected["test-em acc"]).any()


def test_a_run_that_is_resumed_with_metrics_catches_up(run, cut):
    """It goes on from its latest state, and not from the last checkpoint that it has measured."""
    words = "--save_freq 2 --save_freq_int 2 --epochs 4 --use_data_size 70 --use_test_size 20"
    folder = run(f"{words} --metrics")
    expected, state = arrays(folder), state_of(folder, 4)
    run(f"{words} --overwrite")
    run(f"{words} --resume --metrics")
    assert_same(expected, arrays(folder))
    cut(3, f"{words} --overwrite")
    (folder / "checkpoint-0.pt").write_bytes(b"damaged")  # is passed over
    run(f"{words} --resume --metrics")
    assert_same(state, state_of(folder, 4))
    assert_same({name: array[1:] for name, array in expected.items()}, arrays(folder))


@pytest.mark.parametrize("extra", ["", "--save_freq_int 2 --keep 3"])
@pytest.mark.parametrize("seconds", [0, 1e9])  # between two writings
def test_a_checkpoint_goes_only_when_its_metrics_are_on_disk(run, monkeypatch, extra, seconds):
    """So that a run killed at any moment can measure what it had not written."""
    removed, unlink = [], Path.unlink

    def watched(path, missing_ok=False):
        if path.name.startswith("checkpoint-"):
            epoch, _, step = path.stem.removeprefix("checkpoint-").partition("-")
            time = int(epoch) + int(step or 0) / 2
            for name in runs.METRICS:
                assert time in runs.Metrics.read(path.parent / f"{name}.npz").rows
            removed.append(time)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    monkeypatch.setattr(recorder, "WRITE_EVERY", seconds)
    few = "--use_data_size 70 --use_test_size 20"
    folder = run(f"--save_freq 1 --epochs 4 --metrics --keep 1 {few} {extra}")
    left = [(2, 0), (2, 1), (3, 1), (4, 0)] if extra else [(4, 0)]
    assert [key for key in runs.checkpoints_in(folder) if key != (3, 0)] == left
    assert len(removed) + len(runs.checkpoints_in(folder)) == (9 if extra else 5)


def test_metrics_are_written_while_the_run_goes_on(run, monkeypatch):
    seen, real = [], train.Training.epoch

    def epoch(self, number, progress):
        if (self.folder / "train-tm.npz").exists():
            seen.append(max(runs.Metrics.read(self.folder / "train-tm.npz").rows))
        return real(self, number, progress)

    monkeypatch.setattr(train.Training, "epoch", epoch)
    monkeypatch.setattr(recorder, "WRITE_EVERY", 0)
    run("--save_freq 1 --epochs 4 --metrics")
    assert seen == [0, 1, 2, 3]


def outputs_of(state):
    """Test outputs and labels, with the mean statistics of the training batches."""
    train_images, test_images = load_images("Digits", use_test=True, use_data_size=200)
    state = reference.renewed(state, [x for x, _ in train_images.batches(64)])
    ((x, y),) = test_images.batches(297)
    with torch.no_grad():
        return reference.Network(state, False)(x), y


def test_ensembles_with_an_anchor_and_angles_between_whole_epochs(run):
    words = "--epochs 3 --save_freq 2"
    run(f"{words} --trial 1")
    folder = run(f"{words} --save_freq_int 2")
    found = diversity.compare(folder, 2, folder.with_name("trial_1"))
    anchor, _ = outputs_of(state_of(folder, 2))
    for prefix, trial in (("", "trial_0"), ("independent_", "trial_1")):
        assert found[f"{prefix}report_epochs"].tolist() == [2, 3]
        for i, epoch in enumerate((2, 3)):
            state = state_of(folder.with_name(trial), epoch)
            outputs, labels = outputs_of(state)
            both = outputs.softmax(1) + anchor.softmax(1)
            expected = {
                "acc": (outputs.argmax(1) == labels).double().mean(),
                "ensemble_acc": (both.argmax(1) == labels).double().mean(),
                "cosine": reference.since(state_of(folder, 2), state)["cos_init"],
            }
            for name, value in expected.items():
                assert found[prefix + name][i] == pytest.approx(float(value), abs=1e-6), name
    assert 0 < abs(found["cosine"][1]) < 1 and found["cosine"][0] == pytest.approx(1)
    turned = diversity.turning(folder)
    assert turned["from"].tolist() == [0, 2] and turned["to"].tolist() == [2, 3]
    for start, end, angle in zip(*turned.values(), strict=True):
        cosine = reference.since(state_of(folder, int(start)), state_of(folder, int(end)))
        assert angle == pytest.approx(math.acos(cosine["cos_init"]), rel=1e-5)


@pytest.mark.parametrize("use_test", [True, False])
def test_a_checkpoint_is_measured_on_the_images_of_its_run(run, use_test):
    words = (
        "--epochs 1 --save_freq 1 --metrics --corrupt_train 0.3 --norm_eps 0.1 --depth 2 "
        "--batch_size 500 --use_squared_loss"
    )
    folder = run(words, TINY if use_test else HELD_OUT)
    found = measure_checkpoint(folder / "checkpoint-1.pt")
    expected = arrays(folder)
    assert found["train_loss"] == pytest.approx(expected["train-tm loss"][1], rel=1e-5)
    wrong = (297 if use_test else 150) * found["test_error"]
    assert wrong == pytest.approx(round(wrong), abs=1e-6)
