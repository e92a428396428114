"""The monitor in a bare loop, and that it changes nothing there."""

import gc
import importlib
import math
import sys
import warnings
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.image import imread
from torch import nn, optim
from torch.nn import functional as F

import monitor as monitoring
from figures.__main__ import main as figures_command
from figures.dynamics import dynamics, read
from monitor import Monitor, equilibrium_angle
from theory.dynamics import jump_threshold, norm_power
from theory.periods import Period, Periods

GENERATOR = torch.Generator().manual_seed(1)
X, Y = torch.randn(16, 6, generator=GENERATOR), torch.randint(5, (16,), generator=GENERATOR)


def small(norm=nn.BatchNorm1d):
    """One invariant tensor, 0.weight."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), norm(8), nn.ReLU(), nn.Linear(8, 5))


def deeper():
    """Three groups: 0.weight, 1.weight with 1.bias, 3.weight."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 7, bias=False),
        nn.BatchNorm1d(7, affine=False), nn.Linear(7, 5),
    )  # fmt: skip


def sgd(parameters, **options):
    return optim.SGD(parameters, **{"lr": 0.1, "weight_decay": 0.01, **options})


def halves(model):
    """An optimiser for the first layer, and one for all others."""
    return sgd(model[0].parameters()), sgd(p for part in model[1:] for p in part.parameters())


def watch(model, optimizer=None, every=1, **options):
    return Monitor(model, optimizer or sgd(model.parameters()), X, every=every, **options)


def watched(make=sgd, **options):
    """A small network, its optimiser and the monitor of both."""
    model = small()
    optimizer = make(model.parameters())
    return model, optimizer, watch(model, optimizer, **options)


