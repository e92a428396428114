"""The device and the precision of a computation, and seeds for random numbers."""

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from utils import UserError

# On a CPU, convolutions of at least this many channels are faster in channels-last layout.
CHANNELS_LAST_WIDTH = 8


def select_device(gpu: int, deterministic: bool = False) -> torch.device:
    """The GPU with this number; the CPU for -1, and for 0 on a machine without a GPU.

    Makes float32 products exact (no TF32; see `products`). With `deterministic`, only GPU kernels
    that give the same bits in every run are used; on a CPU all do. Kernels are not chosen by timing
    them (`torch.backends.cudnn.benchmark`), so that a resumed run has the same ones. Raises
    UserError if there is no GPU with this number.
    """
    allow_tf32(False)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu < 0 or (gpu == 0 and count == 0):
        _set_deterministic(False)
        keep_freed_memory()
        return torch.device("cpu")
    if gpu >= count:
        available = f"0 to {count - 1}" if count else "none"
        raise UserError(f"--gpu {gpu}: no such GPU (available: {available}); -1 is the CPU")
    _set_deterministic(deterministic)
    device = torch.device("cuda", gpu)
    torch.cuda.set_device(device)
    return device


def _set_deterministic(wanted: bool) -> None:
    """Set PyTorch's deterministic mode, if it changes: the call imports torch's compiler (1 s)."""
    if wanted == torch.are_deterministic_algorithms_enabled():
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # A warning only: PyTorch also objects to max pooling, whose windows do not overlap here.
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # saves a kernel per new tensor


def allow_tf32(allowed: bool) -> None:
    """Let a GPU round the factors of float32 products to 10 of 23 bits, or not. PyTorch has two
    interfaces for this and refuses to read the older one where they disagree. A network or
    torch.compile may read either, so both are set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch 2.9 warns about the older interface
        torch.backends.cudnn.allow_tf32 = allowed
        torch.set_float32_matmul_precision("high" if allowed else "highest")
    for operation in (torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
        operation.fp32_precision = "tf32" if allowed else "ieee"


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """Inside the block convolutions and matrix products use TF32 if `precision` is "tf32". With any
    other precision, and outside the block, they are exact."""
    if precision != "tf32":
        yield
        return
    allow_tf32(True)
    try:
        yield
    finally:
        allow_tf32(False)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """A context in which a network computes in bfloat16 if `precision` is "bf16". Enter it for
    every forward pass: it caches bfloat16 copies of the weights until it is left."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def keep_freed_memory() -> None:
    """Make the C library keep freed memory instead of returning it to the kernel (Linux). Every
    step frees and allocates the same few megabytes: page faults would take a sixth of a step."""
    if sys.platform != "linux":
        return
    m_trim_threshold, m_mmap_max, largest = -1, -4, 2**31 - 1
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)  # a threshold has an upper limit of 32 MB, mallopt(3)
        libc.mallopt(m_trim_threshold, largest)


def memory_format(
    device: torch.device, num_channels: int, norm: str = "batch"
) -> torch.memory_format:
    """The fastest layout of images and weights for a network of this width and normalisation.

    On a GPU, `torch.nn.GroupNorm` (norms "layer", "group" and "instance") works on contiguous
    tensors only, so any other layout would be converted twice at every such layer. On a CPU it is
    slow in channels-last layout with few channels a group ("instance": 2 to 3.3 times the time).
    """
    if device.type == "cuda":
        contiguous = norm in ("layer", "group", "instance")
    else:
        contiguous = num_channels < CHANNELS_LAST_WIDTH or norm in ("group", "instance")
    return torch.contiguous_format if contiguous else torch.channels_last


def describe(device: torch.device) -> str:
    """The name of a GPU, or "CPU, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def seed_from(*numbers: int) -> int:
    """A seed that depends on all of these numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
