"""What is scale invariant in a network, on networks of this project and on others'."""

import dataclasses
import itertools
import types

import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from torchvision.models import swin_transformer, vgg

import models
from options import Model

ALPHA = (0.7, 3.0)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def outputs(model, inputs, scaled=(), factor=1.0):
    """Train-mode outputs in float64 at random weights, with some of the tensors scaled."""
    generator = torch.Generator().manual_seed(7)
    state = {n: b.double() if b.is_floating_point() else b for n, b in model.named_buffers()}
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        weight = p.detach().double() + 0.3 * noise * max(p.detach().std(correction=0), 0.1)
        state[name] = weight * (factor if name in scaled else 1)
    torch.manual_seed(0)  # of dropout and stochastic depth
    for module in model.modules():
        if isinstance(getattr(module, "eps", None), float):
            module.eps = 1e-12
    with torch.no_grad():
        return functional_call(model.train(), state, (inputs.double(),))


def check(model, inputs, groups, without_effect=()):
    """Scaling a group changes nothing, scaling a part of it does; a tensor without effect has none.

    Of a large group the parts that lack one tensor stand for all: a smaller one that were
    invariant would be a group itself.
    """
    before = outputs(model, inputs)

    def change(names, factor):
        return ((outputs(model, inputs, names, factor) - before).norm() / before.norm()).item()

    for group, factor in itertools.product(groups, ALPHA):
        assert change(group, factor) < 1e-7, group
    for group in groups:
        for part in itertools.combinations(group, len(group) - 1):
            assert not part or change(part, 3.0) > 1e-4, (group, part)
    for name in without_effect:
        assert change([name], -5.0) < 1e-7, name


def test_resnet18_has_twenty_convolutions_eight_pairs_and_three_streams():
    model, inputs = torchvision.models.resnet18(), torch.randn(4, 3, 32, 32)
    found = models.scale_invariant_groups(model, inputs)
    convolutions = [n for n, p in model.named_parameters() if p.ndim == 4]
    assert [group for group in found if len(group) == 1] == [(n,) for n in convolutions]
    pairs = [f"layer{layer}.{block}.bn1" for layer in (1, 2, 3, 4) for block in (0, 1)]
    assert [g for g in found if len(g) == 2] == [(f"{p}.weight", f"{p}.bias") for p in pairs]
    streams = [group for group in found if len(group) > 2]
    assert [group[0] for group in streams] == [
        "bn1.weight", "layer2.0.bn2.weight", "layer3.0.bn2.weight"
    ]  # fmt: skip
    assert [len(group) for group in streams] == [6, 6, 6] and found.without_effect == ()
    check(model, inputs, streams[1:2])


def small_vgg():
    model = vgg.VGG(vgg.make_layers([8, "M", 8, "M", 16, "M"], batch_norm=True), num_classes=40)
    model.classifier = nn.Sequential(
        nn.Linear(16 * 49, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 40)
    )
    return model


def small_swin():
    return swin_transformer.SwinTransformer([4, 4], 12, [1, 1], [1, 2], [4, 4], num_classes=40)


@pytest.mark.parametrize(
    ("make", "size", "groups", "inert"),
    [
        # 3 convolutions; the scale and shift between two of them; biases before normalisation
        (small_vgg, 32, 3 + 2, 3),
        # The patches' convolution with its bias; the two residual streams, of which the second
        # starts with two factors in a row and so is a group with either of them
        (small_swin, 32, 1 + 1 + 2, 0),
    ],
)
def test_networks_of_torchvision(make, size, groups, inert):
    model, inputs = make(), torch.randn(4, 3, size, size)
    found = models.scale_invariant_groups(model, inputs)
    assert (len(found), len(found.without_effect)) == (groups, inert)
    check(model, inputs, found.groups, found.without_effect)


@pytest.mark.parametrize("norm", models.NORMS)
@pytest.mark.parametrize("name", ["ConvNetSI", "ConvNetSIAf", "ResNet18SIAf"])
def test_networks_of_the_papers(name, norm):
    model, inputs = models.build(Model(name, 2, depth=2, norm=norm), 40), torch.randn(4, 3, 32, 32)
    found = models.scale_invariant_groups(model, inputs)
    weights = {n for group in found for n in group if model.get_parameter(n).ndim > 1}
    assert weights == set(models.si_parameters(model))
    if name == "ConvNetSI":
        assert all(len(group) == 1 for group in found)
        check(model, inputs, found)