def train(model, optimizers, steps, record=lambda loss: None):
    for _ in range(steps):
        model.zero_grad()
        loss = F.cross_entropy(model(X.to(model[0].weight.dtype)), Y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        record(loss)


def fed(monitor, steps):
    """Steps without gradients, through norms and losses of perfect periods of 50 steps."""
    for step in steps:
        at = (step % 50) / 50
        rho, loss = (2 - at / 0.9, 0.01) if at < 0.9 else (1 + 10 * (at - 0.9), 1.0)
        for weight in monitor.weights:
            weight.data.mul_(rho / weight.data.norm())
        monitor.optimizers[0].step()
        monitor.record(loss)


def records_of(monitor, group="all"):
    return [record for record in monitor.records if record.group == group]


def latest(monitor, group="all"):
    return records_of(monitor, group)[-1]


def angle(old, new):
    old, new = old.double().flatten(), new.double().flatten()
    return torch.acos((old @ new / (old.norm() * new.norm())).clamp(max=1)).item()


# --- what is measured ---


def test_a_training_is_the_same_to_the_bit_with_and_without_it():
    ends = []
    for is_watched in (False, True):
        model = small().append(nn.Dropout(0.1))
        optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
        record = watch(model, optimizer, every=2).record if is_watched else lambda loss: None
        train(model, [optimizer], 4, record)
        state = [each["momentum_buffer"] for each in optimizer.state.values()]
        ends.append([*model.state_dict().values(), *state, torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


class SGDWithMore(optim.SGD):
    """As in training scripts: it clips the matrices and has an AdamW for what is none. PyTorch runs
    the hooks of a class's step and of the one that it calls."""

    def __init__(self, matrices, others):
        super().__init__(matrices, 0.1)
        self.others = optim.AdamW(others, 0.02, weight_decay=0.5)

    @torch.no_grad()
    def step(self):
        torch._foreach_mul_(self.param_groups[0]["params"], 0.9)
        super().step()
        self.others.step()


# Optimisers of matrices m and scales s; lr, decay and power of ρ in the effective rate of m and s.
OPTIMIZERS = {
    "momentum": (lambda m, s: [optim.SGD([*m, *s], 0.1, momentum=0.9, weight_decay=0.02)],
                 (0.1, 0.002, 2), (0.1, 0.002, 2)),
    "adam": (lambda m, s: [optim.Adam([*m, *s], 0.01, weight_decay=0.02)],
             (0.01, math.nan, 1), (0.01, math.nan, 1)),
    # It adds the momentum to the gradient in place.
    "nesterov": (lambda m, s: [optim.SGD([*m, *s], 0.1, momentum=0.9, nesterov=True, foreach=True)],
                 (0.1, 0, 2), (0.1, 0, 2)),
    "two": (lambda m, s: [optim.Muon(m, 0.02, weight_decay=0.1), optim.SGD(s, 0.1)],
            (0.02, 0.002, 1), (0.1, 0, 2)),
    "one with another": (lambda m, s: [SGDWithMore(m, s)], (0.1, 0, 2), (0.02, 0.01, 1)),
}  # fmt: skip


@pytest.mark.parametrize("make, matrices, scales", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_record_is_what_the_step_did_to_a_group(make, matrices, scales):
    """Measured by hand, in every third step; several optimisers make one step."""
    model, _ = deeper(), sgd(small().parameters())  # from now on PyTorch hooks SGD's class
    optimizers = make([model[0].weight, model[3].weight], [*model[1].parameters()])
    monitor = watch(model, optimizers, every=3)
    assert monitor.left_out == {}

    gradients = {}  # before the step, which may change them
    for name, p in model.named_parameters():
        p.register_post_accumulate_grad_hook(
            lambda p, name=name: gradients.update({name: p.grad.clone()})
        )

    def vector(tensors):
        return torch.cat([tensor.detach().double().flatten() for tensor in tensors])

    for step in range(1, 8):
        groups = {group: [*map(model.get_parameter, group)] for group in monitor.groups}
        before = {group: vector(weights) for group, weights in groups.items()}
        train(model, optimizers, 1, monitor.record)
        if step % 3 != 1:
            continue
        for label, (group, weights) in zip(monitor.labels[1:], groups.items(), strict=True):
            record, old = latest(monitor, label), before[group]
            lr, decay, power = matrices if len(group) == 1 else scales
            rho, gradient = old.norm().item(), vector(gradients[n] for n in group).norm().item()
            expected = {
                "step": step, "si_norm": rho, "lr": lr, "decay": decay,
                "effective_lr": lr / rho**power, "effective_gradient_norm": rho * gradient,
            }  # fmt: skip
            found = {key: vars(record)[key] for key in expected}
            assert found == pytest.approx(expected, nan_ok=True)
            assert record.angle == pytest.approx(angle(old, vector(weights)), rel=1e-3)
            of = [g for one in optimizers for g in one.param_groups if weights[0] in {*g["params"]}]
            momentum = any(group.get("momentum") for group in of)
            assert (record.effective_step is None) == (power == 1)
            assert (record.jump_threshold is None) == (power == 1 or momentum)
    assert [record.step for record in records_of(monitor)] == [1, 4, 7] and monitor.steps == 7


def test_a_record_has_the_mean_loss_since_the_last_one_and_the_latest_measured_step():
    model, optimizer, monitor = watched(every=3)
    for loss, expected in enumerate([1, 1, 1, 3, 3, 3, 6, 6], 1):
        train(model, [optimizer], 1)
        monitor.record(loss)
        assert latest(monitor).loss == expected and latest(monitor).step == 3 * (expected // 3) + 1
    train(model, [optimizer], 1)
    rho = model[0].weight.norm().item()  # before step 10
    train(model, [optimizer], 2)
    monitor.record(1.0)
    assert latest(monitor).step == 10 and latest(monitor).si_norm == pytest.approx(rho, rel=1e-6)


def test_groups_keep_their_own_rates_and_the_norm_of_all_is_that_of_the_matrices():
    """Scales and shifts between two layers are a group of their own, and no part of it. The network
    may be compiled and in parallel."""
    model, rates = deeper(), {0: (0.3, 0.1), 3: (0.1, 0.4)}
    parts = [{"params": model[k].parameters(), "lr": lr, "weight_decay": wd}
             for k, (lr, wd) in rates.items()]  # fmt: skip
    parts.append({"params": [*model[1].parameters(), *model[5].parameters()], "lr": 0.01})
    optimizer = optim.SGD(parts, weight_decay=0.0)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    monitor = watch(torch.compile(nn.DataParallel(model), backend="eager"), optimizer)
    assert monitor.groups == [("0.weight",), ("1.weight", "1.bias"), ("3.weight",)]
    train(model, [optimizer], 1, monitor.record)
    schedule.step()
    squares = {k: model[k].weight.square().sum().item() for k in rates}
    train(model, [optimizer], 1, monitor.record)
    for k, (lr, wd) in rates.items():
        record = latest(monitor, f"{k}.weight")
        assert (record.lr, record.decay) == pytest.approx((lr / 2, lr / 2 * wd))
        assert record.equilibrium_angle == pytest.approx(math.sqrt(lr * wd))
        assert record.jump_threshold == pytest.approx(float(jump_threshold(0.01, lr / 2, wd)))
    whole, rho = latest(monitor), math.sqrt(sum(squares.values()))
    decay = sum(squares[k] * lr / 2 * wd for k, (lr, wd) in rates.items()) / rho**2
    assert whole.si_norm == pytest.approx(rho)
    assert whole.decay == pytest.approx(decay)  # by their shares of ρ²
    assert whole.equilibrium_angle == pytest.approx(math.sqrt(2 * decay))


@pytest.mark.parametrize("make, options, rho", [
    (optim.SGD, {}, 6.2),
    (optim.SGD, {"momentum": 0.8}, 9.3),
    (optim.SGD, {"momentum": 0.8, "nesterov": True}, 9.3),
    (optim.SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.5}, 9.3),
    (optim.AdamW, {"betas": (0.8, 0.99)}, 38.7),
], ids=["sgd", "momentum", "nesterov", "dampened", "adamw"])  # fmt: skip
def test_equilibrium_angle_is_where_random_gradients_and_decay_balance(make, options, rho):
    """Within 3 %: of random directions in 3,000 dimensions, when the norm is steady."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3000, dtype=torch.float64) * rho / 3000**0.5)
    optimizer, squares = make([weight], **{"lr": 0.05, "weight_decay": 0.05, **options}), []
    for step in range(600):
        old = weight.detach().clone()
        gradient = torch.randn_like(old)
        gradient -= (gradient @ old) / (old @ old) * old
        weight.grad = gradient / old.norm()
        optimizer.step()
        if step >= 200:
            squares.append(angle(old, weight.detach()) ** 2)
    assert weight.norm().item() == pytest.approx(rho, rel=0.05)
    expected = equilibrium_angle(optimizer, optimizer.param_groups[0])
    assert math.sqrt(np.mean(squares)) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("make", [optim.AdamW, optim.Muon])
def test_what_is_invariant_under_adam_and_muon_is_the_rate_over_the_norm(make):
    """w × 8, η × 8, λ / 8: the same functions, and so the same effective rates."""
    outputs, rates = [], []
    for factor in (1, 8):
        model = small(lambda width: nn.BatchNorm1d(width, eps=1e-30, affine=False)).double()
        model[0].weight.data.mul_(factor)
        first = make([model[0].weight], lr=0.01 * factor, weight_decay=0.1 / factor, eps=1e-30)
        rest = optim.AdamW(model[3].parameters(), 0.01, weight_decay=0.0)
        monitor = Monitor(model, [first, rest], X.double(), every=1)
        train(model, [first, rest], 5, monitor.record)
        outputs.append(model(X.double()))
        rates.append([record.effective_lr for record in records_of(monitor)])
    assert torch.allclose(*outputs, rtol=1e-10) and rates[0] == pytest.approx(rates[1], rel=1e-10)


def test_weights_of_zeros_have_no_direction():
    """As a last normalisation's scale that starts at zero: everybody else is measured."""
    model = nn.Sequential(small(), nn.LayerNorm(5), nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4))
    nn.init.zeros_(model[2].weight)
    optimizer = sgd(model.parameters())
    monitor = watch(model, optimizer)
    model(X)[:, 0].sum().mul(0).backward()
    optimizer.step()
    monitor.record(1.0)
    zero = latest(monitor, "2.weight")
    assert np.isnan([zero.si_norm, zero.angle, zero.effective_lr]).all()
    assert all(r.si_norm > 0 and r.angle >= 0 for r in monitor.records if r is not zero)
    assert "2.weight" in monitor.report()
    for weight in monitor.weights:  # all of them: no period begins or ends there
        nn.init.zeros_(weight)
    optimizer.step()
    monitor.record(1.0)
    assert math.isnan(latest(monitor).si_norm) and not monitor.periods


def test_sparse_gradients_and_rates_that_are_not_numbers():
    torch.manual_seed(0)
    norm, x = nn.LayerNorm(6, elementwise_affine=False), torch.tensor([1, 3, 3, 5])
    model = nn.Sequential(nn.Embedding(11, 6, sparse=True), norm, nn.Linear(6, 5))
    optimizer = optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer, x, every=1)
    F.cross_entropy(model(x), x % 5).backward()
    gradient, rho = model[0].weight.grad.to_dense().norm(), model[0].weight.detach().norm()
    optimizer.step()
    monitor.record(1.0)
    expected = (gradient * rho).item()
    assert latest(monitor).effective_gradient_norm == pytest.approx(expected, rel=1e-5)
    model.zero_grad()
    for rate, loss in ((None, 1.0), (0.0, math.nan), (math.inf, math.inf), (math.nan, None)):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        monitor.record(loss)
        assert "Step" in monitor.report()
        assert all(math.isfinite(value) for value in monitor.metrics().values())
    assert latest(monitor).step == 5 and latest(monitor).si_norm > 0


def test_what_is_trained_is_looked_at_in_every_step():
    model = small()
    model[0].weight.requires_grad_(False)
    optimizer = sgd(model[3].parameters())
    monitor = watch(model, optimizer)
    assert monitor.groups == [] and monitor.found.groups == (("0.weight",),)
    assert monitor.left_out == {("0.weight",): "0.weight is frozen"}
    model[0].weight.requires_grad_(True)
    train(model, [optimizer], 1, monitor.record)
    assert monitor.left_out == {("0.weight",): "0.weight is in no optimiser that is watched"}
    optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.3})
    train(model, [optimizer], 1, monitor.record)
    assert monitor.left_out == {} and monitor.groups == [("0.weight",)]
    assert latest(monitor).lr == pytest.approx(0.3) and "Left out" not in monitor.report()
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())  # another one
    train(model, [optimizer], 1, monitor.record)
    assert "0.weight is in no optimiser that is watched" in monitor.report()
    assert monitor.metrics() == {}


