"""What is scale invariant in a network, on networks of this project and on others'."""

import collections
import contextlib
import dataclasses
import functools
import gc
import itertools
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.models import SwinTransformer, vgg
from torchvision.models.resnet import BasicBlock, ResNet

import models
from models import ScaleInvariance, scale_invariant_groups
from options import Model


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


class Lambda(nn.Module):
    """A network of a function of itself and its input, and any parameters and modules."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def linear(*sizes):
    return nn.Linear(*sizes, bias=False)


def tensor(*shape, **options):
    return nn.Parameter(torch.randn(*shape, **options))


def normalised(norm):
    return nn.Sequential(linear(6, 8), norm, nn.ReLU(), nn.Linear(8, 9))


# --- large networks ---


def both(*modules):
    """The names of the weights and the biases of some modules."""
    return tuple(f"{name}.{key}" for name in modules for key in ("weight", "bias"))


def small_vgg():
    convolutions = vgg.make_layers([4, "M", 8, "M"], batch_norm=True)
    hidden = nn.Flatten(), nn.Linear(512, 16), nn.ReLU(), nn.Dropout()
    return nn.Sequential(convolutions, *hidden, nn.Linear(16, 40))


BLOCKS = [f"layer{k}.0" for k in (1, 2, 3, 4)]
STREAM = both("features.3.0.attn.proj", "features.3.0.mlp.3")


@pytest.mark.parametrize("make, groups, inert", [
    # Convolutions; scale and shift between two; biases in front of a normalisation.
    (small_vgg, [("0.0.weight",), both("0.1"), ("0.4.weight",)], ("0.0.bias", "0.4.bias")),
    # Of the residual streams the last is not normalised.
    (lambda: ResNet(BasicBlock, [1, 1, 1, 1]), [
        ("conv1.weight",), *((f"{block}.conv{i}.weight",) for block in BLOCKS for i in (1, 2)),
        *((f"{block}.downsample.0.weight",) for block in BLOCKS[1:]),
        *(both(f"{block}.bn1") for block in BLOCKS), both("bn1", "layer1.0.bn2"),
        *(both(f"{block}.bn2", f"{block}.downsample.1") for block in BLOCKS[1:3]),
    ], ()),
    # The second stream starts with two factors in a row, and so is a group with either of them.
    (lambda: SwinTransformer([4, 4], 12, [1, 1], [1, 2], [4, 4], num_classes=40), [
        both("features.0.0"), both("features.0.2", "features.1.0.attn.proj", "features.1.0.mlp.3"),
        ("features.2.reduction.weight", *STREAM), (*both("features.2.norm"), *STREAM),
    ], ()),
], ids=["VGG", "ResNet", "Swin"])  # fmt: skip
def test_networks_of_torchvision(make, groups, inert):
    found = scale_invariant_groups(make(), torch.randn(4, 3, 32, 32))
    assert {*found} == {*groups} and found.without_effect == inert


@pytest.mark.parametrize("name, norm", [
    *itertools.product(("ConvNetSI", "ConvNetSIAf"), models.NORMS), ("ResNet18SIAf", "layer")
])  # fmt: skip
def test_networks_of_the_papers(name, norm):
    """Their SI weights are those of test_models.py."""
    model = models.build(Model(name, 2, depth=2, norm=norm), 40)
    found = scale_invariant_groups(model, torch.randn(4, 3, 32, 32))
    weights = {n for group in found for n in group if model.get_parameter(n).ndim > 1}
    assert weights == set(models.si_parameters(model))
    assert name != "ConvNetSI" or all(len(group) == 1 for group in found)


# --- transformers in any precision ---


def rms_norm(dtype=torch.float32, eps=1e-6):
    """As large language models have it: computed in another precision."""

    def forward(self, x):
        h = x.to(dtype)
        return self.weight * (h * (h.pow(2).mean(-1, keepdim=True) + eps).rsqrt()).to(x)

    return Lambda(forward, weight=nn.Parameter(torch.ones(8)))


def attention(norm):
    def forward(self, x):
        h = self.norm(x)
        q, k = self.query_norm(self.q(h)), self.key_norm(self.k(h))
        return x + self.out(F.scaled_dot_product_attention(q, k, self.v(h)))

    norms = {name: norm(8) for name in ("norm", "query_norm", "key_norm")}
    return Lambda(forward, **norms, **{name: linear(8, 8) for name in ("q", "k", "v", "out")})


def transformer(norm=nn.RMSNorm, autocast=False, **checkpoints):
    """Two blocks, pre-norm, with q and k norms; under autocast and checkpoints on request."""

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            x = self.embedding(x)
            for block in self.blocks:
                x = checkpoint(block, x, **checkpoints) if checkpoints else block(x)
            return self.head(self.norm(x))

    blocks = nn.ModuleList(attention(norm) for _ in range(2))
    embedding, head = nn.Embedding(11, 8), linear(8, 11)
    return Lambda(forward, embedding=embedding, blocks=blocks, norm=norm(8), head=head)


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("make", [
    *(lambda dtype=dtype: transformer(lambda _: rms_norm(dtype))
      for dtype in (torch.float32, torch.bfloat16, torch.float16)),
    lambda: transformer().bfloat16(),
    lambda: transformer(autocast=True),
    lambda: transformer(use_reentrant=False),
    lambda: transformer(use_reentrant=True),
])  # fmt: skip
def test_the_precision_of_parts_does_not_hide_invariance(make):
    """q and k of both blocks alone, and all that writes to the residual stream together."""
    found = scale_invariant_groups(make(), torch.arange(24).view(4, 6) % 11)
    assert {*found} == {
        *((f"blocks.{k}.{name}.weight",) for k in (0, 1) for name in "qk"),
        ("embedding.weight", "blocks.0.out.weight", "blocks.1.out.weight"),
    }


# --- small networks, with what is invariant in them ---


def standardised(epsilon):
    """Weight standardisation, whose epsilon matters more, the larger the fan-in."""

    def forward(self, x):
        return F.conv2d(x, epsilon(self, self.weight - self.weight.mean()))

    sizes = (3, 8), (8, 48), (48, 8)
    a, b, c = (Lambda(forward, weight=tensor(n, m, 3, 3), eps=1e-5) for m, n in sizes)
    return nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), c, nn.Flatten(), nn.Linear(32, 9))


def float32(self, x):
    """Insists on a precision, and normalises."""
    x = torch.mm(x.float(), self.weight.T)
    return (x - x.mean(0)) / x.std(0)


def complex_norm(self, x):
    h = x.to(torch.complex64) @ self.weight.T
    return (h / torch.linalg.vector_norm(h, dim=1, keepdim=True)).abs()


def straight_through(self, x):
    """Gradients that are not orthogonal to what only looks invariant."""
    return F.linear(x, self.weight + (self.weight.sign() - self.weight).detach())


def attend(self, x):
    """Saturates, so that far out the scale of q and k does not matter."""
    x = (self.q(x) @ self.k(x).T).softmax(-1) @ x
    return F.layer_norm(F.gelu(self.a(x)), (6,))


def saturate(self, x):
    """Where nothing changes the output a little, a factor of 1/2 does."""
    return torch.clamp(self.weight * x, -1, 1) + self.shift


def layers(*first):
    return nn.Sequential(*first, nn.Linear(8, 9))


def normal(x):
    return F.layer_norm(x, x.shape[1:], eps=1e-12)


def euler(self, x):
    """Steps of a size that is called epsilon."""
    h = self.a(x)
    for _ in range(3):
        h = h + self.epsilon * torch.tanh(self.w(h))
    return self.last(normal(h))


IMAGES, VECTORS = (8, 3, 8, 8), (16, 6)
NETWORKS = {  # inputs, groups, the function that makes the network
    "balances": (VECTORS, [], lambda: layers(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 8))),
    "no weights": (IMAGES, [], nn.ReLU),
    "two factors in a row, each a group with what is added": (
        VECTORS, ["a.weight c.bias", "c.weight c.bias"],
        lambda: Lambda(lambda self, x: F.layer_norm(self.c(self.a(x)), (7,), eps=0.0),
                       a=linear(6, 6), c=nn.Linear(6, 7))),
    "invariant tensors alone, by which no rounding can be measured": (
        (20, 6), ["0.weight", "2.weight"],
        lambda: nn.Sequential(Lambda(float32, weight=tensor(7, 6)), nn.ReLU(),
                              Lambda(float32, weight=tensor(5, 7)))),
    "filters of which only the sign matters": (IMAGES, ["0.weight"], lambda: nn.Sequential(
        nn.Conv2d(3, 3, 1, groups=3, bias=False), nn.BatchNorm2d(3), nn.Flatten(),
        nn.Linear(192, 9))),
    "a large epsilon": (
        VECTORS, ["0.weight"], lambda: layers(linear(6, 8), nn.BatchNorm1d(8, eps=0.1))),
    "a step size called epsilon": (VECTORS, [], lambda: Lambda(
        euler, a=linear(6, 8), w=linear(8, 8), epsilon=0.1, last=linear(8, 9))),
    "a slope that is a number": (VECTORS, ["0.weight 0.bias", "2.weight"], lambda: layers(
        nn.Linear(6, 8), nn.PReLU(), linear(8, 8), nn.BatchNorm1d(8, affine=False))),
    "a share that is a number": (VECTORS, ["0.a.weight 0.b.weight"], lambda: layers(Lambda(
        lambda self, x: normal(torch.lerp(self.a(x), self.b(x), self.share)),
        share=nn.Parameter(torch.tensor(0.5)), a=linear(6, 8), b=linear(6, 8)))),
    "a tensor that is used twice": (
        VECTORS, ["0.u.weight 0.v.weight 0.w.weight"],
        lambda: layers(Lambda(
            lambda self, x: normal(
                self.w(F.pad(torch.relu(self.w(x)), (0, -2))) + self.v(torch.relu(self.u(x)))),
            u=linear(6, 7), v=linear(7, 8), w=linear(6, 8)))),
    "complex weights": (VECTORS, ["0.weight"], lambda: layers(
        Lambda(complex_norm, weight=tensor(8, 6, dtype=torch.complex64)))),
    "straight-through gradients": (VECTORS, [], lambda: layers(
        Lambda(straight_through, weight=tensor(8, 6)), nn.ReLU())),
    "other nonlinearities and softmax": (VECTORS, [], lambda: Lambda(
        attend, q=linear(6, 6), k=linear(6, 6), a=linear(6, 6))),
    "saturation": (torch.tensor([1.5, -1.5, 1.7, 1.6]), [], lambda: Lambda(
        saturate, weight=nn.Parameter(torch.ones(1)), shift=tensor(1))),
    "integers as inputs": (torch.arange(5), ["0.weight"], lambda: layers(
        nn.Embedding(5, 8), nn.LayerNorm(8, elementwise_affine=False))),
    **{f"weight standardisation, epsilon {name}": (
        IMAGES, ["0.weight", "2.weight", "4.weight"], lambda epsilon=epsilon: standardised(epsilon))
       for name, epsilon in {
           "literal": lambda self, w: w / (w.std() + 1e-5),
           "attribute": lambda self, w: w / (w.std() + self.eps),
           "tensor": lambda self, w: w / (w.std() + torch.tensor(1e-5)),
           "clamp": lambda self, w: w * w.var().clamp(min=1e-4).rsqrt(),
       }.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_of(name):
    inputs, groups, make = NETWORKS[name]
    inputs = torch.randn(inputs) if isinstance(inputs, tuple) else inputs
    found = scale_invariant_groups(make(), inputs)
    assert found == ScaleInvariance(tuple(tuple(group.split()) for group in groups), ())


class Odd(nn.Module):
    """Shared weights, a frozen and an unused tensor, zero weights, dropout, a dictionary out."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)
        self.shared, self.tied = linear(8, 8), linear(8, 8)
        self.tied.weight = self.shared.weight
        self.gain, self.unused = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.ones(3))
        self.first.weight.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, *, shift):
        self.calls += 1
        x = self.norm(self.first(x) + shift)
        x = F.dropout(self.tied(torch.relu(self.shared(x))), 0.3, self.training)
        x = F.normalize(x + self.gain * torch.rand(()), dim=1) * self.calls
        return {"logits": [self.last(x)], "labels": torch.arange(3)}


