"""The monitor in a bare loop, and that it changes nothing there."""

import csv
import gc
import math
import warnings
import weakref

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn
from torch.nn import functional as F

import data
import models
import monitor as monitoring
import runs
from figures.__main__ import main as figures_command
from figures.dynamics import dynamics, read
from monitor import Monitor, equilibrium_angle
from options import Model
from runs import checkpoints
from theory.dynamics import jump_threshold, next_norm, norm_power
from theory.periods import Period, Periods, find_periods
from training.device import seed_from

LR, WD, IMAGES, BATCH, EPOCHS = 3.0, 0.01, 64, 32, 62


def small(norm=nn.BatchNorm1d):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), norm(8), nn.ReLU(), nn.Linear(8, 5))


def batch(number=16):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(number, 6, generator=generator),
        torch.randint(5, (number,), generator=generator),
    )


def loop(model, optimizer, steps, record=lambda loss: None):
    x, y = batch()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        record(loss)


def test_it_finds_the_periods_of_train_py_and_leaves_the_training_as_it_is(run):
    """The same steps by train.py and in a loop with the monitor: same bits, same periods."""
    folder = run(
        f"--num_channels 4 --use_data_size {IMAGES} --batch_size {BATCH} --lr_init {LR} --wd {WD} "
        f"--epochs {EPOCHS} --save_freq {EPOCHS} --eval_freq {EPOCHS}"
    )
    images, _ = data.load("Digits", ".", use_test=True, use_data_size=IMAGES)
    model = models.build(Model("ConvNetSI", 4), 10)
    checkpoints.load_weights(model, checkpoints.load(folder / "checkpoint-0.pt"), "")
    weights, others = models.split_parameters(model)
    groups = [{"params": weights, "lr": LR}, {"params": others, "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, weight_decay=WD, fused=True)
    monitor = Monitor(model, optimizer, torch.randn(4, 3, 32, 32), every=2)
    for epoch in range(EPOCHS):
        order = torch.Generator().manual_seed(seed_from(1, 0, epoch))
        for x, y in images.batches(BATCH, order, shuffle=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            monitor.record(loss)
    expected = checkpoints.load(folder / f"checkpoint-{EPOCHS}.pt")["state_dict"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    log = {key: [row[key] for row in runs.read_log(folder)] for key in runs.read_log(folder)[0]}
    turns = find_periods(log["epoch"], log["train_loss"], log["si_norm"]).turns
    assert len(turns) >= 2
    assert np.allclose(monitor.periods.turns / 2, turns, atol=1)
    assert f"{len(turns)} periods so far" in monitor.report()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.02),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.02),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_record_is_what_the_step_did(name):
    """Norm, gradient and angle of the one invariant tensor, measured by hand."""
    model = small()
    weight = model[0].weight
    optimizer = OPTIMIZERS[name](model.parameters())
    monitor = Monitor(model, optimizer, batch()[0], every=3)
    for step in range(1, 8):
        before = weight.detach().clone()
        loop(model, optimizer, 1, monitor.record)
        if step % 3 != 1:
            continue
        latest = monitor.records[-len(monitor.labels)]
        old, new = before.double().flatten(), weight.detach().double().flatten()
        angle = torch.acos(old @ new / (old.norm() * new.norm())).item()
        rate = optimizer.param_groups[0]["lr"]
        assert latest.step == step and latest.group == "all"
        assert latest.si_norm == pytest.approx(old.norm().item())
        power = 1 if name.startswith("adam") else 2
        assert latest.effective_lr == pytest.approx(rate / old.norm().item() ** power)
        gradient = weight.grad.double().norm().item() * old.norm().item()
        assert latest.effective_gradient_norm == pytest.approx(gradient)
        assert latest.angle == pytest.approx(angle, rel=1e-3)
        if name == "sgd":  # and so it goes by the theory
            after = next_norm(old.norm().item(), gradient, 0.1, 0.02)
            assert new.norm().item() == pytest.approx(float(after), rel=1e-5)
    assert (latest.equilibrium_angle is None) == (name == "adam")
    assert (latest.jump_threshold is None) == name.startswith("adam")


def test_the_loss_of_a_record_is_the_mean_since_the_last_one():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor, losses, kept = Monitor(model, optimizer, batch()[0], every=3), iter(range(1, 9)), []
    loop(
        model, optimizer, 8, lambda _: monitor.record(next(losses)) or kept.extend(monitor.records)
    )
    assert {record.step: record.loss for record in kept} == {1: 1, 4: 3, 7: 6}


def test_groups_of_the_optimiser_keep_their_own_rates():
    model = small()
    parts = [
        {"params": model[0].parameters(), "lr": 0.3, "weight_decay": 0.1},
        {"params": [*model[1].parameters(), *model[3].parameters()], "lr": 0.01},
    ]
    optimizer = torch.optim.SGD(parts, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    monitor = Monitor(model, optimizer, batch()[0], every=1)
    loop(model, optimizer, 1, monitor.record)
    schedule.step()
    loop(model, optimizer, 1, monitor.record)
    record = monitor.records[-1]
    assert (record.lr, record.decay) == pytest.approx((0.15, 0.015))
    assert record.equilibrium_angle == pytest.approx(math.sqrt(2 * 0.15 * 0.1))
    assert record.jump_threshold == pytest.approx(float(jump_threshold(0.01, 0.15, 0.1)))


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "dampened", "adamw"])
def test_equilibrium_angle_is_where_random_gradients_and_decay_balance(name):
    """Gradients of random directions, orthogonal to one large tensor, until ρ is steady."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(2000, dtype=torch.float64))
    optimizer = {
        "sgd": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.1),
        "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.8, weight_decay=0.05),
        "nesterov": lambda p: torch.optim.SGD(
            p, 0.05, momentum=0.8, nesterov=True, weight_decay=0.05
        ),
        "dampened": lambda p: torch.optim.SGD(
            p, 0.1, momentum=0.8, dampening=0.5, weight_decay=0.05
        ),
        "adamw": lambda p: torch.optim.AdamW(p, 0.02, (0.8, 0.99), weight_decay=0.5),
    }[name]([weight])
    squares = []
    for step in range(1500):
        old = weight.detach().clone()
        gradient = torch.randn_like(old)
        gradient -= (gradient @ old) / (old @ old) * old
        weight.grad = gradient / old.norm()
        optimizer.step()
        if step >= 750:
            new = weight.detach()
            squares.append(torch.acos(old @ new / (old.norm() * new.norm())).item() ** 2)
    expected = equilibrium_angle(optimizer, optimizer.param_groups[0])
    assert math.sqrt(np.mean(squares)) == pytest.approx(expected, rel=0.1)


def test_no_normalisation_no_groups_and_it_says_so():
    model = small(norm=lambda channels: nn.Identity())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer, batch()[0])
    loop(model, optimizer, 20, monitor.record)
    assert monitor.groups == [] and monitor.records == []
    assert "No tensor of this network is scale invariant" in monitor.report()


def test_frozen_tensors_are_left_out():
    model = small()
    model[1].bias.requires_grad_(False)
    model[0].weight.requires_grad_(False)
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 0.1), batch()[0])
    assert monitor.groups == [] and monitor.found.groups == (("0.weight",),)


def test_only_what_the_optimiser_trains_is_followed():
    model = small()
    monitor = Monitor(model, torch.optim.SGD(model[3].parameters(), 0.1), batch()[0])
    assert monitor.groups == [] and monitor.found.groups == (("0.weight",),)


def test_the_norm_of_all_is_that_of_the_matrices():
    """Scales and shifts between two layers are a group of their own, and no part of it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 7, bias=False),
        nn.BatchNorm1d(7, affine=False), nn.Linear(7, 5),
    )  # fmt: skip
    decays = {0: 0.1, 3: 0.4}
    optimizer = torch.optim.SGD(
        [{"params": model[k].parameters(), "weight_decay": decays.get(k, 0.0)}
         for k in (0, 1, 3, 5)], 0.1,
    )  # fmt: skip
    monitor = Monitor(model, optimizer, batch()[0], every=1)
    assert monitor.groups == [("0.weight",), ("1.weight", "1.bias"), ("3.weight",)]
    squares = {k: model[k].weight.square().sum().item() for k in decays}
    before = math.sqrt(sum(squares.values()))
    angle = math.sqrt(sum(squares[k] * 2 * 0.1 * decays[k] for k in decays)) / before
    loop(model, optimizer, 1, monitor.record)
    assert monitor.records[0].group == "all"
    assert monitor.records[0].si_norm == pytest.approx(before)
    assert monitor.records[0].equilibrium_angle == pytest.approx(angle)  # by their shares of ρ²


