"""Runs a copy of a network at other weights, to see what its outputs depend on (`models.groups`).

The copy computes what the network would compute with no epsilon and unlimited precision: epsilons
become negligible, and casts to a lower precision are left out. Invariance holds in that limit;
`doubling_effects` shows how much is missing in the network itself.
"""

import contextlib
import copy
import random
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

SPREAD = 0.5  # of the logarithms of the weights at a random point
CONSTANT = 1e-3  # a positive number up to this that is added to a tensor is an epsilon
EPS = {torch.float64: 1e-12, torch.float32: 1e-8}  # what an epsilon becomes, at most
SAME = 1e-4  # relative difference of outputs by the order of summation alone, at most
HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
GLOBAL_HOOKS = [name for name in vars(nn_module) if re.fullmatch("_global_.*_hooks", name)]
LINEAR = {
    torch._C._nn.linear, torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d,
    torch.conv_transpose2d, torch.conv_transpose3d,
}  # fmt: skip


class NotFinite(ValueError):
    """The outputs of a network are infinite or NaN."""


@dataclass(frozen=True)
class Point:
    """Weights by name, and the seed of what the network draws itself."""

    weights: dict[str, torch.Tensor]
    seed: int


class Probe:
    """A copy of a network, each module in the mode (train or eval) that it is in.

    Parameters
    ----------
    model, inputs : as for `models.scale_invariant_groups`.
    dtype : what the copy computes in. None: as the network does, with its own casts.
    keep_epsilons : without `dtype`, leave the attributes called eps or epsilon as they are.

    Attributes
    ----------
    weights : the floating-point and complex parameters by name, frozen ones included.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        dtype: torch.dtype | None,
        *,
        keep_epsilons: bool = False,
    ):
        self.network, self.inputs, self.exact = copied(model), inputs, contextlib.nullcontext()
        if dtype is not None:
            self.inputs, self.exact = (
                _map(inputs, lambda t: t.to(_at_least(t, dtype))),
                Exact(dtype),
            )
        for module in self.network.modules():
            for key, value in list(vars(module).items()):
                if (
                    not keep_epsilons
                    and isinstance(value, float)
                    and re.search("(^|_)eps(ilon)?(_|$)", key)
                ):
                    setattr(module, key, min(value, EPS.get(dtype, EPS[torch.float32])))
            for tensor in [*module._parameters.values(), *module._buffers.values()]:
                if tensor is not None:
                    precise = tensor.dtype if dtype is None else _at_least(tensor, dtype)
                    tensor.data = tensor.data.to(precise).contiguous()
        named = dict(self.network.named_parameters())
        self.weights = {n: p for n, p in named.items() if _is_continuous(p)}
        self.present = {name: p.detach().clone() for name, p in self.weights.items()}
        self.buffers = [
            (module, key, None if buffer is None else buffer.clone())
            for module in self.network.modules()
            for key, buffer in module._buffers.items()
        ]
        for weight in self.weights.values():
            weight.requires_grad_(True)

    def point(self, generator: torch.Generator, *, near: bool = False) -> Point:
        """Random weights of the signs of the network's own, none of them zero.

        Each tensor has the mean square 1 / (inputs of an output), with which activations keep their
        size from layer to layer, so that every tensor has its share in the outputs; `near` the
        present weights it has theirs.
        """
        weights = {}
        for name, p in self.present.items():
            noise = torch.randn(p.shape, generator=generator).to(p)
            w = torch.where(p == 0, noise, p.sgn() * (SPREAD * noise.real).exp())
            inputs = p.numel() / len(p) if p.ndim else 1
            size = p.abs().square().mean() if near and p.any() else 1 / inputs
            weights[name] = w * (size / w.abs().square().mean()).sqrt()
        return Point(weights, int(torch.randint(2**31, (), generator=generator)))

    def outputs(
        self, point: Point, replaced: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """All floating-point outputs as one vector, with other tensors in place of some.

        Raises
        ------
        ValueError : there are none.
        NotFinite : they are infinite or NaN.
        """
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.data.copy_((replaced or {}).get(name, point.weights[name]))
            for module, key, buffer in self.buffers:
                module._buffers[key] = None if buffer is None else buffer.clone()
        args = self.inputs if isinstance(self.inputs, tuple) else (self.inputs,)
        args, kwargs = ((), self.inputs) if isinstance(self.inputs, Mapping) else (args, {})
        with random_numbers(point.seed):
            outputs = list(tensors(self.network(*args, **kwargs)))
        if not any(map(torch.numel, outputs)):
            raise ValueError("the network gives no floating-point numbers")
        vector = torch.cat([_real(output).flatten() for output in outputs])
        if not vector.isfinite().all():
            raise NotFinite("the network's outputs are not finite at random weights")
        return vector

    @torch.no_grad()
    def use_one_example(self, point: Point) -> bool:
        """Go on with the first example of the batch, if its output does not depend on the others.

        That takes a fraction of the time. False, and nothing is changed, where it does (as with
        batch normalisation) or where it cannot be told.
        """
        whole, sizes = self.inputs, []
        _map(whole, lambda t: sizes.append(t.shape[:1]))
        if len(set(sizes)) != 1 or not sizes[0] or sizes[0][0] < 2:
            return False
        every = self.outputs(point)
        self.inputs = _map(whole, lambda t: t[:1])
        try:
            one = self.outputs(point)
            is_enough = len(every) == sizes[0][0] * len(one) and len(one) >= len(self.weights)
            if is_enough and (every[: len(one)] - one).norm() <= SAME * one.norm():
                return True
        except Exception:  # whatever a network raises that needs several
            pass
        self.inputs = whole
        return False

    @torch.no_grad()
    def change(
        self,
        point: Point,
        replaced: Mapping[str, torch.Tensor],
        before: torch.Tensor | None = None,
    ) -> float:
        """How much other tensors in place of some change the outputs, relative to their norm.

        before : the outputs at the point, where they are known.
        """
        before = self.outputs(point) if before is None else before
        difference = (self.outputs(point, replaced) - before).abs().double().norm().item()
        return difference / (before.abs().double().norm().item() or 1.0)

    def rows(
        self, point: Point, number: int, generator: torch.Generator, *, whole: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Derivatives of random projections of the outputs: `number` at most, a backward pass each.

        Yields two arrays (tensors,) in units of the outputs' norm: <w, ∂ projection / ∂w>, which is
        the derivative by the logarithm of the scale of w, and ‖w‖ ‖∂ projection / ∂w‖. The first
        needs no gradient of the weight of a linear layer, which takes half of the time: it is
        <y, ∂/∂y> of what the layer gives. So the second is only there for `whole` gradients.
        """
        shortcut = Scaled([] if whole else self.weights.values())
        with torch.enable_grad(), shortcut:
            outputs = self.outputs(point)
            scales = list(shortcut.scales.values())
            leaves = [*self.weights.values(), *scales]
            norm = outputs.detach().double().norm().item() or 1.0
            number = min(number, outputs.numel())
            for k in range(number):
                noise = torch.randn(outputs.shape, generator=generator).to(outputs) / norm
                for leaf in leaves:
                    leaf.grad = None
                if outputs.requires_grad:
                    # Not torch.autograd.grad, which checkpoints with re-entrance refuse.
                    torch.autograd.backward(outputs, noise, retain_graph=k + 1 < number)
                radial, size = np.zeros((2, len(leaves)))
                for j, leaf in enumerate(leaves):
                    if leaf.grad is not None:
                        g = _real(leaf.grad.to_dense() if leaf.grad.is_sparse else leaf.grad)
                        w = _real(leaf.detach())
                        radial[j], size[j] = (w * g).sum().item(), (w.norm() * g.norm()).item()
                count = len(self.weights)
                yield (radial, size) if whole else (radial[:count] + radial[count:], None)