def test_an_odd_network_is_understood_and_left_as_it_was():
    model = Odd().eval()
    model.norm.train()
    inputs = {"x": torch.randn(16, 6), "shift": torch.tensor(0.0)}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags, random = [module.training for module in model.modules()], torch.get_rng_state()
    found = scale_invariant_groups(model, inputs)
    # The first is the sum of two rows: the shared tensor is used twice
    assert found.groups == (("gain", "norm.weight", "norm.bias"), ("first.weight", "first.bias"))
    assert found.without_effect == ("unused",)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())
    assert model.norm.eps == 1e-5 and not model.first.weight.requires_grad


def energy(self, x):
    """A network may take derivatives of its own, as of an energy by positions."""
    return torch.autograd.grad(self.layers(x).tanh().sum(), x, create_graph=True)[0]


class Attributes(dict):
    __getattr__ = dict.__getitem__  # KeyError for attributes that are not there


@dataclasses.dataclass(slots=True)
class Slots:
    logits: torch.Tensor


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("forward", [
    energy,
    lambda self, x: self.layers(x.sub_(0.3).mul_(2).relu_()),
    lambda self, x: self.layers(torch.eye(16).to_sparse() @ x),
    lambda self, x: self.layers(torch.eye(16).to_sparse_csr() @ x),
    lambda self, x: types.SimpleNamespace(logits=self.layers(x), number=3),
    lambda self, x: Slots(self.layers(x)),
    lambda self, x: Attributes(logits=self.layers(x)),
    lambda self, x: torch.distributions.Normal(self.layers(x), 1.0),
    lambda self, x: types.SimpleNamespace(logits=self.layers(x), network=self),
], ids=["derivatives", "changed input", "sparse", "CSR", "object", "slots", "dictionary",
        "distribution", "network"])  # fmt: skip