@pytest.mark.parametrize("decay, periodic", [(0.2, True), (0.001, False)])
def test_a_report_calls_periodic_what_has_forgotten_its_start(monkeypatch, decay, periodic):
    """Six periods of ten steps: after an e-fold of 5 steps five are left, of 1000 steps none."""
    cycles = tuple(
        Period(t - 9, 2.0, t - 1, 0.1, t, 1.0, t + 0.1, 1.0, t + 1, 2.0, 9, 0.0)
        for t in range(10, 70, 10)
    )
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=10 * decay)
    monitor = Monitor(model, optimizer, batch()[0], every=1)
    loop(model, optimizer, 1, monitor.record)
    monkeypatch.setattr(Monitor, "periods", Periods(cycles))
    first = next(line for line in monitor.report().splitlines() if "6 periods" in line)
    assert "one every 10 steps" in first and (": periodic" in first) == periodic


def test_the_hooks_come_off_and_nothing_stays():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    before = [len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)]
    with Monitor(model, optimizer, batch()[0], every=2) as monitor:
        loop(model, optimizer, 5, monitor.record)
        seen = len(monitor.records)
        copies = [weakref.ref(tensor) for tensor in monitor._old]
    assert copies and not any(copy() is not None for copy in copies)
    loop(model, optimizer, 5)
    after = [len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)]
    assert after == before == [0, 0] and len(monitor.records) == seen and monitor.steps == 5
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert gone() is None