# --- optimisers ---


class Wrapper:
    """As Accelerate's: hands on what it is asked for, and is no optimiser itself."""

    step = None
    optimizer = property(lambda self: self.inside())

    def __init__(self, optimizer):
        self.inside = lambda: optimizer


class SAM(optim.Optimizer):
    """As sharpness-aware minimisation: the optimiser inside makes its steps."""

    def __init__(self, params):
        super().__init__(params, {})
        self.base_optimizer = sgd(self.param_groups)


def composite(**optimizers):
    """As some training scripts have it: an object that holds an optimiser for each part."""
    return SimpleNamespace(step=None, **optimizers)


def test_optimisers_are_found_inside_of_any_wrapper_once():
    model = small()
    first, second = halves(model)
    sam, circle = SAM(model.parameters()), composite(a=first, b=second)
    circle.itself = circle
    for optimizer, found in (
        (composite(_any=Wrapper(composite(a=first)), name=second), [first, second]),
        ({"any": first, "other": [second, first]}, [first, second]),
        (sam, [sam.base_optimizer]),
        (circle, [first, second]),
    ):
        with watch(model, optimizer) as monitor:
            assert monitor.optimizers == found and not monitor.left_out


def test_a_step_that_is_skipped_or_fails_does_not_shift_those_of_the_others():
    """As a gradient scaler skips it."""
    model = small()
    first, second = halves(model)
    monitor = watch(model, [first, second])
    for step in range(4):
        train(model, [first, second][step == 1 :], 1, monitor.record)
    with pytest.raises(ZeroDivisionError):
        second.step(lambda: 1 / 0)
    train(model, [first, second], 2, monitor.record)
    angles = [record.angle for record in records_of(monitor)]
    assert monitor.steps == 6 and angles[1] == 0 and min(angles[0], *angles[2:]) > 0


