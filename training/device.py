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

    From here on float32 is exact (see `products`). On a GPU the fastest kernels are chosen by
    trial, which can differ from run to run; with `deterministic` the same ones always, without
    atomic additions. On a CPU they always are.

    Raises
    ------
    UserError : there is no GPU with this number.
    """
    for backend in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):
        backend.fp32_precision = "ieee"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Only warn: PyTorch also names max pooling, whose windows do not overlap here.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a kernel for every new tensor
    torch.backends.cudnn.benchmark = not deterministic
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu < 0 or (gpu == 0 and count == 0):
        keep_freed_memory()
        return torch.device("cpu")
    if gpu >= count:
        there = f"0 to {count - 1}" if count else "none"
        raise UserError(f"--gpu {gpu}: there is no such GPU (there: {there}); -1 is the CPU")
    device = torch.device("cuda", gpu)
    torch.cuda.set_device(device)
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


def memory_format(
    device: torch.device, num_channels: int, norm: str = "batch"
) -> torch.memory_format:
    """The layout of images and weights that is fastest for a network of this width and norm.

    On a GPU the layers behind "layer", "group" and "instance" (`torch.nn.GroupNorm`) take and give
    contiguous tensors alone, so another layout would be copied at every one of them, both ways. On
    a CPU they take both, but few channels to a group cost more time than the layout saves:
    a step with "group" takes 1.1 to 1.3 times that with contiguous tensors, "instance" 2 to 3.3.
    """
    if device.type == "cuda":
        contiguous = norm in ("layer", "group", "instance")
    else:
        contiguous = num_channels < CHANNELS_LAST_WIDTH or norm in ("group", "instance")
    return torch.contiguous_format if contiguous else torch.channels_last


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """Inside the block, a GPU may round the factors of float32 products, if this is "tf32".

    The matrix units then take 10 of the 23 bits. Outside of it, and with any other precision,
    convolutions and matrix products are exact, since `select_device` has said so.
    """
    if precision != "tf32":
        yield
        return
    # Of matrix products this sets the older flag, too: torch.compile of 2.9 compares the two.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.conv.fp32_precision = "ieee"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which a network computes in bfloat16 if the precision is "bf16".

    To be entered for every forward pass: it keeps the weights' bfloat16 copies until it is left.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def mix(*numbers: int) -> int:
    """One well-mixed seed from several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
