"""Networks and images of one's own, from train.py to test.py and the metrics."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import measure, state_of
from PIL import Image

import models
import runs
import train
from measuring.rebuild import rebuild
from options import Model

NETS = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Size:
    width: int = 4

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

def body(num_classes, lazy=False):
    conv, norm = nn.Conv2d(3, 4, 3, 4, bias=False), nn.BatchNorm2d(4)
    linear = nn.Linear(4, num_classes)
    if lazy:
        conv, norm = nn.LazyConv2d(4, 3, 4, bias=False), nn.LazyBatchNorm2d()
        linear = nn.LazyLinear(num_classes)
    more = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(conv, norm, nn.ReLU(), *more, nn.Flatten(), linear)

def frozen(num_classes, *layers):
    network = body(num_classes)
    for layer in layers:
        network[layer].requires_grad_(False)
    return network

def alike(num_classes):  # a convolution that is not scale invariant, and one of its shape that is
    conv = lambda: nn.Conv2d(3, 3, 3, padding=1, bias=False)
    norm, flat = nn.BatchNorm2d(3, affine=False), (nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(conv(), nn.Tanh(), conv(), norm, *flat, nn.Linear(48, num_classes))

class Block(nn.Module):  # two groups that share the last convolution
    def __init__(self, num_classes, frozen=False):
        super().__init__()
        self.a, self.b, self.skip = (nn.Conv2d(n, 4, 3, padding=1, bias=False) for n in (3, 4, 3))
        self.b.requires_grad_(not frozen)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(4, num_classes)
    def forward(self, x):
        return self.last(self.norm(self.b(self.a(x).relu()) + self.skip(x)).relu().mean((2, 3)))

def frozen_block(num_classes): return Block(num_classes, frozen=True)

def computed(num_classes):
    last = nn.Linear(3072, num_classes)
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(last))

def endless(num_classes):
    network, outputs = body(num_classes), {}
    outputs["itself"] = outputs
    network.forward = lambda x: outputs
    return network

def two(num_classes): return nn.Sequential(body(9), nn.Linear(9, num_classes))
def plain(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))
def wide(num_classes): return plain(num_classes + 1)
def number(num_classes): return num_classes
def lazy(num_classes): return body(num_classes, lazy=True)
def no_last(num_classes): return frozen(num_classes, 7)
def no_first(num_classes): return frozen(num_classes, 0)
def no_convolution(num_classes): return frozen(num_classes, 0, 3)
def nothing_trained(num_classes): return body(num_classes).requires_grad_(False)
def compiled(num_classes): return torch.compile(body(num_classes))
def parallel(num_classes): return nn.DataParallel(body(num_classes))
def half(num_classes): return body(num_classes).half()
def bare_class(num_classes): return Net
def scripted(num_classes): return torch.jit.script(body(num_classes))
def leaves(num_classes): raise SystemExit("usage")
def vectors_normalised(num_classes):
    return nn.Sequential(*body(4), nn.BatchNorm1d(4), nn.Linear(4, num_classes))

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = body(num_classes)
    def forward(self, x): return self.body(x)

class Dictionary(Net): forward = lambda self, x: {"logits": self.body(x), "epoch": 3}
class Auxiliary(Net): forward = lambda self, x: (self.body(x), self.body(-x))
class Integers(Net): forward = lambda self, x: self.body(x).long()
class NaN(Net): forward = lambda self, x: self.body(x) * (float("nan") if self.training else 1)
class Mask(Net): forward = lambda self, x, mask: self.body(x)
class InPlace(Net): forward = lambda self, x: self.body(x.mul_(2))
class WithoutGradient(Net): forward = lambda self, x: self.body(x).detach()
class State(Net): get_extra_state, set_extra_state = lambda self: {"rate": 1}, lambda self, _: None

class Tuple(Net):
    def forward(self, x):
        features = self.body[0](x)  # not scale invariant
        logits = self.body[1:](features)
        return (logits, features) if self.training else logits

class Unused(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.unused, self.copy = nn.Conv2d(2, 2, 2), self.body

class Precise(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.body[7].double()
    def forward(self, x): return self.body[7](self.body[:7](x).double())

class Shared(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.body.insert(3, nn.Conv2d(4, 4, 3, bias=False))
        self.body.insert(4, nn.BatchNorm2d(4))
        self.body[5].weight = self.body[3].weight

class Buffers(Net):  # the logits depend on one that is not saved and one that is None at first
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("hidden", torch.zeros(1), persistent=False)
        self.register_buffer("late", None)
        self.register_buffer("none", None)
    def forward(self, x):
        logits = self.body(x)
        if self.training:
            size = logits.detach().abs().mean()
            self.hidden = 0.9 * self.hidden + size
            self.late = size if self.late is None else self.late + size
        return logits * (1 + self.hidden + (0 if self.late is None else self.late))
"""
TINY = (
    "--dataset Digits --use_data_size 100 --batch_size 50 --num_channels 6 --noninvlr 0 --gpu -1 "
    "--init_scale 10 --lr_init 0.1 --wd 0.01 --momentum 0 --epochs 2 --use_test --noaug "
    "--no_schedule --save_freq 1"
)