def test_freezing_some_weights_does_not_make_periods():
    """The norm of all is then that of the others."""
    model = deeper()
    optimizer = sgd(model.parameters(), lr=1e-9)
    monitor = watch(model, optimizer)
    for step in range(60):
        model[0].weight.requires_grad_(not 20 <= step < 40)
        loss = 0.1 if 20 <= step < 40 else 1.0
        train(model, [optimizer], 1, lambda _, loss=loss: monitor.record(loss))
    norms = [record.si_norm for record in records_of(monitor)]
    assert norms[0] == norms[-1] > 1.1 * norms[30] and len(monitor.periods) == 0
    fed(monitor, range(61, 200))
    assert len(monitor.periods) > 0
    for frozen in (True, False):  # and those before are kept, though ρ is another for a while
        periods = len(monitor.periods)
        model[0].weight.requires_grad_(not frozen)
        train(model, [optimizer], 2, monitor.record)
        assert len(monitor.periods) == periods and latest(monitor).phase == "A"


def test_weights_that_are_frozen_in_the_steps_of_others_are_followed():
    """As those of a discriminator, while the generator is trained."""
    model = deeper()
    first, second = sgd(model[0].parameters()), sgd(model[3].parameters())
    monitor = watch(model, [first, second])
    for _ in range(3):
        for trained, frozen, optimizer in ((0, 3, first), (3, 0, second)):
            model[trained].weight.requires_grad_(True)
            model[frozen].weight.requires_grad_(False)
            train(model, [optimizer], 1)
        monitor.record(1.0)
    assert [*monitor.left_out] == [("1.weight", "1.bias")]
    for group in ("0.weight", "3.weight"):
        assert [r.step for r in records_of(monitor, group) if r.angle > 0] == [1, 2, 3]