def test_records_keep_little_between_two_savings_and_no_graph(tmp_path):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    monitor = Monitor(model, optimizer, batch()[0], every=1)
    for _ in range(4):
        loop(model, optimizer, 3, monitor.record)
        monitor.save(tmp_path / "dynamics.csv")
        assert len(monitor.records) == len(monitor.labels)
    loop(model, optimizer, 1, monitor.record)  # what is saved goes with the next record
    assert {record.step for record in monitor.records} == {13}
    kept = [v for v in vars(monitor).values() if isinstance(v, torch.Tensor) and v.requires_grad]
    assert kept == []


def test_saving_appends_whole_rows(tmp_path):
    path = tmp_path / "dynamics.csv"
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    monitor = Monitor(model, optimizer, batch()[0], every=2)
    for _ in range(2):
        loop(model, optimizer, 4, monitor.record)
        monitor.save(path)
        monitor.save(path)  # nothing new
        with path.open("a") as file:
            file.write("5,all,0.1")  # a crash while writing
    loop(model, optimizer, 2, monitor.record)
    monitor.save(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == monitoring.COLUMNS
    steps = [int(row["step"]) for row in rows if row["group"] == "all"]
    assert steps == [1, 3, 5, 7, 9] and all(None not in row.values() for row in rows)
    cut = path.read_text() + "11,all,x"  # not whole yet: left out
    path.write_text(cut)
    figures_command([str(path)])
    assert imread(path.with_suffix(".png")).std() > 0.01
    path.write_text(cut + "\n")
    with pytest.raises(monitoring.UserError, match="damaged"):
        figures_command([str(path)])
    path.write_text("another,table\n")
    with pytest.raises(monitoring.UserError, match="not a table that the monitor wrote"):
        figures_command([str(path)])
    with pytest.raises(ValueError, match="columns"):
        monitor.save(path)


def test_weights_of_zeros_have_no_direction():
    """As a last normalisation's scale that starts at zero: everybody else is measured."""
    model = nn.Sequential(small(), nn.LayerNorm(5), nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4))
    nn.init.zeros_(model[2].weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    monitor = Monitor(model, optimizer, batch()[0], every=1)
    x, _ = batch()
    model(x)[:, 0].sum().mul(0).backward()
    optimizer.step()
    monitor.record(1.0)
    zero = next(record for record in monitor.records if record.group == "2.weight")
    assert all(map(math.isnan, (zero.si_norm, zero.angle, zero.effective_lr)))
    assert all(r.si_norm > 0 and r.angle >= 0 for r in monitor.records if r is not zero)
    assert "2.weight" in monitor.report()
    for weight in monitor.weights:  # all of them: no period begins or ends there
        nn.init.zeros_(weight)
    optimizer.step()
    monitor.record(1.0)
    assert math.isnan(monitor.records[-len(monitor.labels)].si_norm) and not monitor.periods


def test_a_network_in_parallel_is_what_it_was_made_from():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    assert Monitor(nn.DataParallel(model), optimizer, batch()[0]).groups == [("0.weight",)]


def test_a_compiled_network_and_accumulated_gradients():
    model = small()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(compiled.parameters(), 0.1, weight_decay=0.01)
    monitor = Monitor(compiled, optimizer, batch()[0], every=1)
    x, y = batch()
    for images, labels in zip(x.split(8), y.split(8), strict=True):
        (F.cross_entropy(compiled(images), labels) / 2).backward()
    gradient = model[0].weight.grad.clone()
    rho = model[0].weight.norm().item()
    optimizer.step()
    monitor.record(0.5)
    record = monitor.records[1]
    assert record.group == "0.weight" and record.loss == 0.5
    assert record.effective_gradient_norm == pytest.approx(rho * gradient.norm().item())


def test_the_command_prints_the_groups(capsys, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),\n"
        "                         nn.Flatten(), nn.Linear(144, num_classes))\n"
        "number = 3\n"
    )
    monitoring.main([f"{file}:net", "--input", "4,3,8,8", "--num_classes", "9"])
    shown = capsys.readouterr().out
    assert "1 scale-invariant group: 108 of" in shown and "0.weight" in shown
    assert "Without any effect: 0.bias" in shown
    for words, message in [
        ([f"{file}:other"], "no function other"),
        ([f"{tmp_path}/none.py:net"], "no file"),
        (["no_such_package.here:net"], "no module"),
        ([f"{file}:net", "--input", "4,3,9,9"], "on a batch"),
        ([f"{file}:net", "--input", "four"], "not a shape"),
        ([f"{file}:net", "--input", "0,3,8,8"], "not a shape"),
    ]:
        with pytest.raises(monitoring.UserError, match=message):
            monitoring.main(words)