def test_what_a_network_may_do_and_give(forward):
    model = Lambda(forward, layers=normalised(nn.LayerNorm(8)))
    x = torch.randn(16, 6, requires_grad=forward is energy)
    before = x.detach().clone()
    found = scale_invariant_groups(model, x)
    assert found.groups == (("layers.0.weight",),)
    assert models.doubling_effects(model, x, found)[0] < 1e-3
    assert torch.equal(x, before) and x.grad is None


def test_stored_statistics_do_not_make_weights_invariant():
    """The mode is that of each module; batch statistics and other norms do not depend on it."""
    x = torch.randn(16, 6)
    model = normalised(nn.BatchNorm1d(8, affine=False))
    model[1].eval()
    found = scale_invariant_groups(model, x)
    assert found.in_eval == ("1",) and "evaluation mode: 1" in models.group_table(model, found)
    assert found.groups == scale_invariant_groups(model.eval(), x).groups == ()
    batch_norm = nn.BatchNorm1d(8, affine=False, track_running_stats=False)
    for each in (model.train(), normalised(batch_norm).eval(), normalised(nn.LayerNorm(8)).eval()):
        assert scale_invariant_groups(each, x).groups == (("0.weight",),)


def test_an_epsilon_too_large_to_be_told_from_a_constant_is_named():
    for eps, groups, constants in ((1e-3, 1, ()), (0.01, 0, (0.01,)), (1.0, 0, ())):
        model = normalised(rms_norm(eps=eps))
        found = scale_invariant_groups(model, torch.randn(16, 6))
        assert len(found) == groups and found.constants == constants
        note = "adds 0.01 to tensors: an epsilon above 0.001 hides scale invariance"
        assert (note in models.group_table(model, found)) == (eps == 0.01)


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
    found = scale_invariant_groups(model, x)
    assert "doubled" in models.group_table(nn.DataParallel(model), found, [effect])


