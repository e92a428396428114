"""Tiny settings that every test can afford."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the processes that tests start: all is tiny
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
import torch  # noqa: E402

import runs  # noqa: E402
import train  # noqa: E402

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