def test_what_is_invariant_under_adam_is_the_rate_over_the_norm():
    """w × 10, η × 10, λ / 10: the same functions, and so the same effective rates."""
    outputs, rates = [], []
    for factor in (1, 10):
        model = small(lambda width: nn.BatchNorm1d(width, eps=1e-30, affine=False)).double()
        with torch.no_grad():
            model[0].weight.mul_(factor)
        groups = [
            {"params": model[0].parameters(), "lr": 0.01 * factor, "weight_decay": 0.1 / factor},
            {"params": model[3].parameters(), "lr": 0.01},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-30)
        x, y = batch()
        monitor = Monitor(model, optimizer, x.double(), every=1)
        for _ in range(5):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x.double()), y)
            loss.backward()
            optimizer.step()
            monitor.record(loss)
        outputs.append(model(x.double()))
        rates.append([r.effective_lr for r in monitor.records if r.group == "all"])
    assert torch.allclose(outputs[0], outputs[1], rtol=1e-10)
    assert rates[0] == pytest.approx(rates[1], rel=1e-10)


class Wrapper:
    """As Accelerate's: hands on what it is asked for, and is no optimiser itself."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self):
        self.optimizer.step()


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation (Foret et al., 2021), with its two half steps."""

    def __init__(self, params, base, **options):
        super().__init__(params, {"rho": 0.05, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        group = self.param_groups[0]
        self.old = [p.clone() for p in group["params"]]
        for p in group["params"]:
            p.add_(p.grad, alpha=group["rho"])

    @torch.no_grad()
    def second_step(self):
        for p, old in zip(self.param_groups[0]["params"], self.old, strict=True):
            p.copy_(old)
        self.base_optimizer.step()


def test_a_wrapped_optimiser_is_watched_inside():
    model = small()
    inner = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    monitor = Monitor(model, Wrapper(Wrapper(inner)), batch()[0], every=1)
    loop(model, Wrapper(inner), 3, monitor.record)
    assert [r.step for r in monitor.records if r.group == "all"] == [1, 2, 3]
    assert monitor.records[0].lr == pytest.approx(0.1)


def test_sharpness_aware_minimisation_is_measured_from_weights_to_weights():
    model = small()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, weight_decay=0.01)
    monitor = Monitor(model, optimizer, batch()[0], every=1)
    x, y = batch()
    for _ in range(2):
        old = model[0].weight.detach().clone().flatten()
        F.cross_entropy(model(x), y).backward()
        optimizer.first_step()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.second_step()
        optimizer.zero_grad()
        monitor.record(1.0)
    new = model[0].weight.detach().flatten()
    angle = torch.acos(old.double() @ new.double() / (old.double().norm() * new.double().norm()))
    assert monitor.records[-2].si_norm == pytest.approx(old.norm().item())
    assert monitor.records[-2].angle == pytest.approx(angle.item(), rel=1e-3)


def test_several_optimisers_are_one_step():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 7, bias=False),
        nn.BatchNorm1d(7, affine=False), nn.Linear(7, 5),
    )  # fmt: skip
    first = torch.optim.SGD(model[0].parameters(), 0.1, weight_decay=0.01)
    second = torch.optim.AdamW([*model[1].parameters(), *model[3].parameters()], 0.02)
    monitor = Monitor(model, [first, second], batch()[0], every=2)
    assert monitor.left_out == {}
    x, y = batch()
    for _ in range(4):
        before = {k: model[k].weight.detach().clone() for k in (0, 3)}
        for optimizer in (first, second):
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        for optimizer in (first, second):
            optimizer.step()
        monitor.record(loss)
        if monitor.steps == 3:
            kept = before, {k: model[k].weight.detach().clone() for k in (0, 3)}
    assert sorted({r.step for r in monitor.records}) == [1, 3] and monitor.steps == 4
    for k, rate in ((0, 0.1), (3, 0.02)):
        old, new = (w[k].double().flatten() for w in kept)
        record = [r for r in monitor.records if r.group == f"{k}.weight"][-1]
        angle = torch.acos(old @ new / (old.norm() * new.norm())).item()
        assert record.angle == pytest.approx(angle, rel=1e-3) and record.lr == pytest.approx(rate)
        assert record.effective_lr == pytest.approx(
            rate / old.norm().item() ** (2 if k == 0 else 1)
        )