def test_casts_of_autocast_are_those_of_the_probed_weights(monkeypatch):
    monkeypatch.setattr(models.groups, "SMALL", 0)  # float32 first, which autocast casts
    model, x = normalised(nn.LayerNorm(8, eps=1.0)), torch.randn(16, 6)
    expected = models.doubling_effects(model, x, [("0.weight",)])
    groups = scale_invariant_groups(normalised(nn.LayerNorm(8)), x).groups
    with torch.autocast("cpu", torch.bfloat16):
        assert models.doubling_effects(model, x, [("0.weight",)]) == pytest.approx(
            expected, rel=0.1
        )
        assert scale_invariant_groups(normalised(nn.LayerNorm(8)), x).groups == groups


def test_groups_that_share_tensors_are_not_scaled_together():
    """A residual block without normalisation inside."""
    model = Lambda(
        lambda self, x: self.head(normal(self.b(torch.relu(self.a(x))) + self.skip(x))),
        a=linear(6, 8), b=linear(8, 8), skip=linear(6, 8), head=linear(8, 9),
    )  # fmt: skip
    found, parameters = scale_invariant_groups(model, torch.randn(16, 6)), model.get_parameter
    assert found.groups == (("a.weight", "skip.weight"), ("b.weight", "skip.weight"))
    sizes = dict(model.named_parameters())
    assert models.scaled_together(found, sizes) == [("b.weight", "skip.weight")]
    x = torch.randn(16, 6)
    before = model(x)
    models.rescale_to_norm([parameters(n) for n in ("b.weight", "skip.weight")], 9.0)
    torch.testing.assert_close(model(x), before)