def test_a_step_of_several_rates_turns_all_weights_by_its_effective_step():
    model = deeper()
    with torch.no_grad():
        model[0].weight.mul_(20)
    rates = [
        {"params": model[0].parameters(), "lr": 1e-4},
        {"params": model[3].parameters(), "lr": 2},
    ]
    optimizer = sgd(rates, weight_decay=0)
    monitor = watch(model, optimizer)
    train(model, [optimizer], 1, monitor.record)
    assert latest(monitor).effective_step == pytest.approx(
        math.tan(latest(monitor).angle), rel=1e-3
    )


class Halves(optim.SGD):
    """Makes its step in two halves."""

    def step(self, closure=None):
        for _ in range(2):
            super().step()


def test_a_step_that_calls_another_twice_is_one():
    sgd(small().parameters())  # from now on PyTorch hooks SGD's class too
    model, optimizer, monitor = watched(Halves)
    old = model[0].weight.detach().clone()
    train(model, [optimizer], 1, monitor.record)
    assert monitor.steps == 1
    assert latest(monitor).angle == pytest.approx(angle(old, model[0].weight.detach()), rel=1e-3)


@pytest.mark.parametrize("make", [
    lambda p: optim.LBFGS(p, max_iter=5, line_search_fn="strong_wolfe"),
    lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, foreach=True),
])  # fmt: skip
def test_the_gradient_of_a_closure_is_that_at_the_weights_before(make):
    model, optimizer, monitor = watched(make)
    twin = small()
    alone = make(twin.parameters())

    def closure(network=model, one=optimizer):
        one.zero_grad()
        loss = F.cross_entropy(network(X), Y)
        loss.backward()
        return loss

    for _ in range(3):
        closure()
        expected = (model[0].weight.norm() * model[0].weight.grad.norm()).item()
        optimizer.step(closure)
        monitor.record()
        assert latest(monitor).effective_gradient_norm == pytest.approx(expected)
        alone.step(lambda: closure(twin, alone))
    assert torch.equal(model[0].weight, twin[0].weight)  # and nothing has changed
    assert "none can be found without losses" in monitor.report()


def test_weights_of_two_optimisers_are_measured_in_the_steps_of_either():
    model = small()
    adam, plain = optim.Adam(model.parameters(), 0.01), sgd(model.parameters())
    monitor = watch(model, [adam, plain])
    for optimizer, lr, power in ((adam, 0.01, 1), (plain, 0.1, 2)):
        old = model[0].weight.detach().clone()
        train(model, [optimizer], 1, monitor.record)
        record, rho = latest(monitor), old.norm().item()
        assert record.angle == pytest.approx(angle(old, model[0].weight.detach()), rel=1e-3)
        assert record.effective_lr == pytest.approx(lr / rho**power)
        gradient = model[0].weight.grad.norm().item()
        assert record.effective_gradient_norm == pytest.approx(rho * gradient)


