"""Runs a copy of a network at other weights, to see what its outputs depend on (`models.groups`).

The copy computes what the network would compute without epsilons and in unlimited precision:
epsilons become negligible, and casts to a lower precision are left out. Invariance holds in that
limit; `models.doubling_effects` shows how far the network itself is from it.
"""

import contextlib
import copy
import functools
import itertools
import random
import re
import sys
import types
import warnings
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
from torch.utils._pytree import tree_leaves, tree_map_only

SPREAD = 0.5  # of the logarithms of the weights at a random point
CONSTANT = 1e-3  # a positive number up to this that is added to a tensor is an epsilon
SUSPICIOUS = 0.1  # one up to this may be an epsilon
EPS = {torch.float64: 1e-12, torch.float32: 1e-8}  # what an epsilon becomes, at most
SAME = 1e-4  # largest relative difference that the order of summation makes to outputs
EPSILON = re.compile("(^|_)eps(ilon)?(_|$)")  # in the name of an attribute
HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
GLOBAL_HOOKS = [name for name in vars(nn_module) if re.fullmatch("_global_.*_hooks", name)]
LINEAR = {
    torch._C._nn.linear, torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d,
    torch.conv_transpose2d, torch.conv_transpose3d,
}  # fmt: skip


CLOSED = (nn.Module, types.ModuleType, types.FunctionType, type)  # `tensors` does not look into


class NotFinite(ValueError):
    """The outputs of a network are infinite or NaN."""


@dataclass(frozen=True)
class Point:
    """Weights by name, and the seed of the network's own random numbers."""

    weights: dict[str, torch.Tensor]
    seed: int