def test_experts_without_an_input_are_named_and_the_others_found():
    def forward(self, x):
        x = self.inputs(x)
        h = F.layer_norm(x, (6,))
        weights, chosen = self.router(h).softmax(-1).max(-1)
        for k, expert in enumerate(self.experts):
            rows = (chosen == k).nonzero()[:, 0]
            if len(rows):
                x = x.index_add(0, rows, expert(h[rows]) * weights[rows, None])
        return self.head(F.layer_norm(x, (6,)))

    torch.manual_seed(1)
    experts = nn.ModuleList(linear(6, 6) for _ in range(12))
    router, head = nn.Linear(6, 12), nn.Linear(6, 5)
    model = Lambda(forward, inputs=linear(6, 6), router=router, experts=experts, head=head)
    found = scale_invariant_groups(model, torch.randn(16, 6))
    named = {*found.groups[0], *found.without_effect, *found.unknown}
    assert named >= {"inputs.weight", *(f"experts.{k}.weight" for k in range(12))}
    assert len(found.groups) == 1 and len(found.groups[0]) > 6


@pytest.mark.filterwarnings("ignore:.*_norm")
@pytest.mark.parametrize("make, group", [
    (nn.utils.weight_norm, "0.weight_v"), (nn.utils.spectral_norm, "0.weight_orig")
])  # fmt: skip
def test_hooks_do_not_fire_but_those_that_make_the_weights(monkeypatch, make, group):
    def fail(*_):
        raise AssertionError("a hook fired")

    model = nn.Sequential(make(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 9))
    model[1].register_forward_hook(fail)
    model.register_forward_pre_hook(fail)
    model[2].register_full_backward_hook(fail)
    model[2].weight.register_hook(fail)
    monkeypatch.setitem(nn.modules.module._global_forward_hooks, 0, fail)
    assert {*scale_invariant_groups(model, torch.randn(16, 6))} == {(group,)}
    assert nn.modules.module._global_forward_hooks == {0: fail}
    assert nn.modules.module._global_forward_pre_hooks == {}
    found = scale_invariant_groups(model, torch.randn(16, 6))
    assert "Probed without the forward hooks of: all, 1." in models.group_table(model, found)