def test_the_gradient_of_a_closure_and_of_scaled_losses():
    for scale in (None, 2.0**12):
        model = small()
        optimizer = optim.SGD(model.parameters(), 0.1, fused=scale is not None)
        scaler = torch.amp.GradScaler("cpu", scale or 1.0, enabled=scale is not None)
        monitor, rho = watch(model, optimizer), model[0].weight.norm().item()

        def closure(model=model, scaler=scaler):
            loss = F.cross_entropy(model(X), Y)
            scaler.scale(loss).backward()
            return loss

        if scale is None:
            optimizer.step(closure)
        else:
            closure()
            scaler.step(optimizer)
        monitor.record()
        plain = small()
        F.cross_entropy(plain(X), Y).backward()
        gradient = plain[0].weight.grad.norm().item()
        assert latest(monitor).effective_gradient_norm == pytest.approx(rho * gradient, rel=1e-4)


class LARS(optim.SGD):
    def step(self): ...


class Bare(optim.SGD):
    step = small  # a function from outside of any class


@pytest.mark.parametrize("make, power, decay, is_balanced", [
    (optim.SGD, 2, 0.1, True),
    (optim.AdamW, 1, 0.1, True),
    *((make, 1, math.nan, False)
      for make in (optim.Adam, optim.NAdam, optim.RMSprop, optim.Adagrad)),
    (optim.Muon, 1, 0.1, False),
    *((make, None, 0.1, False) for make in (optim.Adafactor, optim.ASGD, LARS, Bare)),
])  # fmt: skip
def test_the_rate_and_decay_of_an_optimiser_are_not_guessed(make, power, decay, is_balanced):
    """Subclasses with steps of their own; decay that is divided with the gradient."""
    optimizer = make([nn.Parameter(torch.ones(2, 2))], lr=0.1, weight_decay=0.1)
    group = optimizer.param_groups[0]
    assert norm_power(monitoring._rule(optimizer)) == power
    assert monitoring._decay(optimizer, group) == pytest.approx(decay, nan_ok=True)
    assert (equilibrium_angle(optimizer, group) is not None) == is_balanced


def test_optimisers_are_known_by_name():
    powers = {"SignSGD": 1, "NormalizedSGD": 1, "SGDW": 2, "Lion8bit": 1, "Lamb": None,
              "MuonWithAuxAdam": 1, "Adadelta": None}  # fmt: skip
    assert {name: norm_power(name) for name in powers} == powers


@pytest.mark.parametrize(("change", "message"), [
    *(({"every": number}, "every") for number in (0, 1.5, True)),
    ({"start": -1}, "start"),
    *(({"optimizer": nothing}, "holds none: its steps cannot be watched")
      for nothing in (object(), None, [], composite(), nn.ReLU())),
    ({"model": torch.relu}, "is no torch.nn.Module"),
    ({"inputs": torch.zeros(4, 7)}, "fails when it is probed"),
])  # fmt: skip
def test_what_cannot_be_watched_is_refused_at_once_in_a_line(change, message):
    model = small()
    optimizer = sgd(model.parameters())
    with pytest.raises(ValueError, match=message) as error:
        Monitor(**{"model": model, "optimizer": optimizer, "inputs": X, **change})
    assert "\n" not in str(error.value) and not optimizer._optimizer_step_pre_hooks


# --- the training is left alone ---


def test_it_needs_only_two_folders_and_a_file_beside_it(monkeypatch):
    """Of this project, and of packages neither SciPy nor tyro."""
    needed = {"monitor", "models", "theory", "utils"}
    others = {"scipy", "tyro", *(path.stem for path in ROOT.iterdir())} - needed
    for name in {*sys.modules, *others}:
        if name.partition(".")[0] in others:
            monkeypatch.setitem(sys.modules, name, None)  # it cannot be imported
        elif name.partition(".")[0] in needed:
            monkeypatch.delitem(sys.modules, name)
    importlib.import_module("monitor")


