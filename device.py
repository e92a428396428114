"""Where a computation runs, and where its random numbers come from."""

import numpy as np
import torch

from utils import UserError


def select_device(gpu: int) -> torch.device:
    """The GPU with this number; the CPU for -1, and for 0 on a machine without any GPU.

    Raises
    ------
    UserError : there is no GPU with this number.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu < 0 or (gpu == 0 and count == 0):
        return torch.device("cpu")
    if gpu >= count:
        there = f"0 to {count - 1}" if count else "none"
        raise UserError(f"--gpu {gpu}: there is no such GPU (there: {there}); -1 is the CPU")
    return torch.device("cuda", gpu)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def mix(*numbers: int) -> int:
    """One well-mixed seed from several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
