"""Captured steps, precision and layout: what a CPU can show of computing on a GPU."""

import contextlib
import gc
import weakref

import pytest
import torch
from conftest import TINY, load_images, measure, state_of
from steps import content_of, meter_of, train_epochs, trainer_of

import data
import models
import runs
from measuring import Meter
from options import Model
from training import capture
from training.device import memory_format, products, select_device

CPU = torch.device("cpu")
BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
ASKED = {"eval_model": True, "calc_grad_norms": True, "train_mode": True}


@pytest.fixture(scope="module")
def images():
    return load_images("Digits", use_test=True, use_data_size=200)[0]


def after_epochs(images, **options):
    """A trainer after warm-up, capture, and replays at another rate; all numbers that it left."""
    trainer = trainer_of(images, **options)
    results = train_epochs(trainer, images, range(3))
    return trainer, [*results, *(value.tolist() for value in content_of(trainer))]


@pytest.mark.parametrize("options", [
    {"momentum": 0.9}, {"fbgd": True}, {"fix_si_pnorm": True, "trace": True},
])  # fmt: skip
def test_replayed_steps_are_the_called_ones(images, options, request):
    _, expected = after_epochs(images, **options)
    request.getfixturevalue("replays")
    trainer, found = after_epochs(images, **options)
    assert trainer.captured.graph is not None and found == expected


def test_replayed_measurement_is_the_called_one(images, request):
    model = models.build(Model("ConvNetSI", 2), 10)
    expected = meter_of(model, images, **ASKED).measure()
    request.getfixturevalue("replays")
    meter = meter_of(model, images, **ASKED)
    for _ in range(2):
        assert meter.measure() == expected
    assert meter.captured.graph is not None


def test_compiled_steps_and_measurements_are_the_called_ones(images, monkeypatch):
    """Code that torch.compile traces for one mode or batch size is not used for another.

    The backend here computes the traced operations one by one, so the bits are the same.
    """
    traced = []

    def backend(graph, inputs):
        # Numbers among the inputs would be sizes that may change, for which kernels are slower.
        assert all(isinstance(each, torch.Tensor) for each in inputs)
        traced.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **how: real(model, backend=backend, **how))
    results = {}
    for compiled in (False, True):
        trainer = trainer_of(images, compile=compiled)
        meters = [
            meter_of(trainer.model, images, compile=compiled, eval_model=True, **more)
            for more in ({"train_mode": True, "calc_grad_norms": True}, {})
        ]
        rows = results[compiled] = []
        for epoch in range(2):
            rows += [meter.measure() for meter in meters]
            rows += train_epochs(trainer, images, [epoch])
        rows += [value.tolist() for value in content_of(trainer)]
    assert results[True] == results[False]
    assert 0 < len(traced) < 7  # torch.compile gives up on a network after 8


def test_graphs_are_freed_with_their_owner(images):
    """No reference cycle holds a trainer or a meter until garbage collection."""
    trainer_of(images)  # the first optimiser imports PyTorch's compiler, which leaves cycles
    gc.collect()
    gc.disable()
    try:
        trainer = trainer_of(images)
        meter = meter_of(trainer.model, images, **ASKED)
        trainer.step(*next(images.batches(64)))
        meter.measure()
        graphs = [weakref.ref(trainer.captured), weakref.ref(meter.captured)]
        del trainer, meter
        assert [graph() for graph in graphs] == [None, None]
    finally:
        gc.enable()


def test_nothing_is_freed_during_a_capture(monkeypatch):
    """Garbage is collected before, and the collector is off during the capture."""
    old = type("Old", (), {})()
    old.itself, reference, states = old, weakref.ref(old), []
    del old

    @contextlib.contextmanager
    def recording(graph, stream):
        states.append((reference(), gc.isenabled(), stream))
        yield

    def fails(x):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    captured = capture.Captured(CPU)
    captured.stream = "its own"
    with pytest.raises(RuntimeError):
        captured._capture(fails, (torch.zeros(1),))
    assert captured.graph is None and gc.isenabled()
    captured._capture(torch.Tensor.zero_, (torch.zeros(1),))
    assert captured.graph is not None and gc.isenabled()
    assert states == [(None, False, "its own")] * 2


def settings():
    return {backend.fp32_precision for backend in BACKENDS}


def test_float32_is_exact_outside_of_blocks_that_allow_tf32():
    """A network may read PyTorch's older flags, which must agree with the newer."""

    def older():
        return {torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32}

    for backend in BACKENDS:
        backend.fp32_precision = "tf32"
    select_device(-1)
    assert settings() == {"ieee"}
    with products("fp32"), products("bf16"):
        assert settings() == {"ieee"}
    with pytest.raises(ZeroDivisionError), products("tf32"):
        assert settings() == {"tf32"} and older() == {True}
        1 / 0  # noqa: B018
    assert settings() == {"ieee"} and older() == {False}