@pytest.fixture(autouse=True)
def folder_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr("models.groups.PATIENCE", 1e9)  # no line of progress, even if it is slow


def start(words, to="run"):
    train.main(f"--dir {to} {words}".split())
    return runs.trial_folder(to, 0)


def test_a_network_of_ones_own_is_trained_and_measured(capsys):
    folder = start(f"{TINY} --model nets.py:small --fix_si_pnorm --metrics")
    config = runs.read_config(folder)
    json.dumps(config)
    assert config["si_weights"] == ["0.weight", "3.weight"]
    said = capsys.readouterr().out
    assert "small: 486 scale-invariant weights in 2 tensors: 0.weight, 3.weight" in said
    assert "note: 0.weight: invariant only together with biases or scales" in said
    weights = [state_of(folder, epoch) for epoch in range(3)]
    norms = [models.norm(w[n] for n in config["si_weights"]).item() for w in weights]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)  # by --fix_si_pnorm
    assert torch.equal(weights[0]["1.weight"], weights[-1]["1.weight"])  # by --noninvlr 0
    assert weights[0]["8.weight"].norm() == pytest.approx(10)  # by --init_scale
    assert weights[0]["0.weight"].shape[0] == 6
    # test.py and the notebook's functions know it from the run
    for measured in (np.load(folder / "train-tm-prebn.npz"),
                     measure(folder, "--train_mode --prebn_only")):  # fmt: skip
        assert measured["params_norm"] == pytest.approx(norms, rel=1e-5)
    model, _, _ = rebuild(runs.Run(folder, config))
    assert list(models.si_parameters(model)) == config["si_weights"]


@pytest.mark.parametrize("names, options", [
    (("ConvNetSI", "nets.py:published"), "--depth 2 --momentum 0.9"),
    (("nets.py:body", "nets.py:compiled"), ""),
])  # fmt: skip
def test_a_network_is_trained_as_the_same_one_of_the_papers_or_compiled(names, options):
    last = [state_of(start(f"{TINY} {options} --model {name}", name[-5:]), 2) for name in names]
    assert last[0].keys() == last[1].keys() and len(last[0]) > 10
    assert all(torch.equal(last[0][key], last[1][key]) for key in last[0])


def test_the_last_linear_layer_is_the_one_that_is_scaled():
    model = models.build(Model("nets.py:two", init_scale=7.0), 10)
    assert model[1].weight.norm().item() == pytest.approx(7)
    assert model[0][7].weight.norm().item() != pytest.approx(7)


def test_a_package_is_as_good_as_a_file_which_may_import_what_lies_beside_it(tmp_path):
    before = sys.path.copy()
    assert models.build(Model("torchvision.models:squeezenet1_1"), 10).num_classes == 10
    (tmp_path / "its_parts.py").write_text("from torch.nn import Linear as Part")
    (tmp_path / "net.py").write_text(
        "from its_parts import Part\ndef net(num_classes): return Part(2, num_classes)"
    )
    (tmp_path / "more.py").write_text("from torch.nn import Linear as More")
    (tmp_path / "late.py").write_text(
        "def net(num_classes):\n from more import More\n return More(2, num_classes)"
    )
    for file in ("net.py", "late.py", "net.py"):
        assert models.own.make(f"{tmp_path}/{file}:net", num_classes=3).out_features == 3
    assert sys.path == [*before, str(tmp_path)]  # last: it hides no module of anybody