class Probe:
    """A copy of a network, each module in its present mode (train or eval).

    Parameters
    ----------
    model, inputs : as for `models.scale_invariant_groups`.
    dtype : precision of the copy. None: that of the network, with its own casts.
    keep_epsilons : without `dtype`, do not change attributes named eps or epsilon.

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
        self.network = copied(model)
        self.originals = {id(module) for module in model.modules()}
        self.original_weights = list(model.parameters())
        self.inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
        self.exact = Exact(dtype) if dtype else contextlib.nullcontext()
        if dtype:
            self.inputs = self._changed(lambda t: t.to(_at_least(t, dtype)))
        for module in self.network.modules():
            for key, value in list(vars(module).items()):
                if keep_epsilons or not isinstance(value, float) or not EPSILON.search(key):
                    continue
                # A large one of somebody's own module may be a factor, such as a step size
                if value <= CONSTANT or _belongs(type(module)):
                    setattr(module, key, min(value, EPS.get(dtype, EPS[torch.float32])))
            for tensor in [*module._parameters.values(), *module._buffers.values()]:
                if tensor is not None:
                    precise = _at_least(tensor, dtype) if dtype else tensor.dtype
                    tensor.data = tensor.data.to(precise)
                    if _is_strided(tensor):
                        tensor.data = tensor.data.contiguous()
        named = dict(self.network.named_parameters())
        self.weights = {name: p for name, p in named.items() if _is_continuous(p)}
        self.present = {name: p.detach().clone() for name, p in self.weights.items()}
        self.buffers = [
            (module, key, None if buffer is None else buffer.clone())
            for module in self.network.modules()
            for key, buffer in module._buffers.items()
        ]
        for weight in self.weights.values():
            weight.requires_grad_(True)

    def _changed(self, function: Any) -> Any:
        """The inputs with a function of every tensor in its place."""

        def change(tensor: torch.Tensor) -> torch.Tensor:
            return function(tensor.detach()).requires_grad_(tensor.requires_grad)

        return tree_map_only(torch.Tensor, change, self.inputs)

    @property
    def constants(self) -> tuple[float, ...]:
        """Numbers from `CONSTANT` to `SUSPICIOUS` that the network has added to tensors."""
        return tuple(sorted(getattr(self.exact, "constants", ())))

    def point(self, generator: torch.Generator, *, near: bool = False) -> Point:
        """Random weights with the signs of the network's own, none of them zero. Each tensor has
        the mean square 1 / (inputs of an output), so that activations keep their size from layer to
        layer and every tensor matters; if `near`, that of the present weights. A single number
        varies around that size."""
        weights = {}
        for name, p in self.present.items():
            noise = torch.randn(p.shape, generator=generator, device="cpu").to(p)
            w = torch.where(p == 0, noise, p.sgn() * (SPREAD * noise.real).exp())
            inputs = max(p[:1].numel(), 1) if p.ndim else 1
            size = p.abs().square().mean() if near and p.any() else 1 / inputs
            if p.numel() > 1:
                size = size / w.abs().square().mean()
            weights[name] = w * size**0.5
        return Point(weights, int(torch.randint(2**31, (), generator=generator, device="cpu")))

    def outputs(
        self, point: Point, replaced: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """All floating-point outputs as one vector, with other tensors in place of some. Raises
        ValueError if there are none, and NotFinite."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.data.copy_((replaced or {}).get(name, point.weights[name]))
            for module, key, buffer in self.buffers:
                module._buffers[key] = None if buffer is None else buffer.clone()
        inputs = self._changed(torch.clone)  # the network may change them
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else (args, {})
        torch.clear_autocast_cache()  # of the weights before
        with random_numbers(point.seed):
            outputs = list(tensors(self.network(*args, **kwargs)))
        if not any(map(torch.numel, outputs)):
            raise ValueError("the network gives no floating-point numbers")
        vector = torch.cat([_real(output).flatten() for output in outputs])
        if not vector.isfinite().all():
            raise NotFinite("the network's outputs are not finite at random weights")
        return vector

    def use_one_example(self, point: Point) -> bool:
        """Keep only the first example of the batch, which takes a fraction of the time, if its
        output does not depend on the others. False, without any change, where it does (as with
        batch normalisation) or where this cannot be told."""
        whole, every, sizes = self.inputs, self.outputs(point).detach(), set()
        try:
            self.inputs = self._changed(lambda t: sizes.add(t.shape[:1]) or t[:1])
            one, ((size,),) = self.outputs(point), sizes  # the batch's size, alike in all inputs
            is_enough = len(every) == size * len(one) and len(one) >= len(self.weights)
            if size > 1 and is_enough and (every[: len(one)] - one).norm() <= SAME * one.norm():
                return True
        except Exception:  # from a network that needs several examples
            pass
        self.inputs = whole
        return False

    def change(
        self,
        point: Point,
        replaced: Mapping[str, torch.Tensor],
        before: torch.Tensor | None = None,
    ) -> float:
        """How much other tensors in place of some change the outputs, relative to their norm.
        `before` is the outputs at the point, if they are known."""
        before = self.outputs(point).detach() if before is None else before
        difference = (self.outputs(point, replaced) - before).abs().double().norm().item()
        return difference / (before.abs().double().norm().item() or 1.0)

    def rows(
        self, point: Point, number: int, generator: torch.Generator, *, whole: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray | float]]:
        """Derivatives of random projections of the outputs: `number` at most, a backward pass each.

        Yields two arrays (tensors,) in units of the outputs' norm: <w, ∂ projection / ∂w>, the
        derivative with respect to the logarithm of the scale of w, and ‖w‖ ‖∂ projection / ∂w‖, 0
        without the `whole` gradients. The first does not need the gradient of a linear layer's
        weight, which takes half of the time: it is <y, ∂/∂y> of the layer's output y.
        """
        shortcut = Scaled([] if whole else self.weights.values())
        with torch.enable_grad(), shortcut:
            outputs = self.outputs(point)
            leaves = [*self.weights.values(), *shortcut.scales.values()]
            norm = outputs.detach().double().norm().item() or 1.0
            number = min(number, outputs.numel())
            for k in range(number):
                noise = torch.randn(outputs.shape, generator=generator, device="cpu")
                noise = noise.to(outputs) / norm
                for leaf in leaves:
                    leaf.grad = None
                if outputs.requires_grad:
                    # Not torch.autograd.grad, which checkpoints with re-entrance refuse.
                    torch.autograd.backward(outputs, noise, retain_graph=k + 1 < number)
                radial, size = np.zeros((2, len(leaves)))
                for j, leaf in enumerate(leaves):
                    if leaf.grad is not None:
                        grad = leaf.grad.to_dense() if leaf.grad.is_sparse else leaf.grad
                        g, w = _real(grad), _real(leaf.detach())
                        radial[j], size[j] = (w * g).sum().item(), (w.norm() * g.norm()).item()
                count = len(self.weights)
                yield (radial, size) if whole else (radial[:count] + radial[count:], 0.0)


