"""Scale invariance as the property it is, and the parameter names that checkpoints rely on."""

import random
from collections import defaultdict

import numpy as np
import pytest
import reference
import torch
from torch.nn import functional as F

import models
import options
from options import Model
from runs import checkpoints
from utils import UserError

NETWORKS = [
    *[("ConvNetSI", *size, "batch") for size in ((1, 3), (2, 1), (4, 2), (3, 5), (2, 7))],
    ("ConvNetSIAf", 4, 3, "batch"), ("ResNet18SI", 4, 3, "batch"), ("ResNet18SIAf", 2, 3, "batch"),
    *[(name, 4, 3, norm) for name in models.MODELS for norm in models.NORMS if norm != "batch"],
]  # fmt: skip


def make(name, width, depth=3, norm="batch", classes=10):
    torch.manual_seed(0)
    return models.build(Model(name, width, depth, norm=norm), classes).train()


def batch(size=32):
    torch.manual_seed(1)
    return torch.randn(size, 3, 32, 32), torch.randint(10, (size,))


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_si_weights_and_no_other_kind_of_parameter_are_scale_invariant(network):
    """And so the gradient is orthogonal to the SI weights."""
    model, (x, y) = make(*network), batch()
    si, kinds = models.si_parameters(model), defaultdict(list)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key not in si:
                kinds[key.split(".")[-1], weight.ndim].append(weight)
                weight.add_(torch.randn_like(weight))  # with zero shifts, even scales would be
    weights, before = list(si.values()), model(x)
    gradients = torch.autograd.grad(F.cross_entropy(before, y), weights)
    inner = sum((w * g).sum() for w, g in zip(weights, gradients, strict=True))
    assert abs(inner / models.norm(weights) / models.norm(gradients)) < 1e-4

    @torch.no_grad()
    def change(scaled, factor):
        torch._foreach_mul_(scaled, factor)
        after = model(x)
        torch._foreach_div_(scaled, factor)
        return (after - before).norm() / before.norm()

    assert max(change(weights, 0.01), change(weights, 100)) < 1e-4
    for kind, others in kinds.items():
        assert change(others, 2) > 1e-3, kind


@pytest.mark.parametrize("name", list(models.MODELS))
@pytest.mark.parametrize(
    "norm, size", [("batch", 1), ("instance", 1), ("weight", 1), ("group", 4), ("layer", None)]
)
def test_what_may_be_scaled_on_its_own(name, norm, size):
    """Each `size` filters of a layer (None: all), in the ResNet inside the blocks; nothing less."""
    for together in {size, 1}:
        model, (x, _) = make(name, 4, norm=norm), batch()
        before = model(x)
        for key, weight in models.si_parameters(model).items():
            if name.startswith("ConvNet") or norm == "weight" or ".conv1" in key:
                count = together or len(weight)
                factors = 10 ** (2 * torch.rand(len(weight) // count) - 1)
                weight.data.mul_(factors.repeat_interleave(count).view(-1, 1, 1, 1))
        change = (model(x) - before).norm() / before.norm()
        assert change < 1e-4 if together == size else change > 1e-2


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_a_network_is_the_plain_one(network):
    """Names and shapes are the official ones, outputs and statistics those of `reference`."""
    name, width, depth, norm = network
    model, (x, _) = make(*network, classes=7), batch()
    with torch.no_grad():  # as after some training: no two normalisations are alike
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) / 4)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes == reference.shapes(name, width, 7, depth, norm)
    assert list(models.si_parameters(model)) == reference.invariant(model.state_dict())
    for train in (True, False):
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with torch.no_grad():
            expected, found = reference.Network(state, train, norm, depth)(x), model.train(train)(x)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        for key, tensor in model.state_dict().items():
            assert torch.allclose(tensor, state[key], rtol=1e-4, atol=1e-5), key


def test_every_normalisation_starts_from_the_same_si_weights():
    networks = (make("ConvNetSI", 4, norm=norm) for norm in models.NORMS)
    first, *others = (list(models.si_parameters(network).values()) for network in networks)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_every_declared_name_is_built():
    assert tuple(models.MODELS) == options.MODEL_NAMES
    assert models.NORMS == options.NORM_NAMES
    with pytest.raises(UserError, match="did you mean batch"):
        Model("ConvNetSI", norm="batsch")


