"""Tiny settings that every test can afford."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the processes that tests start: all is tiny
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import processes  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from made_runs import closed, distinct, make  # noqa: E402, F401
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import data  # noqa: E402
import runs  # noqa: E402
import test as test_script  # noqa: E402
import train  # noqa: E402
from options import Train  # noqa: E402
from training import Trainer  # noqa: E402
from training.capture import Captured  # noqa: E402

torch.set_num_threads(1)

# Plain SGD on 200 digits: 4 steps an epoch, the last of them on a smaller batch.
TINY = (
    "--dataset Digits --use_data_size 200 --batch_size 64 --model ConvNetSI --num_channels 2 "
    "--noninvlr 0 --init_scale 10 --lr_init 0.1 --wd 0.001 --momentum 0 --epochs 3 --use_test "
    "--noaug --no_schedule --gpu -1"
)


@pytest.fixture
def run(tmp_path):
    """Train with the tiny setting and more options: returns the folder of the trial."""

    folder = runs.trial_folder(tmp_path / "run", 0)

    def start(extra: str = "", base: str = TINY) -> Path:
        train.main(f"{base} --dir {tmp_path}/run {extra}".split())
        return folder

    start.folder = folder
    return start


def load_images(name, path=".", use_test=False, **which):
    """The training images of a data set, and those to evaluate on."""
    return data.load(Train(dataset=name, data_path=str(path), **which), use_test)


def state_of(folder, epoch):
    """The state dict of a checkpoint, read by PyTorch alone."""
    path = runs.checkpoint_path(folder, epoch)
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def measure(folder, words, out="out.npz"):
    """Measure the checkpoints of a run with test.py: the arrays that it writes."""
    path = folder / out
    test_script.main(f"--models_dir {folder} --save_path {path} --gpu -1 {words}".split())
    with np.load(path) as file:
        return dict(file)


@pytest.fixture
def refused(capsys):
    """Call something that must end in an error of one line: returns that line."""

    def call(function, *arguments, status=2, **more):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            function(*arguments, **more)
        error = capsys.readouterr().err
        assert stop.value.code == status and error.count("\n") == 1
        return error

    return call


@pytest.fixture
def cut(run, monkeypatch):
    """Train, as `run` does, but for a stop before an epoch (counted from 0) begins."""

    def start(before: int, extra: str) -> None:
        real = train.Training.epoch

        def epoch(self, number, progress):
            if number == before:
                raise KeyboardInterrupt
            return real(self, number, progress)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train.Training, "epoch", epoch)
            run(extra)

    return start


@pytest.fixture
def at_once(monkeypatch):
    """The commands of lines are processes that need not import torch anew."""
    how = SimpleNamespace(Popen=processes.Started, PIPE=subprocess.PIPE, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr("experiments.runner.subprocess", how)


@pytest.fixture
def drive(tmp_path, monkeypatch, capsys, at_once):
    """Run a driver in this process, in a folder of its own: returns its status and its output."""

    def start(*words, script: Path = ROOT / "run_train_and_test.py"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        capsys.readouterr()
        try:
            runpy.run_path(str(script), run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=out, stderr=err)

    return start


# Operations whose result Python must wait for. During a CUDA capture they raise an error.
WAITING = {
    f"aten::{name}"
    for name in ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select",
                 "unique_dim", "_unique", "_unique2")
}  # fmt: skip


class GraphOnCpu(TorchDispatchMode):
    """Stands for a CUDA graph: records the ATen operations of a call, and repeats them without
    running its Python. Numbers are recorded by value, tensors by their memory; those made outside
    of the call are not kept alive."""

    def __init__(self):
        super().__init__()
        self.operations = []  # (operation, its arguments, the tensors that it made)
        self.inside = set()  # addresses of the memory that the call has allocated
        self.before = {}  # address of other memory -> it, and a copy of what it held

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation._schema.name in WAITING:
            raise RuntimeError(f"{operation} waits for the device during a capture")
        inputs = (args, kwargs or {})
        recorded = pytree.tree_map_only(torch.Tensor, self.memory_of, inputs)
        results = operation(*args, **(kwargs or {}))
        used = {address(t) for t in pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor)}
        made = [
            t.detach() if isinstance(t, torch.Tensor) and address(t) not in used else None
            for t in pytree.tree_leaves(results)
        ]
        self.inside.update(address(t) for t in made if t is not None)
        self.operations.append((operation, recorded, made))
        return results

    def memory_of(self, tensor):
        if address(tensor) in self.inside:
            return tensor.detach()
        storage = tensor.untyped_storage()
        self.before.setdefault(address(tensor), (storage, storage.clone()))
        return OutsideMemory(tensor)

    def undo(self):
        """A capture runs nothing: give all memory from outside its contents back."""
        for storage, content in self.before.values():
            storage.copy_(content)

    @torch.no_grad()
    def replay(self):
        for operation, recorded, made in self.operations:
            args, kwargs = pytree.tree_map_only(OutsideMemory, OutsideMemory.tensor, recorded)
            results = pytree.tree_leaves(operation(*args, **kwargs))
            for kept, result in zip(made, results, strict=True):
                if kept is not None:
                    kept.copy_(result)


class OutsideMemory:
    """Where a tensor lies that a recorded call did not make itself."""

    def __init__(self, tensor):
        self.storage = StorageWeakRef(tensor.untyped_storage())
        self.dtype = tensor.dtype
        self.layout = tensor.storage_offset(), tensor.size(), tensor.stride()

    def tensor(self):
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        if storage is None:
            raise RuntimeError("a replayed operation reads memory that has been freed")
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.layout)


def address(tensor):
    return tensor.untyped_storage()._cdata


class CapturedOnCpu(Captured):
    """Captures and replays on a CPU as on a GPU."""

    def __init__(self, device):
        super().__init__(device)
        self.on_gpu = True

    def _call_on_own_stream(self, function, arguments):
        function(*arguments)

    def _capture(self, function, arguments):
        self.arguments = [argument.clone() for argument in arguments]
        with GraphOnCpu() as self.graph:
            function(*self.arguments)
        self.graph.undo()


@pytest.fixture
def replays(monkeypatch):
    """On the CPU, too, steps and measurements are replayed and rates are tensors."""
    monkeypatch.setattr("training.trainer.Captured", CapturedOnCpu)
    monkeypatch.setattr("measuring.meter.Captured", CapturedOnCpu)
    monkeypatch.setattr(Trainer, "_rate", lambda self: torch.tensor(self.base_lr))
