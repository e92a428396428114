"""Tiny settings that every test can afford."""

import contextlib
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

import processes  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from made_runs import closed, make, one_claim  # noqa: E402, F401

import runs  # noqa: E402
import train  # noqa: E402
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


class GraphOnCpu:
    """Stands for a CUDA graph: a function and its arguments instead of their kernels."""

    def __init__(self, function, arguments):
        self.function, self.arguments = function, arguments

    def replay(self):
        self.function(*self.arguments)


class CapturedOnCpu(Captured):
    """Captures and replays as on a GPU, in all but the streams and the kernels."""

    def __init__(self, device):
        super().__init__(device)
        self.on_gpu = True

    def _call_aside(self, function, arguments):
        function(*arguments)

    def _capture(self, function, arguments):
        self.arguments = [argument.clone() for argument in arguments]
        self.graph = GraphOnCpu(function, self.arguments)


@pytest.fixture
def replays(monkeypatch):
    """Steps and measurements are replayed on the CPU, too."""
    monkeypatch.setattr("training.trainer.Captured", CapturedOnCpu)
    monkeypatch.setattr("measuring.meter.Captured", CapturedOnCpu)


@contextlib.contextmanager
def fake_streams():
    """Streams that are none, where there is no GPU."""

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "current_stream", Stream)
        patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        yield