def test_what_is_trained_is_looked_at_in_every_step():
    model = small()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model[3].parameters(), 0.1, weight_decay=0.01)
    monitor = Monitor(model, optimizer, batch()[0], every=1)
    assert monitor.left_out == {("0.weight",): "0.weight is frozen"}
    assert "0.weight is frozen" in monitor.report()
    model[0].weight.requires_grad_(True)
    loop(model, optimizer, 1, monitor.record)
    assert monitor.left_out == {("0.weight",): "0.weight is in no optimiser that is watched"}
    optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.3})
    loop(model, optimizer, 1, monitor.record)
    assert monitor.left_out == {} and monitor.groups == [("0.weight",)]
    assert monitor.records[-1].lr == pytest.approx(0.3)
    assert "Left out" not in monitor.report()


def test_sparse_gradients_and_rates_that_are_not_numbers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(11, 6, sparse=True), nn.LayerNorm(6, elementwise_affine=False),
        nn.Linear(6, 5),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.tensor([1, 3, 3, 5])
    monitor = Monitor(model, optimizer, x, every=1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(x), x % 5).backward()
        gradient, norm = model[0].weight.grad.to_dense().norm(), model[0].weight.detach().norm()
        optimizer.step()
        monitor.record(1.0)
    record = monitor.records[-1]
    assert record.effective_gradient_norm == pytest.approx((gradient * norm).item(), rel=1e-5)
    for rate, loss in ((None, 1.0), (0.0, math.nan), (math.inf, math.inf), (math.nan, None)):
        optimizer.param_groups[0]["lr"] = rate
        monitor._before(optimizer)
        monitor._after(optimizer)
        monitor.record(loss)
        assert "Step" in monitor.report()
        assert all(math.isfinite(value) for value in monitor.metrics().values())
    assert monitor.records[-1].step == 6 and monitor.records[-1].si_norm > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 0}, "every"),
        ({"every": 1.5}, "every"),
        ({"start": -1}, "start"),
        ({"every": True}, "every"),
        ({"optimizer": object()}, "object is no torch.optim.Optimizer"),
        ({"model": torch.relu}, "is no torch.nn.Module"),
        ({"inputs": torch.zeros(4, 7)}, "fails when it is probed"),
    ],
)
def test_what_cannot_be_watched_is_refused_at_once_in_a_line(change, message):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    arguments = {"model": model, "optimizer": optimizer, "inputs": batch()[0], **change}
    with pytest.raises(ValueError, match=message) as error:
        Monitor(**arguments)
    assert "\n" not in str(error.value)
    assert not optimizer._optimizer_step_pre_hooks