class Scaled(TorchFunctionMode):
    """Has linear layers multiply what they give by the scale of their weight, a leaf of value 1."""

    def __init__(self, weights: Any):
        super().__init__()
        self.scales = {
            id(w): torch.ones((), dtype=_real(w.data).dtype, device=w.device, requires_grad=True)
            for w in weights
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if func not in LINEAR or id(weight) not in self.scales:
            return func(*args, **kwargs)
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        args, kwargs = list(args), {**kwargs, "bias": None, "weight": weight.detach()}
        for k, name in ((2, "bias"), (1, "weight")):
            if len(args) > k:
                args[k] = kwargs.pop(name)
        result = func(*args, **kwargs) * self.scales[id(weight)]
        if bias is not None:
            spatial = 0 if func is torch._C._nn.linear else weight.ndim - 2
            result = result + bias.reshape(-1, *[1] * spatial)
        return result


class Exact(TorchDispatchMode):
    """Computes in one precision without epsilons, whatever the code of a network asks for."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self._epsilons: dict[Any, list[int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is not None:
            kwargs["dtype"] = _at_least(kwargs["dtype"], self.dtype)
        if func not in self._epsilons:
            names = [argument.name for argument in func._schema.arguments]
            places = [k for k, name in enumerate(names) if name in ("eps", "epsilon")]
            operation = func.overloadpacket.__name__.rstrip("_")
            self._epsilons[func] = places or (
                [1] if operation in ("add", "clamp_min", "clamp") else []
            )
        args = list(args)
        for k in self._epsilons[func]:
            if k < len(args) and type(args[k]) is float and args[k] > EPS[self.dtype]:
                is_argument = func._schema.arguments[k].name in ("eps", "epsilon")
                if is_argument or args[k] <= CONSTANT:
                    args[k] = EPS[self.dtype]
        return func(*args, **kwargs)


def copied(model: nn.Module, *, hooks: bool = False) -> nn.Module:
    """A copy of a network, without its users' hooks unless `hooks`; PyTorch's own always stay.

    Also where modules keep results of computations beside parameters: activations that a forward
    pass has stored, and the weight that the older `torch.nn.utils.weight_norm` computes anew in
    each.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        for name in HOOKS if not hooks else ():
            registered = getattr(module, name)
            memo[id(registered)] = OrderedDict(
                (k, copy.deepcopy(hook)) for k, hook in registered.items() if _belongs(hook)
            )
    return copy.deepcopy(model, memo)


def _belongs(hook: Any) -> bool:
    """Whether a hook is PyTorch's, or one that makes a network suit (`models.own`)."""
    return getattr(hook, "__module__", type(hook).__module__).startswith(("torch.", "models."))


@contextlib.contextmanager
def undisturbed(probe: Probe) -> Iterator[None]:
    """Evaluate in the block: no global hooks, no compilation, and gradients wherever called."""
    hooks = {name: dict(getattr(nn_module, name)) for name in GLOBAL_HOOKS}
    try:
        for name in hooks:
            getattr(nn_module, name).clear()
        compiler = contextlib.nullcontext()
        if "torch._dynamo" in sys.modules:  # or else nothing is compiled
            compiler = torch.compiler.set_stance("force_eager")
        with torch.inference_mode(False), torch.enable_grad(), probe.exact, compiler:
            yield
    finally:
        for name, value in hooks.items():
            getattr(nn_module, name).update(value)


@contextlib.contextmanager
def random_numbers(seed: int) -> Iterator[None]:
    """Draw random numbers from this seed; the generators go on afterwards as they would.

    Those of torch (on every device), NumPy and Python: a network from elsewhere may use any.
    """
    before = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        seed_all(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def seed_all(seed: int) -> None:
    """Seed the generators of torch, NumPy and Python alike, as the official code does."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _is_continuous(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _at_least(of: torch.Tensor | torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """A floating-point or complex type, that of a tensor say, in at least this precision."""
    of = of if isinstance(of, torch.dtype) else of.dtype
    if of.is_complex:
        return torch.promote_types(of, dtype)
    return dtype if of.is_floating_point and of.itemsize < dtype.itemsize else of


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _map(inputs: Any, function: Any) -> Any:
    """The same inputs with a function of each tensor in it."""
    if isinstance(inputs, torch.Tensor):
        return function(inputs.detach())
    if isinstance(inputs, Mapping):
        return {key: _map(value, function) for key, value in inputs.items()}
    if isinstance(inputs, tuple) and hasattr(inputs, "_fields"):
        return type(inputs)(*(_map(value, function) for value in inputs))
    if isinstance(inputs, tuple | list):
        return type(inputs)(_map(value, function) for value in inputs)
    return inputs


def tensors(outputs: Any) -> Iterator[torch.Tensor]:
    """All floating-point and complex tensors in tuples, lists, dictionaries and objects."""
    if isinstance(outputs, torch.Tensor):
        if _is_continuous(outputs):
            yield outputs
        return
    if isinstance(outputs, Mapping):
        outputs = outputs.values()
    elif is_dataclass(outputs):
        outputs = [getattr(outputs, field.name) for field in fields(outputs)]
    elif not isinstance(outputs, tuple | list | set):
        outputs = getattr(outputs, "__dict__", {}).values()
    for value in outputs:
        yield from tensors(value)
