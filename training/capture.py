"""Steps of training or measuring, replayed on a GPU as one CUDA graph each.

A small network's step is a hundred kernels of a few microseconds; launching them one by one from
Python takes longer than running them. A graph is launched once a step.
"""

import gc
from collections.abc import Callable

import torch

WARM_UP = 3  # calls before the capture, in which libraries choose and load their kernels


class Captured:
    """Calls one function of tensors that returns nothing; on a GPU the fourth call captures it.

    The function is given with every call and is not kept: the method of an object that owns its
    graph would close a circle, and what a circle holds lives until the garbage collector comes by.
    It may read and change only its arguments and tensors that live as long as the graph does,
    and must not wait for the device. It is called directly on the CPU, in the first calls (which
    count like any others), and for arguments of other shapes than those of the first call: the
    last, smaller batch of an epoch.
    """

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        # One for warm-up and capture alike: a stream has memory and a cuBLAS workspace of its own.
        self.stream = torch.cuda.Stream(device) if self.on_gpu else None
        self.calls = 0
        self.shapes: list[torch.Size] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.arguments: list[torch.Tensor] = []

    def __call__(self, function: Callable[..., None], *arguments: torch.Tensor) -> None:
        if not self.on_gpu:
            function(*arguments)
            return
        shapes = [argument.shape for argument in arguments]
        if self.shapes is None:
            self.shapes = shapes
        if shapes != self.shapes:
            function(*arguments)
        elif self.calls < WARM_UP:
            self.calls += 1
            self._call_aside(function, arguments)
        else:
            if self.graph is None:
                self._capture(function, arguments)
            for own, given in zip(self.arguments, arguments, strict=True):
                own.copy_(given)
            self.graph.replay()

    def _call_aside(self, function: Callable[..., None], arguments: tuple) -> None:
        """Call on a stream of its own, as PyTorch wants it before a capture."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            function(*arguments)
        current.wait_stream(self.stream)

    def _capture(self, function: Callable[..., None], arguments: tuple) -> None:
        """Record the kernels of one call without running them."""
        self.arguments = [argument.clone() for argument in arguments]
        graph = torch.cuda.CUDAGraph()
        # A graph that the garbage collector frees during a capture would break it.
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