def test_a_measurement_that_fails_leaves_the_training_alone(monkeypatch):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer, batch()[0], every=1)

    def fail(_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(monitoring, "norms", fail)
    with pytest.warns(UserWarning, match="the monitor stops: RuntimeError: out of memory"):
        loop(model, optimizer, 3, monitor.record)
    assert not optimizer._optimizer_step_pre_hooks and monitor.records == []


def test_the_latest_numbers_for_other_tools():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)  # no decay: no equilibrium
    monitor = Monitor(model, optimizer, batch()[0], every=1)
    assert monitor.metrics() == {}
    loop(model, optimizer, 2, monitor.record)
    numbers = monitor.metrics()
    assert numbers["step"] == 2 and numbers["periods"] == 0
    assert numbers["si_norm/all"] == numbers["si_norm/0.weight"] == monitor.records[-1].si_norm
    assert "equilibrium_angle/all" not in numbers
    assert all(type(value) in (int, float) for value in numbers.values())


def fed(monitor, steps, period=100):
    """Give the monitor the course of perfect periods, in place of a training."""
    for step in steps:
        at = (step % period) / period
        rho, loss = (2 - at / 0.9, 0.01) if at < 0.9 else (1 + 10 * (at - 0.9), 1.0)
        for weight in monitor.weights:
            weight.data.mul_(rho / weight.data.norm())
        monitor._before(monitor.optimizers[0])
        monitor._after(monitor.optimizers[0])
        monitor.record(loss)