def wrapped(model):
    inside = model.forward
    model.forward = functools.wraps(inside)(lambda x, scale=2.0: scale * inside(x))
    return model


def recursive(model):
    """Layers in a row, by a function that calls itself and a partial of it."""

    def run(x, number=0):
        return x if number == len(model) else run(model[number](x), number + 1)

    model.forward = functools.partial(run, number=0)
    return model


def cast(model):
    model.forward = torch.autocast("cpu")(model.forward)
    return model


def contained(model):
    """Functions of the network in a dictionary that it keeps."""
    model.parts = {"run": [lambda x: nn.Sequential.forward(model, x)]}
    model.forward = lambda x: model.parts["run"][0](x)
    return model


def listed(model):
    """Layers in a list and a dictionary of a closure, and as a default."""
    first, others = [model[0]], {"rest": model[1:]}
    model.lists = first, others
    model.forward = lambda x, again=first: others["rest"](first[0](x) + 0 * again[0](x))
    return model


@pytest.mark.parametrize("make", [wrapped, recursive, cast, contained, listed])
def test_a_function_that_refers_to_the_network_refers_to_the_copy(make):
    model, x = make(normalised(nn.BatchNorm1d(8))), torch.randn(16, 6)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = scale_invariant_groups(model, x)
    assert found.groups == (("0.weight",),) and models.doubling_effects(model, x, found)[0] < 0.01
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert make is not listed or model.lists[0] == model.forward.__defaults__[0] == [model[0]]


def test_a_network_that_cannot_be_copied_is_left_as_it_was():
    inner = normalised(nn.BatchNorm1d(8))
    model = Lambda(lambda self, x: self.parts[0](x), inner=inner, parts=Uncopied([inner]))
    with pytest.raises(ValueError, match="cannot be copied: the copy uses a Sequential"):
        scale_invariant_groups(model, torch.randn(16, 6))
    assert inner[1].num_batches_tracked == 0 and inner[0].weight.grad is None
    weight = tensor(9, 8)  # by itself, as of a head that is tied through a global variable
    model = Lambda(lambda self, x: normal(self.a(x)) @ self.parts[0].T, a=linear(6, 8), w=weight)
    model.parts, weight.grad = Uncopied([weight]), torch.ones(9, 8)
    with pytest.raises(ValueError, match="cannot be copied: the copy uses a parameter"):
        scale_invariant_groups(model, torch.randn(16, 6))
    assert torch.equal(weight.grad, torch.ones(9, 8))


class Uncopied(list):
    """As a list that only a global variable refers to."""

    def __deepcopy__(self, memo):
        return self


def test_other_devices_and_their_random_numbers_are_left_alone():
    """A GPU that starts later has the user's seed; what is made on it by default is no trouble."""
    model, x = normalised(nn.BatchNorm1d(8)), torch.randn(16, 6)
    torch.manual_seed(1)
    queued = torch.cuda._lazy_seed_tracker.get_calls()
    with torch.device("meta"):
        assert scale_invariant_groups(model, x).groups == (("0.weight",),)
    assert torch.cuda._lazy_seed_tracker.get_calls() == queued


