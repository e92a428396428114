"""The scale-invariant (SI) weights of a network, and operations on them as one vector.

A weight vector w that feeds a normalisation layer is scale invariant: L(a w) = L(w) for a > 0
(P1, section 2). In the papers' networks these are the convolution weights, all scaled together;
with weight normalisation, the tensors from which those are computed. `models.layers` says which
parts are invariant on their own.
"""

from collections.abc import Iterable

import torch
from torch import nn


def si_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable scale-invariant parameters of a network, by name: those of the convolutions or,
    in a network from elsewhere, those that `models.build` has found."""
    names = getattr(model, "si_names", None)
    if names is None:
        names = [
            f"{name}.{key}"
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d)
            for key, _ in module.named_parameters()
        ]
    parameters = {name: model.get_parameter(name) for name in names}
    return {name: p for name, p in parameters.items() if p.requires_grad}


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The SI parameters and the others, each in the order of `model.parameters()`."""
    invariant = {id(p) for p in si_parameters(model).values()}
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for p in model.parameters():
        parts[id(p) not in invariant].append(p)
    return parts


@torch.no_grad()
def norms(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Euclidean norm of each of several tensors: float64, (n,), on the device of the first. The
    squares are summed in float64 (float32 on MPS, which has no other): float32 sums of millions are
    off by more than the 1e-6 allowed to a fixed norm."""
    real = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
    device = real[0].device
    precise = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack([n.to(device) for n in torch._foreach_norm(real, 2, precise)])


def norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Euclidean norm of several tensors taken as one vector: a float64 scalar on their device."""
    return torch.linalg.vector_norm(norms(tensors))


@torch.no_grad()
def rescale_to_norm(tensors: list[torch.Tensor], value: float | torch.Tensor) -> None:
    """Scale several tensors in place, by one factor, to a total norm of `value` (P1, sec. 4)."""
    factor = value / norm(tensors)
    for dtype in {tensor.dtype for tensor in tensors}:
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        if dtype.itemsize >= 4:
            torch._foreach_mul_(alike, factor.to(dtype))
            continue
        for tensor in alike:  # a factor rounded to bfloat16 is off by up to 0.4 %
            exact = tensor.to(torch.promote_types(dtype, torch.float32))
            tensor.copy_(exact * factor.float())


@torch.no_grad()
def rescale_filters(tensors: list[torch.Tensor], value: float) -> None:
    """Scale every filter (first dimension) in place to the norm value / √(number of filters), the
    total norm being `value` (P2's fix_all_elr)."""
    each = value / sum(len(tensor) for tensor in tensors) ** 0.5
    for tensor in tensors:
        rows = tuple(range(1, tensor.ndim))
        # In double precision weights that already have this norm do not change by a bit.
        exact = tensor.to(torch.promote_types(tensor.dtype, torch.float64))
        norms = torch.linalg.vector_norm(exact, dim=rows, keepdim=True)
        tensor.copy_(exact * (each / norms))
