"""Where and how precisely a step computes; what a CPU can show of the replayed graphs of a GPU."""

import contextlib
import gc
import weakref

import pytest
import torch
from conftest import TINY

import data
import models
import runs
import test as test_script
import train
from measuring import Meter, parameter_names
from options import Measure, Model, Train
from training import Trainer, capture
from training.device import memory_format, products, select_device
from training.trace import StepTrace

CPU = torch.device("cpu")
BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


def digits(count=200):
    return data.load("Digits", "", use_test=True, use_data_size=count)[0]


def trainer_of(images, **asked):
    torch.manual_seed(0)
    asked = Train(**{"lr_init": 0.1, "wd": 0.0, "momentum": 0.0, "batch_size": 64, **asked})
    return Trainer(models.build(Model("ConvNetSI", 2), 10), asked, len(images), CPU)


def meter_of(model, images, **how):
    asked = Measure(eval_model=True, calc_grad_norms=True, train_mode=True, batch_size=64, **how)
    return Meter(model, images, asked, {"si": parameter_names(model, si_only=True)})


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


def test_replayed_measurement_is_the_called_one(request):
    images, model = digits(400), models.build(Model("ConvNetSI", 2), 10)
    expected = meter_of(model, images).measure()
    request.getfixturevalue("replays")
    meter = meter_of(model, images)
    for _ in range(2):
        assert meter.measure() == expected
    assert meter.captured.graph is not None


def plant_baked_rate(patch):
    """The rate as a number of Python's, which the graph keeps for ever."""
    patch.setattr(Trainer, "_rate", lambda self: self.base_lr)


def plant_item(patch):
    """A wait for the device in every step."""
    patch.setattr(Trainer, "_count_correct", lambda self, logits, labels: logits.sum().item())


def plant_python_counter(patch):
    """Rows of a trace that a number of Python's counts."""
    real = StepTrace.after

    def after(self, loss):
        self.count = getattr(self, "count", -1) + 1
        self.position = torch.tensor([self.count % len(self.rows)])
        real(self, loss)

    patch.setattr(StepTrace, "after", after)


def plant_replaced_sum(patch):
    """Hits that are added up in a new tensor."""

    def count(self, logits, labels):
        self.correct = self.correct + (logits.argmax(1) == labels).sum()

    patch.setattr(Trainer, "_count_correct", count)


def plant_replaced_rate(patch):
    """A new tensor for every rate, where the graph goes on reading the first one."""

    def set_lr(self, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(lr)

    patch.setattr(Trainer, "set_lr", set_lr)


@pytest.mark.parametrize("plant", [
    plant_baked_rate, plant_item, plant_python_counter, plant_replaced_sum, plant_replaced_rate,
])  # fmt: skip
def test_faults_of_a_captured_step_are_caught(plant, request, monkeypatch):
    """What a CUDA graph would get wrong fails in the tests' replays, too, or differs."""
    _, results, weights = weights_after_epochs(trace=True)
    request.getfixturevalue("replays")
    plant(monkeypatch)
    try:
        _, replayed_results, replayed = weights_after_epochs(trace=True)
    except RuntimeError as error:
        assert "waits for the device" in str(error) or "has been freed" in str(error)
    else:
        assert replayed_results != results or not all(map(torch.equal, replayed, weights))


def test_compiled_steps_and_measurements_are_the_called_ones(monkeypatch):
    """What torch.compile has traced for one mode, gradient or batch is not taken for another.

    Its backend here computes the traced operations one by one, so the bits are the same; that of
    --compile makes faster kernels of them (tests/test_cuda.py).
    """
    traced = []

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=backend))
    found = {}
    for compiled in (False, True):
        images = digits()
        trainer = trainer_of(images, compile=compiled)
        meters = [
            Meter(trainer.model, images, Measure(
                eval_model=True, calc_grad_norms=train_mode, train_mode=train_mode, batch_size=64,
                compile=compiled), {"si": ["conv_layers.0.weight"]})
            for train_mode in (True, False)
        ]  # fmt: skip
        found[compiled] = []
        for _ in range(2):
            found[compiled] += [meter.measure() for meter in meters]
            for x, y in images.batches(64):
                trainer.step(x, y)
            found[compiled].append(trainer.finish_epoch())
        found[compiled].append([v.tolist() for v in trainer.model.state_dict().values()])
    assert found[True] == found[False]
    # Less than the number at which torch.compile gives up on a network: 8.
    assert 0 < len(traced) < 7