class Scaled(TorchFunctionMode):
    """Makes linear layers multiply their output by the scale of their weight, a leaf of value 1."""

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
    """Computes in one precision without epsilons, whatever the code of a network asks for.
    `constants` are the numbers from `CONSTANT` to `SUSPICIOUS` that were added to tensors."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.constants: set[float] = set()
        self._epsilons: dict[Any, tuple[bool, list[int]]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is not None:
            kwargs["dtype"] = _at_least(kwargs["dtype"], self.dtype)
        if func not in self._epsilons:
            names = [argument.name for argument in func._schema.arguments]
            places = [k for k, name in enumerate(names) if name in ("eps", "epsilon")]
            adds = func.overloadpacket.__name__.rstrip("_") in ("add", "clamp_min", "clamp")
            self._epsilons[func] = bool(places), places or [1] * adds
        args, (is_named, places) = list(args), self._epsilons[func]
        for k in places:
            if k < len(args) and type(args[k]) is float and args[k] > EPS[self.dtype]:
                if is_named or args[k] <= CONSTANT:
                    args[k] = EPS[self.dtype]
                elif args[k] <= SUSPICIOUS:
                    self.constants.add(args[k])
        return func(*args, **kwargs)


def copied(model: nn.Module, *, hooks: bool = False) -> nn.Module:
    """A copy of a network, without its users' hooks unless `hooks`; PyTorch's own always stay.
    Modules may store what PyTorch does not copy: sparse matrices in rows, and computed tensors,
    such as activations, or the weight that the older `torch.nn.utils.weight_norm` computes."""
    memo: dict[int, Any] = {}
    seen: dict[int, Any] = {}
    for module in model.modules():
        for value in itertools.chain(tree_leaves(vars(module)), tensors(vars(module), seen)):
            if isinstance(value, nn.Parameter) or not isinstance(value, torch.Tensor):
                continue
            if not (value.is_leaf and _is_strided(value)):
                memo[id(value)] = value.detach().clone()
        for name in HOOKS if not hooks else ():
            registered = getattr(module, name)
            memo[id(registered)] = OrderedDict(
                (k, copy.deepcopy(hook)) for k, hook in registered.items() if _belongs(hook)
            )
    network = copy.deepcopy(model, memo)
    for module in network.modules():
        for key, value in list(vars(module).items()):
            vars(module)[key] = _rebound(value, memo)
    return network


def _rebound(value: Any, memo: dict[int, Any]) -> Any:
    """A function for the copy of a network: where it refers to the network (in a closure, as a
    lambda that uses self or a wrapped forward), the new function refers to the copy. So do those in
    a list, tuple or dictionary, which is made anew. Anything else is returned as it is, or its copy
    if `deepcopy` made one (`memo`)."""
    if id(value) in memo:
        return memo[id(value)]
    if type(value) in (list, dict):
        memo.setdefault(id(memo), []).append(value)  # alive, so that no other has its id
        new = memo[id(value)] = type(value)()  # it may hold itself
        if isinstance(value, dict):
            new.update((key, _rebound(v, memo)) for key, v in value.items())
        else:
            new.extend(_rebound(v, memo) for v in value)
        return new
    if type(value) is tuple:
        return tuple(_rebound(v, memo) for v in value)
    if isinstance(value, types.MethodType):
        return types.MethodType(_rebound(value.__func__, memo), _rebound(value.__self__, memo))
    if isinstance(value, functools.partial):
        given = {name: _rebound(v, memo) for name, v in value.keywords.items()}
        args = [_rebound(v, memo) for v in value.args]
        return functools.partial(_rebound(value.func, memo), *args, **given)
    if not isinstance(value, types.FunctionType) or not (value.__closure__ or value.__defaults__):
        return value
    cells = tuple(types.CellType() for _ in value.__closure__ or ())
    function = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
    memo[id(value)] = functools.update_wrapper(function, value)  # it may refer to itself
    for cell, old in zip(cells, value.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            cell.cell_contents = _rebound(old.cell_contents, memo)
    function.__defaults__ = value.__defaults__ and tuple(
        _rebound(v, memo) for v in value.__defaults__
    )
    function.__kwdefaults__ = value.__kwdefaults__
    return function


def _belongs(hook: Any) -> bool:
    """Whether a hook or a class is PyTorch's, or one of models/."""
    return getattr(hook, "__module__", type(hook).__module__).startswith(("torch.", "models."))


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has forward hooks that `copied` leaves out."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return not all(map(_belongs, hooks))