@pytest.mark.parametrize("extra", ["--metrics", "", "--fbgd --eval_freq 1 --metrics"])
def test_a_run_measures_as_precisely_as_it_trains(run, monkeypatch, extra):
    """In the steps and in the measurements products are those of --precision."""
    precisions = set()

    def watch(cls, name):
        real = getattr(cls, name)

        def note(self, *arguments):
            precisions.add((name, *settings()))
            return real(self, *arguments)

        monkeypatch.setattr(cls, name, note)

    watch(torch.nn.Linear, "forward")
    watch(Meter, "_add_batch")
    run(f"--epochs 1 --precision tf32 {extra}")
    assert precisions == {("forward", "tf32"), ("_add_batch", "tf32")}
    assert settings() == {"ieee"}


def test_bfloat16_is_of_training_and_metrics_and_not_of_weights_and_curvature(run):
    """Its rounding shows in losses and gradients, a little; test.py measures the same."""
    losses, states = [], []
    for precision in ("fp32", "bf16"):
        words = "--epochs 1 --save_freq 1 --metrics --lr_init 0.001 --overwrite --precision"
        folder = run(f"{words} {precision}")
        losses.append(runs.read_log(folder)[0]["train_loss"])
        states.append([state_of(folder, epoch) for epoch in (0, 1)])
    exact, rounded = losses
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.1)
    assert all(map(torch.equal, *(state.values() for state, _ in states)))
    assert all(value.dtype != torch.bfloat16 for value in states[1][1].values())
    on_the_way = runs.Metrics.read(folder / "train-tm.npz").rows[1]
    flags = "--train_mode --eval_model --calc_grad_norms --hess_trace --epochs 1 --precision"
    plain, low = (measure(folder, f"{flags} {each}", f"{each}.npz") for each in ("fp32", "bf16"))
    for key in ("loss", "gnorm_m"):
        assert low[key] == on_the_way[key] != plain[key]
    assert low["loss"] == pytest.approx(plain["loss"], rel=2e-2)
    assert low["hess_trace"] == plain["hess_trace"]


def test_deterministic_mode_is_set_on_a_gpu_alone_and_ends_with_its_run(monkeypatch):
    """The call imports PyTorch's compiler, which takes a second and which a CPU does not need."""
    calls = []
    for name, stand_in in (
        ("use_deterministic_algorithms", lambda wanted, warn_only: calls.append(wanted)),
        ("are_deterministic_algorithms_enabled", lambda: calls[-1:] == [True]),
        ("cuda.set_device", lambda device: None),
    ):
        monkeypatch.setattr(f"torch.{name}", stand_in)
    for gpus, expected in ((0, []), (1, [True, False, True])):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpus=gpus: gpus > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        for deterministic in (False, True, True, False, True):
            select_device(0, deterministic)
        assert calls == expected
    assert not torch.utils.deterministic.fill_uninitialized_memory
    select_device(-1, deterministic=True)
    assert calls == [True, False, True, False]


@pytest.mark.parametrize("metrics, measured", [("", 1), ("--metrics", 3)])
@pytest.mark.parametrize("base", [TINY, TINY.replace("--use_test", "")])
def test_all_images_of_a_run_are_on_its_device(run, monkeypatch, metrics, measured, base):
    """A CPU has no second device to see a difference, so the calls that move images are watched."""
    moved, used = [], []
    to, init = data.ImageSet.to, Meter.__init__

    def noted_init(self, model, images, *arguments, **more):
        used.append(images)
        init(self, model, images, *arguments, **more)

    monkeypatch.setattr(data.ImageSet, "to", lambda *how: moved.append(to(*how)) or moved[-1])
    monkeypatch.setattr(Meter, "__init__", noted_init)
    run(f"--epochs 1 {metrics}", base)
    assert len(used) == measured
    assert all(any(images is each for each in moved) for images in used)


@pytest.mark.parametrize("norm", models.NORMS)
def test_layout_is_the_one_that_suits_the_layers(norm):
    network = models.build(Model("ConvNetSI", 8, norm=norm), 10)
    grouped = any(isinstance(m, torch.nn.GroupNorm) for m in network.modules())
    wanted = torch.contiguous_format if grouped else torch.channels_last
    assert memory_format(torch.device("cuda", 0), 8, norm) == wanted
    fast = norm not in ("group", "instance")  # on a CPU, from a width of 8 on
    assert (memory_format(CPU, 8, norm) == torch.channels_last) == fast
    assert memory_format(CPU, 4, norm) == torch.contiguous_format


def test_the_time_left_is_told_from_the_second_epoch(run, capsys):
    """The first includes what happens once. A resumed run has a second one again."""
    run("--epochs 4 --save_freq 1")
    out = capsys.readouterr().out
    assert out.count("to train") == 1 and "second epoch" in out
    run("--epochs 5 --resume --save_freq 1")
    assert "to train" not in capsys.readouterr().out
