"""Steps of training or measuring, replayed on a GPU as one CUDA graph each.

A small network's step is a hundred kernels of a few microseconds; launching them one by one from
Python takes longer than running them. A graph is launched once a step.
"""

from collections.abc import Callable

import torch

WARM_UP = 3  # calls before the capture, in which libraries choose and load their kernels


class Captured:
    """A function of tensors that returns nothing; on a GPU its fourth call captures it as a graph.

    The function may read and change only its arguments and tensors that live as long as it does,
    and must not wait for the device. It is called directly on the CPU, in the first calls (which
    count like any others), and for arguments of other shapes than those of the first call: the
    last, smaller batch of an epoch.
    """

    def __init__(self, function: Callable[..., None], device: torch.device):
        self.function, self.device = function, device
        self.calls = 0
        self.shapes: list[torch.Size] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.arguments: list[torch.Tensor] = []

    def __call__(self, *arguments: torch.Tensor) -> None:
        if self.device.type != "cuda":
            self.function(*arguments)
            return
        shapes = [argument.shape for argument in arguments]
        if self.shapes is None:
            self.shapes = shapes
        if shapes != self.shapes:
            self.function(*arguments)
        elif self.calls < WARM_UP:
            self.calls += 1
            self._call_aside(arguments)
        else:
            if self.graph is None:
                self._capture(arguments)
            for own, given in zip(self.arguments, arguments, strict=True):
                own.copy_(given)
            self.graph.replay()

    def _call_aside(self, arguments: tuple[torch.Tensor, ...]) -> None:
        """Call on a stream of its own, as PyTorch wants it before a capture."""
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            self.function(*arguments)
        current.wait_stream(aside)

    def _capture(self, arguments: tuple[torch.Tensor, ...]) -> None:
        """Record the kernels of one call without running them."""
        self.arguments = [argument.clone() for argument in arguments]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.function(*self.arguments)