class Odd(nn.Module):
    """Shared weights, a frozen and an unused tensor, zero weights, dropout, a dictionary out."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.shared = nn.Linear(8, 8, bias=False)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.shared.weight
        self.gain = nn.Parameter(torch.zeros(8))
        self.unused = nn.Parameter(torch.ones(3))
        self.last = nn.Linear(8, 4)
        self.first.weight.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, *, shift):
        self.calls += 1
        x = self.norm(self.first(x) + shift)
        x = nn.functional.dropout(self.tied(torch.relu(self.shared(x))), 0.3, self.training)
        x = nn.functional.normalize(x + self.gain * torch.rand(()), dim=1)
        return {"logits": [self.last(x)], "labels": torch.arange(3)}


def test_an_odd_network_is_understood_and_left_as_it_was():
    model = Odd().eval()
    model.norm.train()
    inputs = {"x": torch.randn(16, 6), "shift": torch.tensor(0.0)}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    random = torch.random.get_rng_state()
    found = models.scale_invariant_groups(model, inputs)
    assert found.groups == (("first.weight", "first.bias"),)
    assert found.without_effect == ("unused",)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())
    assert model.norm.eps == 1e-5 and not model.first.weight.requires_grad


def test_balances_and_networks_without_normalisation_give_no_groups():
    inputs = torch.randn(8, 3, 8, 8)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 9)
    )
    assert models.scale_invariant_groups(plain, inputs) == models.ScaleInvariance((), ())
    assert models.scale_invariant_groups(nn.ReLU(), inputs) == models.ScaleInvariance((), ())


def test_two_factors_in_a_row_are_each_a_group_with_what_is_added():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c = nn.Linear(5, 6, bias=False), nn.Linear(6, 7)

        def forward(self, x):
            return nn.functional.layer_norm(self.c(self.a(x)), (7,), eps=0.0)

    found = models.scale_invariant_groups(Product(), torch.randn(9, 5))
    assert found.groups == (("a.weight", "c.bias"), ("c.weight", "c.bias"))


def test_a_network_that_insists_on_float32():
    class Float32(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 5))
            self.scale = nn.Parameter(torch.ones(6))

        def forward(self, x):
            x = torch.mm(x.float(), self.weight.T)
            return self.scale * (x - x.mean(0)) / x.std(0)

    found = models.scale_invariant_groups(Float32(), torch.randn(20, 5))
    assert found.groups == (("weight",),)


def test_outputs_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="no floating-point"):
        models.scale_invariant_groups(nn.Sequential(nn.Linear(2, 2), Argmax()), torch.randn(4, 2))
    with pytest.raises(ValueError, match="not finite"):
        models.scale_invariant_groups(nn.Linear(2, 2), torch.full((4, 2), torch.inf))


class Argmax(nn.Module):
    def forward(self, x):
        return x.argmax(1)


def test_a_filter_of_which_only_the_sign_matters_has_an_effect():
    """One weight for each channel in front of batch normalisation."""
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1, groups=3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 9)
    )
    found = models.scale_invariant_groups(model, torch.randn(8, 3, 4, 4))
    assert found == models.ScaleInvariance((("0.weight",),), ())


def normalised(norm):
    return nn.Sequential(nn.Linear(6, 8, bias=False), norm, nn.ReLU(), nn.Linear(8, 9))


def test_stored_statistics_do_not_make_weights_invariant():
    """The mode is that of each module; batch statistics and other norms do not depend on it."""
    x = torch.randn(16, 6)
    model = normalised(nn.BatchNorm1d(8, affine=False))
    model[1].eval()
    found = models.scale_invariant_groups(model, x)
    assert found.groups == () and found.in_eval == ("1",)
    assert "evaluation mode: 1" in models.group_table(model, found)
    assert models.scale_invariant_groups(model.eval(), x).groups == ()
    assert models.scale_invariant_groups(model.train(), x).groups == (("0.weight",),)
    for norm in (
        nn.BatchNorm1d(8, affine=False, track_running_stats=False),
        nn.LayerNorm(8, elementwise_affine=False),
    ):
        found = models.scale_invariant_groups(normalised(norm).eval(), x)
        assert found.groups == (("0.weight",),)


def test_buffers_that_change_the_outputs_and_large_epsilons_do_not_matter():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return x * self.calls

    model = nn.Sequential(normalised(nn.BatchNorm1d(8, eps=0.1, affine=False)), Counting())
    found = models.scale_invariant_groups(model, torch.randn(16, 6))
    assert found == models.ScaleInvariance((("0.0.weight",),), ())
    assert model[1].calls == 0 and model[0][1].eps == 0.1


class RMSNorm(nn.Module):
    """As large language models have it: computed in another precision."""

    def __init__(self, width, dtype):
        super().__init__()
        self.weight, self.dtype = nn.Parameter(torch.ones(width)), dtype

    def forward(self, x):
        h = x.to(self.dtype)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)


class Attention(nn.Module):
    def __init__(self, width, norm):
        super().__init__()
        self.norm, self.query_norm, self.key_norm = (norm(width) for _ in range(3))
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k = self.query_norm(self.q(h)), self.key_norm(self.k(h))
        return x + self.out(nn.functional.scaled_dot_product_attention(q, k, self.v(h)))


class Transformer(nn.Module):
    """Two blocks, pre-norm, with q and k norms; under autocast and checkpoints on request."""

    def __init__(self, norm, autocast=False, checkpoint=None):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Attention(8, norm) for _ in range(2))
        self.norm, self.head = norm(8), nn.Linear(8, 11, bias=False)
        self.autocast, self.checkpoint = autocast, checkpoint

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            x = self.embedding(x)
            for block in self.blocks:
                if self.checkpoint is None:
                    x = block(x)
                else:
                    x = checkpoint(block, x, use_reentrant=self.checkpoint)
            return self.head(self.norm(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Transformer(nn.RMSNorm),
        lambda: Transformer(lambda width: RMSNorm(width, torch.float32)),
        lambda: Transformer(lambda width: RMSNorm(width, torch.bfloat16)),
        lambda: Transformer(lambda width: RMSNorm(width, torch.float16)),
        lambda: Transformer(nn.RMSNorm).bfloat16(),
        lambda: Transformer(nn.RMSNorm, autocast=True),
        lambda: Transformer(nn.RMSNorm, checkpoint=False),
        lambda: Transformer(nn.RMSNorm, checkpoint=True),
    ],
)
def test_the_precision_of_parts_does_not_hide_invariance(make):
    """q and k of both blocks alone, and all that writes to the residual stream together."""
    found = models.scale_invariant_groups(make(), torch.arange(24).view(4, 6) % 11)
    assert set(found) == {
        *((f"blocks.{k}.{name}.weight",) for k in (0, 1) for name in "qk"),
        ("embedding.weight", "blocks.0.out.weight", "blocks.1.out.weight"),
    }


@pytest.mark.parametrize("epsilon", ["literal", "attribute", "tensor", "clamp"])
def test_epsilons_in_the_code_of_a_network_do_not_hide_invariance(epsilon):
    """Weight standardisation, whose epsilon matters more, the larger the fan-in."""

    class Convolution(nn.Conv2d):
        eps = 1e-5

        def forward(self, x):
            w = self.weight - self.weight.mean()
            w = {
                "literal": lambda: w / (w.std() + 1e-5),
                "attribute": lambda: w / (w.std() + self.eps),
                "tensor": lambda: w / (w.std() + torch.tensor(1e-5)),
                "clamp": lambda: w * w.var().clamp(min=1e-4).rsqrt(),
            }[epsilon]()
            return nn.functional.conv2d(x, w)

    model = nn.Sequential(
        Convolution(3, 8, 3), nn.ReLU(), Convolution(8, 48, 3), nn.ReLU(), Convolution(48, 8, 3),
        nn.Flatten(), nn.Linear(32, 9),
    )  # fmt: skip
    inputs = torch.randn(4, 3, 8, 8)
    found = models.scale_invariant_groups(model, inputs)
    assert found.groups == (("0.weight",), ("2.weight",), ("4.weight",))


def test_doubling_shows_the_epsilons_of_the_network_as_it_is():
    x = torch.randn(64, 6)
    model = normalised(nn.BatchNorm1d(8, eps=1e-3, affine=False))
    with torch.no_grad():
        for size, least, most in ((1.0, 0, 5e-3), (0.01, 0.1, 2)):
            model[0].weight.normal_().mul_(size)
            (effect,) = models.doubling_effects(model, x, [("0.weight",)])
            before = model(x)
            model[0].weight.mul_(2)
            assert effect == pytest.approx(((model(x) - before).norm() / before.norm()).item())
            assert least <= effect < most
    found = models.scale_invariant_groups(model, x)
    assert "doubled" in models.group_table(model, found, [effect])


def test_complex_weights():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 6, dtype=torch.complex64))

        def forward(self, x):
            h = x.to(torch.complex64) @ self.weight.T
            return (h / torch.linalg.vector_norm(h, dim=1, keepdim=True)).abs()

    model = nn.Sequential(Complex(), nn.Linear(8, 5))
    found = models.scale_invariant_groups(model, torch.randn(16, 6))
    assert found == models.ScaleInvariance((("0.weight",),), ())
    assert models.norms(model.parameters())[0] == pytest.approx(model[0].weight.norm().item())


class Constant(nn.Linear):
    def forward(self, x):
        return 2 * x


class Unconnected(nn.Linear):
    def forward(self, x):
        return super().forward(x).sign() ** 2


@pytest.mark.parametrize("layer", [Constant, Unconnected])
def test_a_probe_that_sees_nothing_fails(layer):
    with pytest.raises(ValueError, match="the probe failed: no weight has any effect"):
        models.scale_invariant_groups(layer(6, 6), torch.randn(4, 6))


def test_what_cannot_be_probed_is_refused_in_a_line():
    with pytest.raises(ValueError, match="lazy modules: call it once"):
        models.scale_invariant_groups(nn.LazyLinear(6), torch.randn(4, 6))
    with pytest.raises(ValueError, match="fails when it is probed: RuntimeError: ") as error:
        models.scale_invariant_groups(nn.Linear(6, 6), torch.randn(4, 7))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:.*_norm")
@pytest.mark.parametrize("make", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_hooks_do_not_fire_but_those_that_make_the_weights(make):
    def fail(*_):
        raise AssertionError("a hook fired")

    model = nn.Sequential(make(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 9))
    model[1].register_forward_hook(fail)
    model.register_forward_pre_hook(fail)
    model[2].register_full_backward_hook(fail)
    model[2].weight.register_hook(fail)
    handle = nn.modules.module.register_module_forward_hook(fail)
    try:
        found = models.scale_invariant_groups(model, torch.randn(16, 6))
        assert len(nn.modules.module._global_forward_hooks) == 1
    finally:
        handle.remove()
    assert found.groups == (("0.weight_v" if make is nn.utils.weight_norm else "0.weight_orig",),)


def test_straight_through_gradients_are_not_orthogonal_to_what_only_looks_invariant():
    class Binary(nn.Linear):
        def forward(self, x):
            w = self.weight + (self.weight.sign() - self.weight).detach()
            return nn.functional.linear(x, w, self.bias)

    model = nn.Sequential(Binary(6, 8), nn.ReLU(), nn.Linear(8, 9))
    assert models.scale_invariant_groups(model, torch.randn(16, 6)).groups == ()


def test_other_nonlinearities_and_softmax_are_no_invariance():
    """They saturate, so that far out their scale does not matter."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.a = (nn.Linear(6, 6, bias=False) for _ in range(3))

        def forward(self, x):
            x = (self.q(x) @ self.k(x).T).softmax(-1) @ x
            return nn.functional.layer_norm(nn.functional.gelu(self.a(x)), (6,))

    assert models.scale_invariant_groups(Mixed(), torch.randn(16, 6)).groups == ()


