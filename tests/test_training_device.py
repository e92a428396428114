"""Captured steps, precision and layout: what a CPU can show of computing on a GPU."""

import contextlib
import gc
import weakref

import pytest
import torch
from conftest import TINY, load_images, measure

import data
import models
import runs
import train
from measuring import Meter, parameter_names
from options import Measure, Model, Train
from runs import checkpoints
from training import Trainer, capture
from training.device import memory_format, products, select_device
from training.trace import StepTrace

CPU = torch.device("cpu")
BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


def digits(count=200):
    return load_images("Digits", use_test=True, use_data_size=count)[0]


def trainer_of(images, **asked):
    torch.manual_seed(0)
    asked = Train(**{"lr_init": 0.1, "wd": 0.0, "momentum": 0.0, "batch_size": 64, **asked})
    return Trainer(models.build(Model("ConvNetSI", 2), 10), asked, len(images), CPU)


def meter_of(model, images, **how):
    asked = {"eval_model": True, "calc_grad_norms": True, "train_mode": True, **how}
    names = {"si": parameter_names(model, si_only=True)}
    return Meter(model, images, Measure(batch_size=64, **asked), names)


def weights_after_epochs(**asked):
    images = digits()
    trainer = trainer_of(images, **asked)
    results = []
    for epoch in range(3):  # warm-up, capture and replays, replays at another rate
        trainer.set_lr(trainer.base_lr / (1 + epoch))
        for x, y in images.batches(64, torch.Generator().manual_seed(epoch), shuffle=True):
            trainer.step(x, y)
        results.append(trainer.finish_epoch())
        if trainer.trace:
            results.append(trainer.trace.take())
    return trainer, results, [p.detach().clone() for p in trainer.model.parameters()]


@pytest.mark.parametrize("asked", [
    {"momentum": 0.9}, {"fbgd": True}, {"fix_si_pnorm": True, "trace": True},
])  # fmt: skip
def test_replayed_steps_are_the_called_ones(asked, request):
    _, results, weights = weights_after_epochs(**asked)
    request.getfixturevalue("replays")
    trainer, replayed_results, replayed = weights_after_epochs(**asked)
    assert trainer.captured.graph is not None
    assert replayed_results == results
    assert all(map(torch.equal, replayed, weights))


def replace_rate(self, lr):
    self.optimizer.param_groups[0]["lr"] = torch.tensor(lr)


def count_in_python(self, loss, real=StepTrace.after):
    self.count = getattr(self, "count", -1) + 1
    self.position = torch.tensor([self.count % len(self.rows)])
    real(self, loss)


@pytest.mark.parametrize("place, method, fault", [
    (Trainer, "_rate", lambda self: self.base_lr),  # a number, which the graph keeps for ever
    (Trainer, "_fix_norm", lambda self: self.loss_sum.item()),  # waits for the device
    (Trainer, "_fix_norm", lambda self: setattr(self, "correct", self.correct + 0)),  # elsewhere
    (Trainer, "set_lr", replace_rate),
    (StepTrace, "after", count_in_python),
])  # fmt: skip
def test_what_a_graph_would_get_wrong_is_caught(place, method, fault, request, monkeypatch):
    """By the test above, as the graphs on the CPU are like those of a GPU in this."""
    _, results, weights = weights_after_epochs(trace=True)
    request.getfixturevalue("replays")
    monkeypatch.setattr(place, method, fault)
    try:
        _, replayed_results, replayed = weights_after_epochs(trace=True)
    except RuntimeError as error:
        assert "waits for the device" in str(error) or "has been freed" in str(error)
    else:
        assert replayed_results != results or not all(map(torch.equal, replayed, weights))


def test_replayed_measurement_is_the_called_one(request):
    images, model = digits(400), models.build(Model("ConvNetSI", 2), 10)
    expected = meter_of(model, images).measure()
    request.getfixturevalue("replays")
    meter = meter_of(model, images)
    for _ in range(2):
        assert meter.measure() == expected
    assert meter.captured.graph is not None


def test_compiled_steps_and_measurements_are_the_called_ones(monkeypatch):
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
    results, images = {}, digits()
    for compiled in (False, True):
        trainer = trainer_of(images, compile=compiled)
        meters = [
            meter_of(trainer.model, images, compile=compiled, train_mode=mode, calc_grad_norms=mode)
            for mode in (True, False)
        ]
        rows = results[compiled] = []
        for _ in range(2):
            rows += [meter.measure() for meter in meters]
            for x, y in images.batches(64):
                trainer.step(x, y)
            rows.append(trainer.finish_epoch())
        rows.append([v.tolist() for v in trainer.model.state_dict().values()])
    assert results[True] == results[False]
    # torch.compile gives up on a network after 8.
    assert 0 < len(traced) < 7