def test_the_hooks_come_off_and_nothing_stays():
    model, optimizer, monitor = watched(every=2)
    with monitor:
        train(model, [optimizer], 5, monitor.record)
        seen, copies = len(monitor.records), [weakref.ref(old) for old in monitor._old.values()]
        assert not any(getattr(value, "requires_grad", False) for value in vars(monitor).values())
    assert copies and not any(copy() is not None for copy in copies)
    train(model, [optimizer], 5)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert len(monitor.records) == seen and monitor.steps == 5
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("place, action", [("_look", "always"), ("_make_record", "error")])
def test_a_monitor_that_fails_disturbs_neither_the_training_nor_others(
    monkeypatch, capsys, place, action
):
    model, optimizer, first = watched()
    second = watch(model, optimizer)

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(first, place, fail)
    with warnings.catch_warnings(record=action == "always") as caught:
        warnings.simplefilter(action)
        train(model, [optimizer], 2, lambda loss: (first.record(loss), second.record(loss)))
    shown = str(caught[0].message) if caught else capsys.readouterr().err.strip()
    assert shown == "the monitor stops: RuntimeError: out of memory"
    assert len(second.records) == 4 and first.records == []
    assert len(optimizer._optimizer_step_pre_hooks) == 1


# --- what is shown and saved ---


def test_no_normalisation_no_groups_and_it_says_so():
    model = small(norm=lambda width: nn.Identity())
    monitor = watch(model, optimizer := sgd(model.parameters()))
    train(model, [optimizer], 2, monitor.record)
    assert monitor.groups == [] and monitor.records == []
    assert "No tensor of this network is scale invariant" in monitor.report()


@pytest.mark.parametrize("decay, periodic", [(0.2, True), (0.001, False)])
def test_a_report_calls_periodic_what_has_forgotten_its_start(monkeypatch, decay, periodic):
    """Six periods of ten steps: after an e-fold of 5 steps all are left, of 1000 steps none."""
    cycles = [Period(t - 9, 2.0, t - 1, 0.1, t, 1.0, t + 0.1, 1.0, t + 1, 2.0, 9, 0.0)
              for t in range(10, 70, 10)]  # fmt: skip
    model, optimizer, monitor = watched(lambda p: sgd(p, weight_decay=10 * decay))
    train(model, [optimizer], 6, monitor.record)
    optimizer.param_groups[0]["lr"] *= 1e-4  # as at the end of a schedule
    train(model, [optimizer], 1, monitor.record)
    monkeypatch.setattr(Monitor, "periods", Periods(tuple(cycles), 70))
    first = next(line for line in monitor.report().splitlines() if "6 periods" in line)
    assert "one every 10 steps" in first and (": periodic" in first) == periodic


def test_the_latest_numbers_in_words_and_for_other_tools():
    model, optimizer, monitor = watched(lambda p: sgd(p, weight_decay=0.0))  # no equilibrium
    assert monitor.metrics() == {}
    train(model, [optimizer], 2, monitor.record)
    numbers = monitor.metrics()
    assert numbers["step"] == 2 and numbers["periods"] == 0
    assert numbers["si_norm/all"] == numbers["si_norm/0.weight"] == latest(monitor).si_norm
    assert "equilibrium_angle/all" not in numbers
    assert all(type(value) in (int, float) for value in numbers.values())
    report = monitor.report()
    model.eval()
    assert monitor.report() == report and "an epsilon or the precision" not in report
    assert not any(module.training for module in model.modules())


def test_groups_have_names_of_their_own():
    groups = [("a",), ("a", "b"), ("a", "c"), ("all",), ("a", "d")]
    labels = ["all", "a", "a +1", "a +1 (2)", "all (2)", "a +1 (3)"]
    assert monitoring._labels(groups) == labels


def test_saving_appends_whole_rows_and_forgets_them(tmp_path):
    path, (model, optimizer, monitor) = tmp_path / "dynamics.csv", watched(every=2)
    for _ in range(2):
        train(model, [optimizer], 4, monitor.record)
        monitor.save(path)
        monitor.save(path)  # nothing new
        assert len(monitor.records) == len(monitor.labels)
        with path.open("a") as file:
            file.write("5,all,0.1")  # a crash while writing
    train(model, [optimizer], 2, monitor.record)
    assert {record.step for record in monitor.records} == {9}
    monitor.save(path)
    header, *rows = path.read_text().splitlines()
    assert header == ",".join(monitoring.COLUMNS) and len(rows) == 5 * len(monitor.labels)
    assert read(path)["step"].tolist() == [1, 3, 5, 7, 9]
    figures_command([str(path)])
    assert imread(path.with_suffix(".png")).std() > 0.01


