"""Networks and images of one's own, from train.py to test.py and the metrics."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import models
import runs
import test as measuring_script
import train
from measuring.rebuild import rebuild
from options import Model

NETS = """
from torch import nn

def small(num_classes, num_channels=4):
    return nn.Sequential(
        nn.Conv2d(3, num_channels, 3, stride=4), nn.GroupNorm(2, num_channels), nn.ReLU(),
        nn.Conv2d(num_channels, num_channels, 3, stride=2, bias=False),
        nn.BatchNorm2d(num_channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(num_channels, num_classes),
    )

def published(num_classes, num_channels=64, depth=3):
    import models, options
    return models.build(options.Model("ConvNetSI", num_channels, depth), num_classes)

def two(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(10), nn.Flatten(), nn.Linear(36, 9),
        nn.Linear(9, num_classes),
    )

def plain(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))

def vectors(num_classes):
    return nn.Linear(7, num_classes)

def wide(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes + 1))

def number(num_classes):
    return num_classes

def needs_more(num_classes, secret):
    return nn.Linear(2, num_classes)
"""
TINY = (
    "--dataset Digits --use_data_size 100 --batch_size 50 --num_channels 6 --noninvlr 0 --gpu -1 "
    "--init_scale 10 --lr_init 0.1 --wd 0.01 --momentum 0 --epochs 2 --use_test --noaug "
    "--no_schedule --save_freq 1"
)


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def start(tmp_path, words):
    train.main(f"--dir {tmp_path}/run {words}".split())
    return runs.trial_folder(tmp_path / "run", 0)


def test_a_network_of_ones_own_is_trained_and_measured(tmp_path, nets, capsys):
    folder = start(tmp_path, f"{TINY} --model {nets}:small --fix_si_pnorm --metrics")
    config = runs.read_config(folder)
    assert config["si_weights"] == ["0.weight", "3.weight"]
    said = capsys.readouterr().out
    assert "small: 486 scale-invariant weights in 2 tensors: 0.weight, 3.weight" in said
    assert "note: 0.weight: invariant only together with biases or scales" in said
    weights = [torch.load(p)["state_dict"] for p in runs.checkpoints_in(folder).values()]
    norms = [models.norm(w[n] for n in config["si_weights"]).item() for w in weights]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)  # by --fix_si_pnorm
    assert torch.equal(weights[0]["1.weight"], weights[-1]["1.weight"])  # by --noninvlr 0
    assert weights[0]["8.weight"].norm() == pytest.approx(10)  # by --init_scale
    assert weights[0]["0.weight"].shape[0] == 6
    with np.load(folder / "train-tm-prebn.npz") as measured:
        assert measured["params_norm"] == pytest.approx(norms, rel=1e-5)
    # test.py and the notebook's functions know it from the run
    measuring_script.main(
        f"--models_dir {folder} --train_mode --prebn_only --save_path {tmp_path}/again".split()
    )
    with np.load(tmp_path / "again.npz") as again:
        assert again["params_norm"] == pytest.approx(norms, rel=1e-5)
    model, _, _ = rebuild(runs.Run(folder, config))
    assert list(models.si_parameters(model)) == config["si_weights"]
    json.dumps(config)


def test_a_network_of_ones_own_is_trained_as_the_same_one_of_the_papers(tmp_path, nets):
    last = []
    for name in ("ConvNetSI", f"{nets}:published"):
        folder = start(tmp_path / name[-5:], f"{TINY} --depth 2 --momentum 0.9 --model {name}")
        last.append(torch.load(folder / "checkpoint-2.pt")["state_dict"])
    assert last[0].keys() == last[1].keys() and len(last[0]) > 10
    assert all(torch.equal(last[0][key], last[1][key]) for key in last[0])


def test_the_last_linear_layer_is_the_one_that_is_scaled(nets):
    model = models.build(Model(f"{nets}:two", init_scale=7.0), 10)
    assert model[5].weight.norm().item() == pytest.approx(7)
    assert model[4].weight.norm().item() != pytest.approx(7)


def test_what_lies_beside_a_networks_file_can_be_imported(tmp_path):
    (tmp_path / "its_parts.py").write_text("from torch.nn import Linear as Part")
    (tmp_path / "net.py").write_text(
        "from its_parts import Part\ndef net(num_classes): return Part(2, num_classes)"
    )
    before = sys.path.copy()
    assert models.own.make(f"{tmp_path}/net.py:net", num_classes=3).out_features == 3
    assert sys.path == before


def test_a_package_is_as_good_as_a_file(tmp_path):
    model = models.build(Model("torchvision.models:squeezenet1_1"), 10)
    assert model.num_classes == 10


def images(folder, size, count=6):
    random = np.random.RandomState(0)
    for split in ("train", "test"):
        for label in "ab":
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.randint(256, size=(*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")


def test_images_of_any_one_size(tmp_path, nets):
    images(tmp_path / "data", (20, 28))
    words = TINY.replace("Digits --use_data_size 100", f"ImageFolder --data_path {tmp_path}/data")
    words = words.replace("--noaug", "")
    folder = start(tmp_path, f"{words} --model {nets}:small")
    assert len(runs.read_log(folder)) == 2


def error(tmp_path, words, capsys):
    with pytest.raises(SystemExit) as stop:
        start(tmp_path, words)
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and shown.count("\n") == 1
    return shown


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("plain", "has no scale-invariant weights"),
        ("vectors", "does not take images of shape 2 x 3 x 32 x 32"),
        ("wide", r"gives (2, 11) for images"),
        ("number", "gives a int, not a network"),
        ("needs_more", "fails when called with num_classes=10"),
        ("nothing", "no function nothing"),
    ],
)
def test_what_is_wrong_with_a_network_is_said_in_a_line(tmp_path, nets, capsys, function, message):
    assert message in error(tmp_path, f"{TINY} --model {nets}:{function}", capsys)


def test_what_is_wrong_with_images_is_said_in_a_line(tmp_path, capsys):
    images(tmp_path / "data", (20, 28))
    words = TINY.replace("Digits --use_data_size 100", f"ImageFolder --data_path {tmp_path}/data")
    shown = error(tmp_path, f"{words} --model ConvNetSI", capsys)
    assert "takes images of 32 x 32, these have 20 x 28" in shown
    Image.new("RGB", (30, 28)).save(tmp_path / "data" / "train" / "a" / "odd.png")
    assert "all images must have the same size" in error(tmp_path, words, capsys)