def test_going_on_after_a_restart(tmp_path):
    """Periods of 100 steps, with a restart in the middle of one, from a checkpoint before."""
    path, model = tmp_path / "dynamics.csv", small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    whole = Monitor(model, optimizer, batch()[0], every=1)
    fed(whole, range(1, 700))
    first = Monitor(model, optimizer, batch()[0], every=1)
    fed(first, range(1, 331))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    fed(first, range(331, 361))
    first.save(path)
    second = Monitor(model, optimizer, batch()[0], every=1)
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    fed(second, range(331, 700))
    assert second.periods.turns.tolist() == whole.periods.turns.tolist() == [*range(90, 691, 100)]
    forecasts = [m.records[k].steps_to_turn for m, k in ((whole, 2 * 345), (second, 2 * 15))]
    assert forecasts[0] == pytest.approx(forecasts[1], abs=1) and forecasts[0] > 20
    second.save(path)
    columns = read(path)
    assert columns["step"].tolist() == list(range(1, 700))
    assert dynamics(columns)[1].lengths.tolist() == [100.0] * 6
    third = Monitor(model, optimizer, batch()[0], every=1, start=699)
    fed(third, range(700, 800))
    third.save(path)
    assert read(path)["step"].tolist() == list(range(1, 800))


def test_several_runs_in_one_file_are_no_periods(tmp_path):
    path = tmp_path / "dynamics.csv"
    for _ in range(6):
        model = small()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
        monitor = Monitor(model, optimizer, batch()[0], every=1)
        fed(monitor, range(1, 90))
        monitor.save(path)
    columns = read(path)
    assert columns["step"].tolist() == list(range(1, 90))
    assert len(dynamics(columns)[1]) == 0


class Composite:
    """As some training scripts have it: an object that holds an optimiser for each part."""

    def __init__(self, **optimizers):
        vars(self).update(optimizers)

    def step(self):
        for optimizer in vars(self).values():
            optimizer.step()


@pytest.mark.parametrize("name", ["inner_optimizer", "wrapped", "opt", "_anything"])
def test_optimisers_are_found_inside_of_any_wrapper_once(name):
    model = small()
    first = torch.optim.SGD(model[0].parameters(), 0.1)
    second = torch.optim.SGD([*model[1].parameters(), *model[3].parameters()], 0.1)
    for optimizer in (
        Composite(**{name: Composite(a=first), "other": second}),
        {name: first, "other": [second, first]},
    ):
        with Monitor(model, optimizer, batch()[0]) as monitor:
            assert monitor.optimizers == [first, second] and monitor.left_out == {}
    for nothing in ([], None, Composite(), nn.ReLU()):
        with pytest.raises(ValueError, match="holds none: its steps cannot be watched"):
            Monitor(model, nothing, batch()[0])


class Clipping(torch.optim.SGD):
    """A step that calls that of the class it is derived from: PyTorch runs the hooks twice."""

    def step(self, closure=None):
        group = self.param_groups[0]
        with torch.no_grad():
            for p in group["params"]:
                p.mul_(0.9)
        return super().step(closure)


def test_a_step_within_a_step_and_one_that_fails_are_no_steps():
    model, x = small(), batch()[0]
    torch.optim.SGD(model.parameters(), 0.1)  # from now on PyTorch hooks its class, too
    optimizer = Clipping(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer, x, every=1)
    before = model[0].weight.norm().item()
    loop(model, optimizer, 1, monitor.record)
    assert monitor.steps == 1 and monitor.records[0].si_norm == pytest.approx(before)

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(fail)
    loop(model, optimizer, 2, monitor.record)
    assert [r.step for r in monitor.records if r.group == "all"] == [1, 2, 3]


def test_an_optimiser_that_is_skipped_does_not_shift_the_steps_of_the_others():
    """As a gradient scaler skips it."""
    model, (x, y) = small(), batch()
    first = torch.optim.SGD(model[0].parameters(), 0.1)
    second = torch.optim.SGD([*model[1].parameters(), *model[3].parameters()], 0.1)
    monitor = Monitor(model, [first, second], x, every=1)
    for step in range(4):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        for optimizer in [first, second][step == 1 :]:
            optimizer.step()
        monitor.record(loss)
    angles = [r.angle for r in monitor.records if r.group == "all"]
    assert monitor.steps == 4 and angles[1] == 0 and min(angles[0], *angles[2:]) > 0