def test_files_that_other_programs_have_written_or_damaged(tmp_path):
    path, monitor = tmp_path / "dynamics.csv", watch(small())
    fed(monitor, range(1, 40))
    monitor.save(path)
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # a spreadsheet's
    assert read(path)["step"].tolist() == list(range(1, 40))
    fed(monitor, range(40, 50))
    monitor.save(path)
    assert read(path)["step"].tolist() == list(range(1, 50))
    path.write_text(text + "50,all,x")  # not whole: left out
    assert read(path)["step"].tolist() == list(range(1, 40))
    for content, message in (
        (f"{text}50,all,0.1\n", "damaged, line .*another length"),
        (f"{text}nan{text.splitlines()[-2][2:]}\n", "damaged, line .*nan"),
        ("another,table\n", "not a table that the monitor wrote"),
    ):
        path.write_text(content)
        with pytest.raises(monitoring.UserError, match=message):
            read(path)
    with pytest.raises(ValueError, match="columns"):
        monitor.save(path)
    path.write_text('{"important": 1}')  # without an end of line
    with pytest.raises(ValueError, match="columns"):
        monitor.save(path)
    assert path.read_text() == '{"important": 1}'
    with pytest.raises(monitoring.UserError, match="No such file"):
        read(tmp_path / "none.csv")


def test_going_on_after_a_restart(tmp_path):
    """In the middle of a period, from a checkpoint before; and with the number of steps alone."""
    whole, first, second, third = (watched(start=start)[2] for start in (0, 0, 0, 249))
    path = tmp_path / "dynamics.csv"
    fed(whole, range(1, 250))
    fed(first, range(1, 116))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    fed(first, range(116, 131))
    first.save(path)
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    broken = {"detector": {"periods": [], "more": 1}, "phase": "B", "history": []}
    for state in ({}, None, {"steps": 1, "course": broken}, {"steps": -1}):
        with pytest.raises(ValueError):  # and nothing changes
            second.load_state_dict(state)
    second.record(math.nan)  # before a return to the state
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    fed(second, range(116, 250))
    assert not any(math.isnan(record.loss) for record in second.records)
    assert second.periods.turns.tolist() == whole.periods.turns.tolist() == [45, 95, 145, 195, 245]
    forecasts = [records_of(m)[k].steps_to_turn for m, k in ((whole, 123), (second, 8))]
    assert forecasts[0] == pytest.approx(forecasts[1], abs=1) and forecasts[0] > 10
    second.save(path)
    fed(third, range(250, 300))
    third.save(path)
    columns = read(path)
    assert columns["step"].tolist() == list(range(1, 300))
    assert dynamics(columns)[1].lengths.tolist() == [50.0] * 5


@pytest.fixture
def command(tmp_path, monkeypatch):
    """monitor.py as a script, in a folder with a file of networks."""
    (tmp_path / "net.py").write_text("""
from torch import nn

def net(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Linear(144, num_classes))

def half(num_classes): return net(num_classes).bfloat16()
def leaves(num_classes):
    network = net(num_classes)
    network[2].forward = lambda x: exit(4)
    return network
def partly_half(num_classes): return nn.Sequential(net(9), nn.Linear(9, num_classes).bfloat16())
""")
    monkeypatch.chdir(tmp_path)
    return lambda words: monitoring.main(words.split())


def test_the_command_prints_the_groups(command, capsys):
    for network in ("net.py:net", "net.py:half"):
        command(f"{network} --input 4,3,8,8 --num_classes 9")
        shown = capsys.readouterr().out
        assert "1 scale-invariant group: 108 of" in shown and "0.weight" in shown
        assert "Without any effect: 0.bias" in shown


@pytest.mark.parametrize("words, message", [
    ("net.py:partly_half --input 4,3,8,8", "fails on a batch .*: RuntimeError"),
    ("none.py:net", "no file"),
    ("no_such_package.here:net", "no module"),
    ("net.py:net --input 4,3,9,9", "on a batch"),
    ("net.py:net --input four", "not a shape"),
    ("net.py:net --input 0,3,8,8", "not a shape"),
    ("net.py:net --input 99999999999999999999,3,8,8", "not a shape"),
    ("net.py:leaves --input 4,3,8,8", "SystemExit: 4"),
])  # fmt: skip
def test_what_the_command_cannot_do_is_a_line(command, words, message):
    with pytest.raises(monitoring.UserError, match=message) as error:
        command(words)
    assert "\n" not in str(error.value)