def test_images_of_any_one_size(tmp_path, refused):
    random = np.random.RandomState(0)
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(6):
            pixels = random.randint(256, size=(20, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    words = TINY.replace("Digits --use_data_size 100", "ImageFolder --data_path .")
    folder = start(f"{words.replace('--noaug', '')} --model nets.py:small")
    assert len(runs.read_log(folder)) == 2
    shown = refused(start, f"{words} --model ConvNetSI", "none")
    assert "takes images of 32 x 32, these have 20 x 28" in shown
    Image.new("RGB", (30, 28)).save("train/a/odd.png")
    assert "all images must have the same size" in refused(start, words, "none")


@pytest.mark.parametrize("function, message", [
    ("plain", "has no scale-invariant weights"),
    ("wide", r"gives (8, 11) for images"),
    ("number", "gives int, not a network"),
    ("nothing", "no function nothing"),
    ("Auxiliary", "gives a tuple in evaluation mode, with 2 tensors of logits"),
    ("Integers", "gives torch.int64, expected floating-point logits"),
    ("NaN", "gives NaN or infinite logits in train mode"),
    ("Mask", "does not take images of shape 8 x 3 x 32 x 32: TypeError"),
    ("WithoutGradient", "the outputs have no gradient by any weight"),
    ("State", "cannot be resumed from its checkpoints"),
    ("scripted", "torch.jit has compiled the network: give the one it was made from"),
    ("half", "does not take images of shape 8 x 3 x 32 x 32"),
    ("bare_class", "gives the class Net, not a network"),
    ("leaves", "fails when called with num_classes=10: SystemExit: usage"),
    ("nothing_trained", "has no trainable parameters"),
    ("endless", "gives a dict in evaluation mode, with 0 tensors of logits"),
    ("computed --init_scale 10", "computes its weight"),
    ("computed --same_last_layer", "computes its weight"),
    ("no_convolution", "all scale-invariant weights of"),
])  # fmt: skip
def test_what_is_wrong_with_a_network_is_said_in_a_line(refused, function, message):
    words = TINY.replace("--init_scale 10 ", "").replace("--noninvlr 0", "")
    assert message in refused(start, f"{words} --model nets.py:{function}")
    assert not Path("run").exists()


def test_a_last_batch_that_batch_normalisation_refuses(refused):
    words = f"{TINY} --epochs 1 --model nets.py:vectors_normalised"
    shown = refused(start, f"{words} --use_data_size 51")
    assert "cannot be trained on a batch of 1 image (--batch_size 50, 51 training images)" in shown
    shown = refused(measure, start(words), "--train_mode --batch_size 99 --eval_model")
    assert "cannot be measured with these options (--batch_size 99" in shown
    assert not [*Path().rglob("*.npz")]


@pytest.mark.parametrize("function, option", [
    *((name, "") for name in ("Tuple", "Dictionary", "lazy", "InPlace", "Buffers")),
    *itertools.product(("no_last", "Unused", "Precise", "Shared"), ("", "--fbgd")),
])  # fmt: skip
def test_unusual_networks_are_trained_and_measured(function, option):
    words = TINY.replace("--noninvlr 0", option)
    folder = start(f"{words} --epochs 1 --model nets.py:{function} --metrics --trace")
    what = "--train_mode --fisher_trace --hess_trace --calc_grads --calc_l2_init"
    for found in (measure(folder, what), *map(np.load, folder.rglob("*.npz"))):
        for key in {*found} - {"gs_norm"}:
            assert np.isfinite(found[key]).all(), key


@pytest.mark.parametrize("function, weights, note", [
    ("Block", ["b.weight", "skip.weight"], "cannot be scaled together with these: a.weight"),
    ("frozen_block", ["a.weight", "skip.weight"], "not trained, held or recorded: b.weight"),
])  # fmt: skip
def test_weights_are_scale_invariant_together(capsys, function, weights, note):
    folder = start(f"{TINY} --model nets.py:{function}")
    assert runs.read_config(folder)["si_weights"] == weights and note in capsys.readouterr().out
    config = runs.read_config(folder)
    runs.write_config(folder, {**config, "si_weights": weights[:1]})  # of an older version
    start(f"{TINY} --model nets.py:{function} --epochs 3 --resume")
    assert runs.read_config(folder)["si_weights"] == weights[:1]


@pytest.mark.parametrize("function", ["Buffers", "no_last", "lazy", "parallel", "alike"])
def test_unusual_networks_go_on_to_the_bit(function):
    words = f"{TINY} --momentum 0.9 --model nets.py:{function}"
    whole, folder = start(words, "whole"), start(f"{words} --epochs 1")
    start(f"{words} --resume --metrics")
    a, b = (torch.load(path / "checkpoint-2.pt") for path in (whole, folder))
    assert not any("module" in key for key in a["state_dict"])
    for key in {"state_dict", "buffers"} & a.keys():
        assert a[key].keys() == b[key].keys()
        tensors = [(w, b[key][name]) for name, w in a[key].items() if w is not None]
        assert all(torch.equal(one, other) for one, other in tensors)
    assert ("buffers" in a) == (function == "Buffers")


@pytest.mark.parametrize("option", [
    "--fix_si_pnorm --fix_si_pnorm_value 5", "--fix_elr --elr 0.01", "--fix_all_elr --elr 0.01"
])  # fmt: skip
def test_frozen_weights_are_not_rescaled(capsys, option):
    folder = start(f"{TINY} --model nets.py:no_first --trace --metrics {option}")
    assert "note: frozen, so not trained, held or recorded: 0.weight" in capsys.readouterr().out
    assert runs.read_config(folder)["si_weights"] == ["3.weight"]
    first, last = state_of(folder, 0), state_of(folder, 2)
    assert torch.equal(first["0.weight"], last["0.weight"])
    with np.load(folder / "train-tm-prebn.npz") as arrays:
        assert arrays["params_norm"][-1] == pytest.approx(last["3.weight"].norm().item())
    with np.load(folder / "trace" / "epoch-1.npz") as trace:
        assert trace["si_norm"][0] == pytest.approx(first["3.weight"].norm().item())


def test_an_unused_tensor_has_no_curvature_and_no_gradient():
    found = []
    for name in ("Net", "Unused"):
        folder = start(f"{TINY} --use_data_size 20 --epochs 1 --model nets.py:{name}", name)
        found.append(measure(folder, "--train_mode --epochs 0 --hess_evals --calc_grad_norms"))
    for key in ("gnorm_m", "hess_evals"):
        assert found[0][key] == pytest.approx(found[1][key], rel=1e-3)