def test_graphs_are_freed_with_their_owner():
    """No reference cycle holds a trainer or a meter until garbage collection."""
    images = digits()
    gc.collect()
    gc.disable()
    try:
        trainer = trainer_of(images)
        meter = meter_of(trainer.model, images)
        trainer.step(*next(images.batches(64)))
        meter.measure()
        graphs = [weakref.ref(trainer.captured), weakref.ref(meter.captured)]
        del trainer, meter
        assert [graph() for graph in graphs] == [None, None]
    finally:
        gc.enable()


def test_nothing_is_freed_during_a_capture(monkeypatch):
    """Garbage is collected before, and the collector is off during the capture."""

    class Old:
        pass

    old = Old()
    old.itself, reference = old, weakref.ref(old)
    del old
    states = []

    @contextlib.contextmanager
    def recording(graph, stream):
        states.append((reference(), gc.isenabled(), stream))
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    captured = capture.Captured(CPU)
    captured.stream = "its own"

    def fails(x):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        captured._capture(fails, (torch.zeros(1),))
    assert captured.graph is None and gc.isenabled()
    captured._capture(torch.Tensor.zero_, (torch.zeros(1),))
    assert captured.graph is not None and gc.isenabled()
    assert states == [(None, False, "its own")] * 2


def settings():
    return [backend.fp32_precision for backend in BACKENDS]


def test_float32_is_exact_outside_of_blocks_that_allow_tf32():
    for backend in BACKENDS:
        backend.fp32_precision = "tf32"
    select_device(-1)
    assert settings() == ["ieee", "ieee"]
    with products("fp32"), products("bf16"):
        assert settings() == ["ieee", "ieee"]
    with pytest.raises(ZeroDivisionError), products("tf32"):
        assert settings() == ["tf32", "tf32"]
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        1 / 0  # noqa: B018
    assert settings() == ["ieee", "ieee"]
    # A network may read the older flags. PyTorch raises an error if they disagree with the newer.
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("extra", ["--metrics", "", "--fbgd --eval_freq 1 --metrics"])
def test_a_run_measures_as_precisely_as_it_trains(tmp_path, monkeypatch, extra):
    """In the steps and in the measurements products are those of --precision."""
    precisions = {}

    def watch(cls, name):
        real = getattr(cls, name)

        def note(self, *arguments):
            precisions.setdefault(name, set()).add(settings()[0])
            return real(self, *arguments)

        monkeypatch.setattr(cls, name, note)

    watch(torch.nn.Linear, "forward")
    watch(Meter, "_add_batch")
    train.main(f"{TINY} --epochs 1 --precision tf32 --dir {tmp_path} {extra}".split())
    assert precisions == {"forward": {"tf32"}, "_add_batch": {"tf32"}}
    assert settings() == ["ieee", "ieee"]


def test_bfloat16_is_of_training_and_metrics_and_not_of_weights_and_curvature(run):
    """Its rounding shows in losses and gradients, a little; test.py measures the same."""
    words = "--epochs 1 --save_freq 1 --metrics --lr_init 0.001"
    folder = run(words)
    exact = runs.read_log(folder)[0]["train_loss"]
    first = checkpoints.load(folder / "checkpoint-0.pt")["state_dict"]
    run(f"{words} --precision bf16 --overwrite")
    rounded = runs.read_log(folder)[0]["train_loss"]
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.1)
    weights = checkpoints.load(folder / "checkpoint-0.pt")["state_dict"]
    assert all(torch.equal(first[key], value) for key, value in weights.items())
    weights = checkpoints.load(folder / "checkpoint-1.pt")["state_dict"]
    assert all(value.dtype != torch.bfloat16 for value in weights.values())
    on_the_way = runs.Metrics.read(folder / "train-tm.npz").rows[1]
    flags = "--train_mode --eval_model --calc_grad_norms --hess_trace --epochs 1"
    plain, low = (
        measure(folder, f"{flags} --precision {precision}", f"{precision}.npz")
        for precision in ("fp32", "bf16")
    )
    for key in ("loss", "gnorm_m"):
        assert low[key] == on_the_way[key] != plain[key]
    assert low["loss"] == pytest.approx(plain["loss"], rel=2e-2)
    assert low["hess_trace"] == plain["hess_trace"]


def test_deterministic_mode_is_set_on_a_gpu_alone_and_ends_with_its_run(monkeypatch):
    """The call imports PyTorch's compiler, which takes a second and which a CPU does not need."""
    calls = []
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda wanted, warn_only: calls.append(wanted)
    )
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: calls[-1:] == [True])
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for gpus, expected in ((0, []), (1, [True, False, True])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpus=gpus: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
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

    def noted_to(self, *arguments):
        moved.append(to(self, *arguments))
        return moved[-1]

    def noted_init(self, model, images, *arguments, **more):
        used.append(images)
        init(self, model, images, *arguments, **more)

    monkeypatch.setattr(data.ImageSet, "to", noted_to)
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