class LARS(torch.optim.SGD):
    def step(self):
        raise NotImplementedError


def test_what_the_rate_and_decay_of_an_optimiser_mean_is_not_guessed():
    """Subclasses with steps of their own; decay that is divided with the gradient."""
    optim, decays = torch.optim, {"weight_decay": 0.1}
    parameters = [nn.Parameter(torch.ones(2, 2))]
    for make, rule, decay, is_balanced in [
        (optim.SGD, 2, 0.1, True),
        (optim.AdamW, 1, 0.1, True),
        (optim.Adam, 1, math.nan, False),
        (optim.NAdam, 1, math.nan, False),
        (optim.RMSprop, 1, math.nan, False),
        (optim.Adagrad, 1, math.nan, False),
        (optim.Adafactor, None, 0.1, False),
        (optim.ASGD, None, 0.1, False),
        (LARS, None, 0.1, False),
    ]:
        optimizer = make(parameters, lr=0.1, **decays)
        group = optimizer.param_groups[0]
        assert norm_power(monitoring._rule(optimizer)) == rule, make
        assert monitoring._decay(optimizer, group) == pytest.approx(decay, nan_ok=True), make
        assert (equilibrium_angle(optimizer, group) is not None) == is_balanced, make
    for name, power in {"SignSGD": 1, "NormalizedSGD": 1, "SGDW": 2, "Lion8bit": 1, "Lamb": None,
                        "MuonWithAuxAdam": 1, "Adadelta": None}.items():  # fmt: skip
        assert norm_power(name) == power, name


def test_a_parameter_that_is_replaced_ends_the_numbers_of_its_group():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer, batch()[0], every=1)
    loop(model, optimizer, 2, monitor.record)
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())
    loop(model, optimizer, 2, monitor.record)
    assert "0.weight is in no optimiser that is watched" in monitor.report()
    assert monitor.metrics() == {}


def test_groups_have_names_of_their_own():
    groups = [("a",), ("a", "b"), ("a", "c"), ("all",), ("a", "d")]
    assert monitoring._labels(groups) == [
        "all", "a", "a +1", "a +1 (2)", "all (2)", "a +1 (3)"
    ]  # fmt: skip


@pytest.mark.parametrize("state", [{}, None, {"steps": 1, "course": {}}, {"steps": -1}])
def test_a_state_that_is_none_is_refused_and_nothing_changes(state):
    model = small()
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 0.1), batch()[0], start=7)
    with pytest.raises(ValueError):
        monitor.load_state_dict(state)
    assert monitor.steps == 7


def test_files_that_other_programs_have_written_or_damaged(tmp_path):
    path, model = tmp_path / "dynamics.csv", small()
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 0.1), batch()[0], every=1)
    fed(monitor, range(1, 40))
    monitor.save(path)
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # a spreadsheet's
    assert read(path)["step"].tolist() == list(range(1, 40))
    fed(monitor, range(40, 50))
    monitor.save(path)
    assert read(path)["step"].tolist() == list(range(1, 50))
    for row, message in [
        ("50,all,0.1", "another length"),
        ("nan" + text.splitlines()[-2][2:], "nan"),
    ]:
        path.write_text(f"{text}{row}\n")
        with pytest.raises(monitoring.UserError, match=f"damaged, line .*{message}"):
            read(path)
    with pytest.raises(monitoring.UserError, match="No such file"):
        read(tmp_path / "none.csv")


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_a_monitor_that_fails_disturbs_neither_the_step_nor_other_hooks(monkeypatch, action):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    first, second = (Monitor(model, optimizer, batch()[0], every=1) for _ in range(2))

    def fail():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(first, "_look", fail)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        loop(model, optimizer, 2, lambda loss: (first.record(loss), second.record(loss)))
    assert len(second.records) == 4 and first.records == []
    assert len(optimizer._optimizer_step_pre_hooks) == 1