@pytest.mark.parametrize("fails", [torch.float64, None])
def test_no_copy_stays_in_memory(fails):
    """Where a precision is refused, or all are."""

    def forward(self, x):
        if fails in (None, x.dtype):
            raise ZeroDivisionError
        return self.layers(x)

    def copies():
        return [
            m for m in gc.get_objects() if type(m) is Lambda and m.__dict__.get("mark") == fails
        ]

    model = Lambda(forward, layers=normalised(nn.LayerNorm(8)), mark=fails)
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            scale_invariant_groups(model, torch.randn(16, 6))
        assert copies() == [model]
    finally:
        gc.enable()


def test_what_has_hardly_any_effect_is_not_called_invariant():
    parts = {"first": linear(16, 16), "second": linear(16, 16), "last": nn.Linear(16, 4)}
    for size in (3e-4, 1e-4):

        def forward(self, x, size=size):
            return self.last(x + size * self.second(torch.tanh(self.first(x))))

        found = scale_invariant_groups(Lambda(forward, **parts), torch.randn(16, 16))
        assert found.groups == ()
    assert found.unknown == ("first.weight", "second.weight")


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_a_network_that_keeps_results_of_a_pass():
    def forward(self, x):
        self.features = [self.layer(x)]  # as for a figure or a second loss
        self.latest = types.SimpleNamespace(features=self.features)
        return F.batch_norm(self.features[0], None, None, training=True)

    model, x = Lambda(forward, layer=nn.utils.weight_norm(linear(6, 5))), torch.randn(8, 6)
    model(x)
    kept = model.features
    assert set(scale_invariant_groups(model, x)) == {("layer.weight_g",), ("layer.weight_v",)}
    assert model.features is kept and kept[0].requires_grad


def test_a_large_network_is_probed_on_one_example_unless_examples_interact(monkeypatch):
    monkeypatch.setattr(models.groups, "LARGE", 0)
    for norm, least in ((nn.LayerNorm(8), 1), (nn.BatchNorm1d(8), 16)):
        sizes = collections.deque()  # the copy gets lists of its own
        seen = Lambda(lambda self, x, sizes=sizes: sizes.append(len(x)) or x)
        model = nn.Sequential(normalised(norm), seen)
        assert scale_invariant_groups(model, torch.randn(16, 6)).groups == (("0.0.weight",),)
        assert sizes[-1] == least


def test_empty_weights_are_without_effect_and_a_line_shows_the_progress(monkeypatch, capsys):
    monkeypatch.setattr(models.groups, "PATIENCE", 0.0)
    model = Lambda(lambda self, x: self.layers(x + F.linear(x[:, :0], self.empty)),
                   empty=tensor(6, 0), layers=normalised(nn.LayerNorm(8)))  # fmt: skip
    found = scale_invariant_groups(model, torch.randn(16, 6))
    assert found == ScaleInvariance((("layers.0.weight",),), ("empty",))
    assert "backward passes in" in capsys.readouterr().err


@pytest.mark.parametrize("forward, message", [
    (lambda self, x: 2 * x, "no weight has any effect"),
    (lambda self, x: self.layer(x).sign() ** 2, "no weight has any effect"),
    (lambda self, x: self.layer(x).argmax(1), "no floating-point"),
    (lambda self, x: self.layer(x) / 0, "not finite"),
    (torch.no_grad()(lambda self, x: self.layer(x)), "no gradient by any weight"),
    (lambda self, x: self.layer(x[:, 1:]), "fails when it is probed: RuntimeError: "),
    (lambda self, x: self.lazy(x), "lazy modules: call it once"),
])  # fmt: skip
def test_what_cannot_be_probed_is_refused_in_a_line(forward, message):
    parts = {"lazy": nn.LazyLinear(6)} if "lazy" in message else {}
    with pytest.raises(ValueError, match=message) as error:
        scale_invariant_groups(Lambda(forward, layer=nn.Linear(6, 6), **parts), torch.randn(4, 6))
    assert "\n" not in str(error.value)