@contextlib.contextmanager
def undisturbed(probe: Probe) -> Iterator[None]:
    """Evaluate in the block without global hooks, compilation or warnings, and with gradients.
    Raises ValueError where the copy calls a module of the network itself, or computes gradients of
    its parameters, whose own gradients are restored."""

    def uses(what: str) -> ValueError:
        return ValueError(
            f"the network cannot be copied: the copy uses a {what} of the original (through a "
            "global variable, or a function that it keeps?)"
        )

    def refuse(module: nn.Module, _: Any) -> None:
        if id(module) in probe.originals:
            raise uses(type(module).__name__)

    hooks = {name: dict(getattr(nn_module, name)) for name in GLOBAL_HOOKS}
    gradients = [weight.grad for weight in probe.original_weights]
    try:
        for weight in probe.original_weights:
            weight.grad = None
        for name in hooks:
            getattr(nn_module, name).clear()
        nn_module.register_module_forward_pre_hook(refuse)
        compiler = contextlib.nullcontext()
        if "torch._dynamo" in sys.modules:  # or else nothing is compiled
            compiler = torch.compiler.set_stance("force_eager")
        quiet = warnings.catch_warnings()
        with torch.inference_mode(False), torch.enable_grad(), probe.exact, compiler, quiet:
            warnings.simplefilter("ignore")  # as of torch.compile, about the hook above
            yield
        if any(weight.grad is not None for weight in probe.original_weights):
            raise uses("parameter")
    finally:
        for weight, gradient in zip(probe.original_weights, gradients, strict=True):
            weight.grad = gradient
        for name, value in hooks.items():
            getattr(nn_module, name).clear()
            getattr(nn_module, name).update(value)


@contextlib.contextmanager
def random_numbers(seed: int) -> Iterator[None]:
    """Seed the generators of torch (on every device), NumPy and Python inside the block alone."""
    before = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            reseed(seed)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def reseed(seed: int) -> None:
    """Seed them again, inside `random_numbers`. A GPU that has not been used is left alone:
    `torch.manual_seed` would seed it when it starts, after the block."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seed_all(seed: int) -> None:
    """Seed the generators of torch, NumPy and Python alike, as the official code does."""
    torch.manual_seed(seed)
    reseed(seed)


def _is_continuous(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_strided(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided


def _at_least(of: torch.Tensor | torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """This type, or a tensor's; if floating-point or complex, at least as precise as `dtype`."""
    of = of if isinstance(of, torch.dtype) else of.dtype
    if of.is_complex:
        return torch.promote_types(of, dtype)
    return dtype if of.is_floating_point and of.itemsize < dtype.itemsize else of


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def tensors(outputs: Any, seen: dict[int, Any] | None = None) -> Iterator[torch.Tensor]:
    """All floating-point and complex tensors in tuples, lists, dictionaries and objects other than
    networks. `seen`: objects by id, which are left out."""
    seen = {} if seen is None else seen
    if isinstance(outputs, torch.Tensor):
        if _is_continuous(outputs):
            yield outputs
        return
    if id(outputs) in seen or isinstance(outputs, CLOSED):
        return
    seen[id(outputs)] = outputs
    if isinstance(outputs, Mapping):
        outputs = outputs.values()
    elif is_dataclass(outputs):
        outputs = [getattr(outputs, field.name) for field in fields(outputs)]
    elif not isinstance(outputs, tuple | list | set):
        outputs = getattr(outputs, "__dict__", {}).values()
    for value in outputs:
        yield from tensors(value, seen)