def test_norm_is_that_of_one_long_vector():
    """Of millions of weights too, where a float32 sum of squares would be off."""
    for size, value in (((3, 5), 2.0), ((1000, 1000), 0.1)):
        tensors = [torch.full(size, value), torch.full((10,), 1e-4)]
        expected = sum(t.double().square().sum() for t in tensors).sqrt().item()
        assert models.norm(tensors).item() == pytest.approx(expected, rel=1e-9)


def test_weights_of_several_types_are_rescaled_in_their_direction():
    """Complex ones keep their phases; a factor is not rounded as the first weight is."""
    types = torch.bfloat16, torch.float32, torch.complex64
    weights = [torch.randn(8, 5000 // 10**k, dtype=dtype) for k, dtype in enumerate(types)]
    before = [w.clone() for w in weights]
    factor = 11 / sum(w.abs().double().square().sum() for w in weights).sqrt()
    models.rescale_to_norm(weights, 11.0)
    for now, old in zip(weights, before, strict=True):
        precision = 8 * torch.finfo(old.dtype).eps
        assert torch.allclose(now, old * factor.to(old.dtype), rtol=precision, atol=0)
    assert models.norm(weights).item() == pytest.approx(11, rel=1e-4)
    models.rescale_filters(weights[1:], 2.0)
    assert models.norm(weights[1:]).item() == pytest.approx(2, rel=1e-6)
    assert torch.allclose(weights[2].angle(), before[2].angle())


@pytest.mark.parametrize("same_last_layer", [True, False])
@pytest.mark.parametrize("name", list(models.MODELS))
def test_the_last_layer_has_the_norm_asked_for_and_keeps_its_direction(name, same_last_layer):
    def last(**options):
        torch.manual_seed(0)
        model = models.build(Model(name, 2, same_last_layer=same_last_layer, **options), 10)
        return [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]

    plain, scaled = last(), last(init_scale=10.0)
    assert torch.equal(plain.weight, last(init_scale=-1.0).weight)
    assert scaled.weight.norm().item() == pytest.approx(10, rel=1e-6)
    assert torch.allclose(scaled.weight / 10, plain.weight / plain.weight.norm())
    assert scaled.bias is None or torch.equal(scaled.bias, plain.bias)


@pytest.mark.parametrize("official", ["same_init", "same_last_layer"])
def test_official_seeds_leave_the_generators_as_they_were(official):
    """Where only the last layer is drawn from a seed, the other layers have been drawn before."""
    drawn = []
    for asked in (False, True):
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        if asked or official == "same_last_layer":
            models.build(Model("ConvNetSI", 2, **{official: asked}), 10)
        drawn.append((torch.rand(3).tolist(), np.random.rand(), random.random()))
    assert drawn[0] == drawn[1]


def test_weight_normalisation_is_pytorchs_with_the_lengths_of_the_filters_frozen():
    """As in P2's official code: at their initial values, whatever becomes of the weights."""
    own = make("ConvNetSI", 4, norm="weight").conv_layers[3]
    v, theirs = own.parametrizations.weight.original, torch.nn.Conv2d(4, 8, 3, bias=False)
    assert torch.allclose(own.weight, v, rtol=1e-6)  # before training it changes nothing
    theirs.weight.data.copy_(own.weight)
    theirs = torch.nn.utils.parametrizations.weight_norm(theirs)
    lengths = own.weight.detach().flatten(1).norm(dim=1)
    with torch.no_grad():
        v.add_(torch.randn_like(v)).mul_(0.1)
        theirs.parametrizations.weight.original1.copy_(v)
    assert torch.allclose(own.weight, theirs.weight, atol=1e-6)
    assert torch.allclose(own.weight.flatten(1).norm(dim=1), lengths, rtol=1e-5)
    assert [n for n, _ in own.named_parameters()] == ["parametrizations.weight.original"]


def test_a_checkpoint_of_the_former_weight_normalisation_is_refused_by_name():
    """Its filters had a length of √2, which no file holds."""
    model = make("ConvNetSI", 4, norm="weight")
    state = {k: v for k, v in model.state_dict().items() if not k.endswith(".0.g")}
    with pytest.raises(UserError, match=r"every filter has length √2.*train it again"):
        checkpoints.load_weights(model, {"state_dict": state}, "old.pt")