def test_what_is_dropped_is_freed_at_once():
    """Nothing holds a trainer or a meter in a circle: its graph goes when it goes."""
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
    """What only the garbage collector frees has gone before, and the collector rests."""

    class Old:
        pass

    old = Old()
    old.itself, left = old, weakref.ref(old)
    del old
    seen = []

    @contextlib.contextmanager
    def recording(graph, stream):
        seen.append((left(), gc.isenabled(), stream))
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
    assert seen == [(None, False, "its own")] * 2


def settings():
    return [backend.fp32_precision for backend in BACKENDS]


def test_float32_is_exact_but_where_a_block_loosens_it():
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
    # The older flags, which a network may read: PyTorch raises where they disagree with the newer.
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


def precisions_of(monkeypatch, folder, extra, metrics="--metrics"):
    """How products are computed in the steps and in the measurements of a run."""
    found = {}

    def watch(cls, name):
        real = getattr(cls, name)

        def note(self, *arguments):
            found.setdefault(name, set()).add(settings()[0])
            return real(self, *arguments)

        monkeypatch.setattr(cls, name, note)

    watch(Trainer, "_add_to_full_batch" if "--fbgd" in extra else "_step_on_batch")
    watch(Meter, "_add_batch")
    words = f"{TINY} --epochs 1 {metrics} --precision tf32 --dir {folder} {extra}"
    train.main(words.split())
    return found


def test_a_run_measures_as_precisely_as_it_trains(tmp_path, monkeypatch):
    for name, metrics in (("a", "--metrics"), ("b", "")):
        found = precisions_of(monkeypatch, tmp_path / name, "", metrics)
        assert found == {"_step_on_batch": {"tf32"}, "_add_batch": {"tf32"}}
    found = precisions_of(monkeypatch, tmp_path / "c", "--fbgd --eval_freq 1")
    assert found["_add_to_full_batch"] == {"tf32"}
    assert settings() == ["ieee", "ieee"]


def test_the_precision_of_the_run_is_that_of_test_script_too_and_spares_curvature(run):
    folder = run("--epochs 1 --save_freq 1 --metrics --precision bf16")
    measured = runs.Metrics.read(folder / "train-tm.npz").rows[1]
    found = {}
    for precision in ("fp32", "bf16"):
        test_script.main(
            f"--models_dir {folder} --save_path {folder}/x.npz --train_mode --eval_model "
            f"--calc_grad_norms --hess_trace --precision {precision} --gpu -1".split()
        )
        found[precision] = runs.Metrics.read(folder / "x.npz").rows[1]
    assert found["bf16"]["loss"] == measured["loss"] != found["fp32"]["loss"]
    assert found["bf16"]["loss"] == pytest.approx(found["fp32"]["loss"], rel=2e-2)
    assert found["bf16"]["gnorm_m"] == measured["gnorm_m"] != found["fp32"]["gnorm_m"]
    assert found["bf16"]["hess_trace"] == found["fp32"]["hess_trace"]


def test_deterministic_mode_is_set_on_a_gpu_alone_and_ends_with_its_run(monkeypatch):
    """PyTorch's call imports its compiler, a second of every start, and a CPU does not need it."""
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


def test_kernels_are_not_chosen_by_trial():
    """Runs that start together would disturb each other's trials."""
    select_device(-1)
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("norm", models.NORMS)
def test_layout_is_the_one_that_the_layers_take(norm):
    network = models.build(Model("ConvNetSI", 8, norm=norm), 10)
    grouped = any(isinstance(m, torch.nn.GroupNorm) for m in network.modules())
    wanted = torch.contiguous_format if grouped else torch.channels_last
    assert memory_format(torch.device("cuda", 0), 8, norm) == wanted
    fast = norm not in ("group", "instance")  # on a CPU, from a width of 8 on
    assert (memory_format(CPU, 8, norm) == torch.channels_last) == fast
    assert memory_format(CPU, 4, norm) == torch.contiguous_format


def test_the_time_left_is_told_from_the_second_epoch(run, capsys):
    """The first holds what happens once; a run that goes on has a second one again."""
    run("--epochs 4 --save_freq 1")
    out = capsys.readouterr().out
    assert out.count("to train") == 1 and "second epoch" in out
    run("--epochs 5 --resume --save_freq 1")  # one epoch alone: nothing to tell
    assert "to train" not in capsys.readouterr().out
