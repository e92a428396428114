"""Momentum and Adam's moments of a checkpoint continue as they would have where they were saved."""

import ast
import copy

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
SGD, ADAM = "--momentum 0.9", "--optimizer adam"


class Official:
    """A network trained by PyTorch alone for three steps, and the checkpoint of it."""

    def __init__(self, path, name="ConvNetSIAf", width=8, kind="sgd", layout="contiguous",
                 grouped=False):  # fmt: skip
        torch.manual_seed(3)
        self.name, self.width, self.path = name, width, path
        self.model = models.build(Model(name, width, norm_eps=1e-5), 10).to(
            memory_format=LAYOUTS[layout]
        )
        groups = list(self.model.parameters())
        if grouped:
            parts = [p for p in groups if p.ndim == 4], [p for p in groups if p.ndim < 4]
            groups = [{"params": part} for part in parts]
            groups = groups[::-1] if grouped == "others first" else groups
        shared = {"lr": np.float64(0.01), "weight_decay": 1e-3, "foreach": False}
        if kind == "sgd":
            self.optimizer = torch.optim.SGD(groups, momentum=0.9, **shared)
        else:
            self.optimizer = torch.optim.Adam(groups, **shared)
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

    def continued(self, words=SGD, gpu=-1):
        """The weights after one step of a branch off the checkpoint."""
        folder = self.path / "trial_0"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.content, folder / "checkpoint-1.pt")
        train.main(
            f"--dir {self.path} --dataset Digits --use_test --use_data_size 16 --batch_size 16 "
            f"--model {self.name} --num_channels {self.width} --lr_init 0.01 --wd 0.001 --noaug "
            f"--no_schedule --epochs 1 --resume_epoch 1 --overwrite --gpu {gpu} {words}".split()
        )
        return state_of(next(folder.glob("branch-1*")), 2)

    def cosine(self, found):
        """The smallest cosine, over the weights, of the changes to `found` and by a plain step."""
        before = self.content["state_dict"]
        self.step()
        changes = (
            ((found[n] - before[n]).flatten(), (p.detach() - before[n]).flatten())
            for n, p in self.model.named_parameters()
        )
        return min(F.cosine_similarity(one, other, 0, 0).item() for one, other in changes)


@pytest.mark.parametrize("name, width, kind", [
    ("ConvNetSIAf", 8, "sgd"), ("ConvNetSIAf", 8, "adam"), ("ConvNetSIAf", 4, "sgd"),
    ("ResNet18SI", 8, "adam"),
])  # fmt: skip
@pytest.mark.parametrize("saved_layout", [*LAYOUTS, "transposed", "float64"])
@pytest.mark.parametrize("gpu", [-1, GPU])
def test_moments_of_every_layout(tmp_path, gpu, name, width, saved_layout, kind):
    """On a CPU the weights lie in channels_last from width 8 on."""
    layout = saved_layout if saved_layout in LAYOUTS else "contiguous"
    official = Official(tmp_path, name, width, kind, layout)
    for state in official.content["optimizer"]["state"].values():
        for key in state.keys() - {"step"}:
            if saved_layout == "transposed" and state[key].ndim > 1:
                state[key] = state[key].transpose(0, 1).contiguous().transpose(0, 1)
            if saved_layout == "float64":
                state[key] = state[key].double()
    found = official.continued(SGD if kind == "sgd" else ADAM, gpu)
    assert official.cosine(found) > 0.999


@pytest.mark.parametrize("name", ["ConvNetSIAf", "ResNet18SIAf"])
@pytest.mark.parametrize("grouped", [False, True, "others first"])
def test_moments_of_weights_in_other_groups(tmp_path, name, grouped):
    """The official code groups by --noninvlr too; a branch may change it."""
    official = Official(tmp_path, name, 2, grouped=grouped)
    found = official.continued(SGD if grouped else f"{SGD} --noninvlr 0.01")
    assert official.cosine(found) > 0.999


def test_a_buffer_that_is_not_there_yet_starts_at_zero(tmp_path, capsys):
    official = Official(tmp_path, "ConvNetSI")
    states = official.content["optimizer"]["state"]
    states[0]["momentum_buffer"] = None
    del states[1]
    found = official.continued()
    assert f"2 of {len(states) + 1} weights have no moments" in capsys.readouterr().out
    for number, weight in enumerate(official.model.parameters()):
        if number < 2:
            official.optimizer.state[weight]["momentum_buffer"].zero_()
    assert official.cosine(found) > 0.999


@pytest.mark.parametrize("words, saved, message", [
    (ADAM, "sgd", "no moments of this optimiser"), (SGD, "adam", "no moments of this optimiser"),
    (SGD, "another width", "other shapes"), (SGD, "a number", "other shapes"),
    *((SGD, content, "no moments of this optimiser") for content in (
        "None", "3", "[{}, {}]", "{'state': {}}",
        "{'state': {0: 1}, 'param_groups': [{'params': [0]}]}",
    )),
])  # fmt: skip
def test_moments_that_do_not_fit_are_named(tmp_path, words, saved, message, capsys):
    official = Official(tmp_path, "ConvNetSI", 4, "adam" if saved == "adam" else "sgd")
    if saved == "another width":
        official.content["optimizer"] = Official(tmp_path, "ConvNetSI", 2).content["optimizer"]
    elif saved == "a number":
        official.content["optimizer"]["state"][0]["momentum_buffer"] = 0.5
    elif saved not in ("sgd", "adam"):
        official.content["optimizer"] = ast.literal_eval(saved)
    found = official.continued(words)
    assert message in capsys.readouterr().out
    official.content |= {"epoch": 0, "optimizer": {}}
    fresh = official.continued(words)
    assert all(torch.equal(found[k], fresh[k]) for k in found)
