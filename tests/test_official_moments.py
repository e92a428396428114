"""Momentum and Adam's moments of a checkpoint continue as they would have where they were saved."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from conftest import load_images, state_of
from torch.nn import functional as F

import models
import train
from options import Model

GPU = pytest.param(0, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WORDS = {"sgd": "--momentum 0.9", "adam": "--optimizer adam"}


class Official:
    """A network trained by PyTorch alone for three steps, and the checkpoint of it."""

    def __init__(self, path, name="ConvNetSIAf", width=4, kind="sgd", layout="contiguous",
                 groups="one"):  # fmt: skip
        torch.manual_seed(3)
        self.name, self.width, self.path, self.words = name, width, path, WORDS[kind]
        self.model = models.build(Model(name, width, norm_eps=1e-5), 10)
        self.model.to(memory_format=LAYOUTS.get(layout, torch.contiguous_format))
        weights = list(self.model.parameters())
        parts = [p for p in weights if p.ndim == 4], [p for p in weights if p.ndim < 4]
        parts = {"one": (weights,), "two": parts, "others first": parts[::-1]}[groups]
        shared = {"lr": np.float64(0.01), "weight_decay": 1e-3, "foreach": False}
        if kind == "sgd":
            shared["momentum"] = 0.9
        make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind]
        self.optimizer = make([{"params": part} for part in parts], **shared)
        images, _ = load_images("Digits", use_test=True, use_data_size=16)
        self.batch = images.normalise(images.images), images.labels
        for _ in range(3):
            self.step()
        self.content = copy.deepcopy({"epoch": 1, "state_dict": self.model.state_dict(),
                                      "optimizer": self.optimizer.state_dict()})  # fmt: skip

    def step(self):
        x, y = self.batch
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()

    def continued(self, extra="", gpu=-1):
        """The weights after one step of a branch off the checkpoint."""
        folder = self.path / "trial_0"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.content, folder / "checkpoint-1.pt")
        train.main(
            f"--dir {self.path} --dataset Digits --use_test --use_data_size 16 --batch_size 16 "
            f"--model {self.name} --num_channels {self.width} --lr_init 0.01 --wd 0.001 --noaug "
            f"--no_schedule --epochs 1 --resume_epoch 1 --overwrite --gpu {gpu} "
            f"{self.words} {extra}".split()
        )
        return state_of(next(folder.glob("branch-1*")), 2)

    def assert_goes_on_to(self, found):
        """Every weight has changed in the direction of a plain step."""
        before = self.content["state_dict"]
        self.step()
        for name, weight in self.model.named_parameters():
            one, other = (w.detach().flatten() - before[name].flatten()
                          for w in (found[name], weight))  # fmt: skip
            assert F.cosine_similarity(one, other, 0, 0) > 0.999, name


@pytest.mark.parametrize("name, width, kind", [
    ("ConvNetSIAf", 8, "sgd"), ("ConvNetSIAf", 4, "sgd"), ("ResNet18SIAf", 8, "adam"),
])  # fmt: skip
@pytest.mark.parametrize("layout", [*LAYOUTS, "transposed", "float64"])
@pytest.mark.parametrize("gpu", [-1, GPU])
def test_moments_of_every_layout(tmp_path, gpu, name, width, layout, kind):
    """On a CPU the weights lie in channels_last from width 8 on."""
    official = Official(tmp_path, name, width, kind, layout)
    for state in official.content["optimizer"]["state"].values():
        for key in state.keys() - {"step"}:
            if layout == "transposed" and state[key].ndim > 1:
                state[key] = state[key].transpose(0, 1).contiguous().transpose(0, 1)
            if layout == "float64":
                state[key] = state[key].double()
    official.assert_goes_on_to(official.continued(gpu=gpu))


@pytest.mark.parametrize("name", ["ConvNetSIAf", "ResNet18SIAf"])
@pytest.mark.parametrize("groups, extra", [
    ("one", "--noninvlr 0.01"), ("two", ""), ("others first", ""),
])  # fmt: skip
def test_moments_of_weights_in_other_groups(tmp_path, name, groups, extra):
    """The official code groups by --noninvlr too; a branch may change it."""
    official = Official(tmp_path, name, 2, groups=groups)
    official.assert_goes_on_to(official.continued(extra))


def test_a_buffer_that_is_not_there_yet_starts_at_zero(tmp_path, capsys):
    official = Official(tmp_path)
    states = official.content["optimizer"]["state"]
    states[0]["momentum_buffer"] = None
    del states[1]
    found = official.continued()
    assert f"2 of {len(states) + 1} weights have no moments" in capsys.readouterr().out
    for weight in [*official.model.parameters()][:2]:
        official.optimizer.state[weight]["momentum_buffer"].zero_()
    official.assert_goes_on_to(found)


NONE, SHAPES = "no moments of this optimiser", "other shapes"


def of_numbers(*states):
    """An optimiser's state of 14 weights, of which the first have these."""
    return {"state": dict(enumerate(states)), "param_groups": [{"params": [*range(14)]}]}


@pytest.mark.parametrize("kind, saved, message", [
    ("adam", partial(Official, kind="sgd"), NONE), ("sgd", partial(Official, kind="adam"), NONE),
    ("sgd", partial(Official, width=2), SHAPES), ("sgd", None, NONE), ("sgd", 3, NONE),
    ("sgd", [{}, {}], NONE), ("sgd", {"state": {}}, NONE), ("sgd", of_numbers(1), NONE),
    ("sgd", of_numbers({"momentum_buffer": 0.5}), SHAPES),
])  # fmt: skip
def test_moments_that_do_not_fit_are_named(tmp_path, kind, saved, message, capsys):
    official = Official(tmp_path, kind=kind)
    saved = saved(tmp_path).content["optimizer"] if callable(saved) else saved
    official.content["optimizer"] = saved
    found = official.continued()
    assert message in capsys.readouterr().out
    official.content |= {"epoch": 0, "optimizer": {}}
    fresh = official.continued()
    assert all(torch.equal(found[k], fresh[k]) for k in found)