def test_experts_without_an_input_are_named_and_the_others_found():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inputs = nn.Linear(6, 6, bias=False)
            self.router = nn.Linear(6, 12)
            self.experts = nn.ModuleList(nn.Linear(6, 6, bias=False) for _ in range(12))
            self.head = nn.Linear(6, 5)

        def forward(self, x):
            x = self.inputs(x)
            h = nn.functional.layer_norm(x, (6,))
            weights, chosen = self.router(h).softmax(-1).max(-1)
            added = torch.zeros_like(x)
            for k, expert in enumerate(self.experts):
                rows = (chosen == k).nonzero()[:, 0]
                if len(rows):
                    added = added.index_put((rows,), expert(h[rows]) * weights[rows, None])
            return self.head(nn.functional.layer_norm(x + added, (6,)))

    torch.manual_seed(1)
    found = models.scale_invariant_groups(Experts(), torch.randn(16, 6))
    named = {*found.groups[0], *found.without_effect, *found.unknown}
    assert named >= {"inputs.weight", *(f"experts.{k}.weight" for k in range(12))}
    assert len(found.groups) == 1 and len(found.groups[0]) > 6


def test_a_large_network_is_probed_on_one_example_unless_examples_interact(monkeypatch):
    monkeypatch.setattr(models.groups, "LARGE", 0)
    sizes, x = [], torch.randn(16, 6)

    class Seen(nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x

    for norm, least in ((nn.LayerNorm(8), 1), (nn.BatchNorm1d(8), 16)):
        model = nn.Sequential(normalised(norm), Seen())
        assert models.scale_invariant_groups(model, x).groups == (("0.0.weight",),)
        assert sizes[-1] == least
        sizes.clear()


def test_a_line_of_progress(monkeypatch, capsys):
    monkeypatch.setattr(models.groups, "PATIENCE", 0.0)
    models.scale_invariant_groups(normalised(nn.BatchNorm1d(8)), torch.randn(16, 6))
    assert "backward passes in" in capsys.readouterr().err


class Keeps(nn.Module):
    """Keeps what a forward pass computes, as for a figure or a second loss."""

    def __init__(self):
        super().__init__()
        self.layer = nn.utils.weight_norm(nn.Linear(6, 5, bias=False))  # keeps its weight
        self.norm = nn.BatchNorm1d(5, affine=False)

    def forward(self, x):
        self.features = self.layer(x)
        return self.norm(self.features)


@pytest.mark.parametrize("insists", [False, True])
def test_a_network_of_invariant_tensors_alone(insists):
    """Nothing has an effect that the rounding of others could be measured by."""

    class Layer(nn.Linear):
        def forward(self, x):
            x = torch.mm(x.float(), self.weight.T) if insists else super().forward(x)
            return (x - x.mean(0)) / x.std(0)

    model = nn.Sequential(Layer(6, 7, bias=False), nn.ReLU(), Layer(7, 5, bias=False))
    found = models.scale_invariant_groups(model, torch.randn(20, 6))
    assert found == models.ScaleInvariance((("0.weight",), ("2.weight",)), ())


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_network_that_keeps_results_of_a_pass():
    model, x = Keeps(), torch.randn(8, 6)
    model(x)
    kept = model.features
    found = models.scale_invariant_groups(model, x)
    assert set(found) == {("layer.weight_g",), ("layer.weight_v",)}
    assert model.features is kept and kept.requires_grad


def test_inputs_may_be_integers():
    model = nn.Sequential(nn.Embedding(5, 6), nn.LayerNorm(6, elementwise_affine=False),
                          nn.Linear(6, 7))  # fmt: skip
    found = models.scale_invariant_groups(model, torch.tensor([0, 1, 2, 3, 4, 2]))
    assert found == models.ScaleInvariance((("0.weight",),), ())


def test_saturation_is_no_invariance():
    """Where nothing changes the output a little, a factor of 1/2 does."""

    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))

        def forward(self, x):
            return torch.clamp(self.weight * x, -1, 1) + self.shift

    found = models.scale_invariant_groups(Clamped(), torch.tensor([1.5, -1.5, 1.7, 1.6]))
    assert found == models.ScaleInvariance((), ())


def test_outputs_without_a_gradient_are_a_probe_that_fails():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = normalised(nn.LayerNorm(8))

        @torch.no_grad()
        def forward(self, x):
            return self.layers(x)

    with pytest.raises(ValueError, match="no gradient by any weight"):
        models.scale_invariant_groups(Detached(), torch.randn(16, 6))


@pytest.mark.parametrize("kind", ["object", "slots", "dictionary", "distribution"])
def test_outputs_may_be_objects(kind):
    class Attributes(dict):
        __getattr__ = dict.__getitem__  # KeyError for attributes that are not there

    @dataclasses.dataclass(slots=True)
    class Slots:
        logits: torch.Tensor

    make = {
        "object": lambda x: types.SimpleNamespace(logits=x, number=3),
        "slots": Slots,
        "dictionary": lambda x: Attributes(logits=x),
        "distribution": lambda x: torch.distributions.Normal(x, 1.0),
    }[kind]

    class Network(nn.Sequential):
        def forward(self, x):
            return make(super().forward(x))

    found = models.scale_invariant_groups(Network(normalised(nn.LayerNorm(8))), torch.randn(16, 6))
    assert found.groups == (("0.0.weight",),)
