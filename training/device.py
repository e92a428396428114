"""Where and how precisely a computation runs, and where its random numbers come from."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import numpy as np
import torch

from utils import UserError

# Below this width convolutions on a CPU are faster with each channel's pixels side by side.
CHANNELS_LAST_WIDTH = 8


def select_device(gpu: int, deterministic: bool = False) -> torch.device:
    """The GPU with this number; the CPU for -1, and for 0 on a machine without any GPU.

    On a GPU the fastest kernels are chosen by trial, which can differ from run to run; with
    `deterministic` the same ones always, without atomic additions. On a CPU they always are.

    Raises
    ------
    UserError : there is no GPU with this number.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu < 0 or (gpu == 0 and count == 0):
        keep_freed_memory()
        return torch.device("cpu")
    if gpu >= count:
        there = f"0 to {count - 1}" if count else "none"
        raise UserError(f"--gpu {gpu}: there is no such GPU (there: {there}); -1 is the CPU")
    device = torch.device("cuda", gpu)
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Only warn: PyTorch also names max pooling, whose windows do not overlap here.
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def keep_freed_memory() -> None:
    """Have the C library keep freed memory instead of returning it to the kernel (Linux).

    A step frees and takes the same few megabytes again and again; fetching them anew each time,
    page by page, costs a sixth of the step.
    """
    if sys.platform != "linux":
        return
    m_trim_threshold, m_mmap_threshold, largest = -1, -3, 2**31 - 1
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 2**30)
        libc.mallopt(m_trim_threshold, largest)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def memory_format(device: torch.device, num_channels: int) -> torch.memory_format:
    """The layout of images and weights that is fastest for a network of this width."""
    if device.type == "cuda" or num_channels >= CHANNELS_LAST_WIDTH:
        return torch.channels_last
    return torch.contiguous_format


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """How a GPU computes float32 convolutions and matrix products: "tf32", or else exactly.

    With "tf32" their factors are rounded to 10 bits for the matrix units.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which a network computes in bfloat16 if the precision is "bf16".

    To be entered for every forward pass: it keeps the weights' bfloat16 copies until it is left.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def mix(*numbers: int) -> int:
    """One well-mixed seed from several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
