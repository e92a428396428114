"""CUDA graphs: a step of training, or a batch of a measurement, launched as one.

A step of a small network is about a hundred kernels of a few microseconds each. Launching them one
by one from Python takes longer than running them; a graph is launched once.
"""

import gc
from collections.abc import Callable

import torch

WARM_UP = 3  # calls before the capture, in which libraries choose and load their kernels


class Captured:
    """Calls a function of tensors that returns nothing; on a GPU, replays it as a CUDA graph.

    There the first three calls are ordinary ones and the fourth records the graph. Calls on a CPU,
    or with other shapes than the first call's (the smaller last batch of an epoch), stay ordinary.

    The function may read and change only its arguments and tensors that live as long as the graph,
    and must not wait for the device. A number that it reads from Python (a rate, a counter) keeps
    the value of the recorded call. It is passed with every call: a stored bound method of the
    graph's owner would be a reference cycle, which holds the memory until garbage collection.
    """

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        # One stream for warm-up and capture: each has its own memory and cuBLAS workspace.
        self.stream = torch.cuda.Stream(device) if self.on_gpu else None
        self.calls = 0
        self.shapes: list[torch.Size] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.arguments: list[torch.Tensor] = []

    def __call__(self, function: Callable[..., None], *arguments: torch.Tensor) -> None:
        shapes = [argument.shape for argument in arguments]
        self.shapes = self.shapes or shapes
        if not self.on_gpu or shapes != self.shapes:
            function(*arguments)
        elif self.calls < WARM_UP:
            self.calls += 1
            self._call_on_own_stream(function, arguments)
        else:
            if self.graph is None:
                self._capture(function, arguments)
            for own, given in zip(self.arguments, arguments, strict=True):
                own.copy_(given)
            self.graph.replay()

    def _call_on_own_stream(self, function: Callable[..., None], arguments: tuple) -> None:
        """An ordinary call on the capture's stream, as PyTorch requires before a capture."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            function(*arguments)
        current.wait_stream(self.stream)

    def _capture(self, function: Callable[..., None], arguments: tuple) -> None:
        """Record the kernels of one call without running them."""
        self.arguments = [argument.clone() for argument in arguments]
        graph = torch.cuda.CUDAGraph()
        # Another graph that garbage collection frees during a capture would break it.
        gc.collect()
        collecting = gc.isenabled()
        gc.disable()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                function(*self.arguments)
        finally:
            if collecting:
                gc.enable()
        self.graph = graph
