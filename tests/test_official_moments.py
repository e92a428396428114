"""Momentum and Adam's moments of a checkpoint go on as they would where they were saved."""

import ast
import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import models
from training.trainer import Recipe, Trainer

GPU = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
OPTIMIZERS = {"sgd": {"momentum": 0.9, "weight_decay": 1e-3}, "adam": {"weight_decay": 1e-3}}


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 3, 32, 32, generator=generator), torch.arange(16) % 10


def groups_of(model, grouped):
    if not grouped:
        return list(model.parameters())
    invariant, others = models.split_parameters(model)
    groups = [{"params": invariant}, {"params": others}]
    return groups[::-1] if grouped == "others first" else groups


def plain_step(model, optimizer, seed):
    x, y = batch(seed)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def saved_run(name, optimizer, layout, grouped=False, width=8):
    """A network after three plain steps, and the checkpoint of it."""
    torch.manual_seed(3)
    model = models.build(name, 10, width).to(memory_format=LAYOUTS[layout])
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    steps = kind(groups_of(model, grouped), lr=np.float64(0.01), foreach=False,
                 **OPTIMIZERS[optimizer])  # fmt: skip
    for seed in range(3):
        plain_step(model, steps, seed)
    content = {"epoch": 1, "state_dict": model.state_dict(), "optimizer": steps.state_dict()}
    return model, steps, copy.deepcopy(content)


def continued(name, content, layout, recipe, width=8, device="cpu"):
    """The network after one step of this project's trainer from the checkpoint."""
    model = models.build(name, 10, width)
    model.load_state_dict(content["state_dict"])
    model.to(device, memory_format=LAYOUTS[layout]).train()
    trainer = Trainer(model, recipe, 16, torch.device(device))
    trainer.load_moments(content)
    x, y = (tensor.to(device) for tensor in batch(3))
    trainer.step(x.contiguous(memory_format=LAYOUTS[layout]), y)
    return model.cpu()


def cosine(before, one, two):
    """The smallest cosine, over the weights, of the changes from `before` to two networks."""
    changes = zip(one.named_parameters(), two.parameters(), strict=True)
    return min(
        F.cosine_similarity((a - before[n]).flatten(), (b - before[n]).flatten(), 0, 0).item()
        for (n, a), b in changes
    )


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("run_layout", list(LAYOUTS))
@pytest.mark.parametrize("saved_layout", [*LAYOUTS, "transposed", "float64"])
@pytest.mark.parametrize("name", ["ConvNetSIAf", "ResNet18SI"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_moments_of_every_layout(device, name, saved_layout, run_layout, optimizer):
    width = 8 if name == "ConvNetSIAf" else 2
    layout = saved_layout if saved_layout in LAYOUTS else "contiguous"
    model, steps, content = saved_run(name, optimizer, layout, width=width)
    for state in content["optimizer"]["state"].values():
        for key in state.keys() - {"step"}:
            if saved_layout == "transposed" and state[key].ndim > 1:
                state[key] = state[key].transpose(0, 1).contiguous().transpose(0, 1)
            if saved_layout == "float64":
                state[key] = state[key].double()
    plain_step(model, steps, 3)
    recipe = Recipe(lr=0.01, wd=1e-3, optimizer=optimizer, momentum=0.9)
    own = continued(name, content, run_layout, recipe, width, device)
    assert cosine(content["state_dict"], model, own) > 0.999


@pytest.mark.parametrize("name", ["ConvNetSIAf", "ResNet18SIAf"])
@pytest.mark.parametrize("grouped", [False, True, "others first"])
def test_moments_of_weights_grouped_otherwise(name, grouped):
    """The official code groups by --noninvlr too; a branch may change it."""
    model, steps, content = saved_run(name, "sgd", "contiguous", grouped, 2)
    plain_step(model, steps, 3)
    recipe = Recipe(lr=0.01, wd=1e-3, momentum=0.9, other_lr=None if grouped else 0.01)
    own = continued(name, content, "contiguous", recipe, 2)
    assert cosine(content["state_dict"], model, own) > 0.999


def test_a_buffer_that_is_not_there_yet_starts_at_zero(capsys):
    _, steps, content = saved_run("ConvNetSI", "sgd", "contiguous")
    content["optimizer"]["state"][0]["momentum_buffer"] = None
    del content["optimizer"]["state"][1]
    recipe = Recipe(lr=0.01, momentum=0.9)
    own = continued("ConvNetSI", content, "channels_last", recipe)
    assert f"2 of {len(steps.state)} weights have no moments" in capsys.readouterr().out
    model = models.build("ConvNetSI", 10, 8)
    model.load_state_dict(content["state_dict"])
    x, y = batch(3)
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    for i, (weight, gradient) in enumerate(zip(model.parameters(), gradients, strict=True)):
        old = steps.state[list(steps.state)[i]]["momentum_buffer"] if i > 1 else 0
        with torch.no_grad():
            weight -= 0.01 * (gradient + 0.9 * old)
    assert cosine(content["state_dict"], model, own) > 0.999


@pytest.mark.parametrize("optimizer, saved, message", [
    ("adam", "sgd", "no moments of this optimiser"),
    ("sgd", "adam", "no moments of this optimiser"),
    ("sgd", "another width", "other shapes"),
    ("sgd", "a number", "other shapes"),
    ("sgd", "nothing", "no moments of this optimiser"),
    ("sgd", "3", "no moments of this optimiser"),
    ("sgd", "[{}, {}]", "no moments of this optimiser"),
    ("sgd", "{'state': {}}", "no moments of this optimiser"),
    ("sgd", "{'state': {0: 1}, 'param_groups': [{'params': [0]}]}", "no moments of this optimiser"),
])  # fmt: skip
def test_moments_that_cannot_be_taken_over_are_said(optimizer, saved, message, capsys):
    kind = saved if saved in OPTIMIZERS else "sgd"
    _, _, content = saved_run("ConvNetSI", kind, "contiguous", width=4)
    if saved == "another width":
        content["optimizer"] = saved_run("ConvNetSI", "sgd", "contiguous", width=2)[2]["optimizer"]
    if saved == "a number":
        content["optimizer"]["state"][0]["momentum_buffer"] = 0.5
    if saved[0] in "3[{":
        content["optimizer"] = ast.literal_eval(saved)
    if saved == "nothing":
        content["optimizer"] = None
    recipe = Recipe(lr=0.01, optimizer=optimizer, momentum=0.9)
    own = continued("ConvNetSI", content, "contiguous", recipe, 4)
    assert message in capsys.readouterr().out
    assert all(torch.isfinite(p).all() for p in own.parameters())
    fresh = continued(
        "ConvNetSI", {**content, "epoch": 0, "optimizer": {}}, "contiguous", recipe, 4
    )
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), fresh.parameters(), strict=True))
