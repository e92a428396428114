"""Which tensors of any network are scale invariant together, found from the network itself.

A group of tensors is scale invariant if multiplying all of them by one a > 0 leaves the outputs as
they are. Let s be the logarithms of one factor for each tensor. A group is a vector of zeros and
ones in the null space of the matrix of derivatives ∂ outputs / ∂ s, at a point where nothing
vanishes by accident: a fresh network's zero biases would look invariant. They are read off the
reduced row echelon form of that space: of two such vectors in it none holds the other, since each
row alone is 1 at its pivot. Other rows are balances, as of one convolution against the next, with
-1s in them. What comes out is tried on the network, by scaling.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from utils import plural

EPS = 1e-12  # at most this in normalisations: invariance is meant in the limit of none
SPREAD = 0.5  # of the logarithms of the weights at a random point
POINTS = 4  # random points that are solved at, at most (of few outputs, more)
FACTORS = (0.5, 3.0)  # what comes out is tried with factors between these
INTEGER = 0.05  # how far an entry of the reduced null space may be off a whole number
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2}  # relative size of what counts as zero
EFFECT = 1e-2  # relative size of a change of the outputs that rounding alone does not make
ROWS = 1000  # outputs that are looked at, and ten more for every tensor


@dataclass(frozen=True)
class ScaleInvariance:
    """What of a network is scale invariant; iterates over the groups.

    Attributes
    ----------
    groups : the names of the tensors of each group, in the network's order. No part of a group is
        a group. Two may share tensors: where a stream of a ResNet starts with two factors in a row,
        it is a group with either of them.
    without_effect : tensors that change no output, as a bias in front of batch normalisation.
    """

    groups: tuple[tuple[str, ...], ...]
    without_effect: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside what torch.compile and PyTorch's data parallelism have made of it."""
    parallel = nn.DataParallel, nn.parallel.DistributedDataParallel
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, parallel):
            model = model.module
        else:
            return model


def scale_invariant_groups(model: nn.Module, inputs: Any, seed: int = 0) -> ScaleInvariance:
    """The minimal groups of tensors whose common scaling by any a > 0 changes no output.

    The outputs are those in train mode, of a copy in float64: the network, its statistics, its
    gradients and PyTorch's random state stay as they are. One evaluation for each tensor; nothing
    is assumed about the layers, but that an attribute `eps` of a module only keeps it from
    dividing by zero. Dropout and stochastic depth draw the same numbers in evaluations that are
    compared.

    Parameters
    ----------
    model : any network; one under torch.compile or DataParallel is taken as what it was made from.
    inputs : what it is called with: a tensor, a tuple of arguments or a dictionary of keyword
        arguments. A batch of at least four: batch normalisation turns two values of a channel into
        ±1 whatever the weights.
    seed : of the random points.

    Raises
    ------
    ValueError : no floating-point tensor is among the outputs, or they are not finite.
    """
    model = unwrapped(model)
    if next(model.parameters(), None) is None:
        return ScaleInvariance((), ())
    try:
        return _find(_Probe(model, inputs, torch.float64), seed)
    except (RuntimeError, TypeError):  # the network insists on float32 somewhere
        return _find(_Probe(model, inputs, torch.float32), seed)


def group_table(model: nn.Module, found: ScaleInvariance) -> str:
    """What is scale invariant in a network: a line for each group, and the tensors in it."""
    if not found.groups:
        return "No tensor of this network is scale invariant, alone or with others."
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    covered = sum(sizes[name] for name in set().union(*found))
    lines = [
        f"{plural(len(found), 'scale-invariant group')}: {covered:,} of {sum(sizes.values()):,} "
        "weights are in a group.",
        "",
        "group      weights  tensors",
    ]
    for number, group in enumerate(found, 1):
        lines.append(f"{number:>5}  {sum(sizes[name] for name in group):>11,}  {' '.join(group)}")
    if found.without_effect:
        lines += ["", "Without any effect: " + " ".join(found.without_effect)]
    return "\n".join(lines)


def _find(probe: "_Probe", seed: int) -> ScaleInvariance:
    """Solve at random points for the groups, with one more as long as they fail at a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    point, derivatives, moving = probe.point(generator), [], set()
    for _ in range(POINTS):
        derivatives.append(probe.derivatives(point))
        while sum(map(len, derivatives)) < 2 * len(probe.names):  # few outputs: more points
            derivatives.append(probe.derivatives(probe.point(generator)))
        groups = [
            tuple(probe.names[k] for k in group)
            for group in _solve(np.concatenate(derivatives), probe.tolerance)
        ]
        fresh = probe.point(generator)
        alone = {group[0] for group in groups if len(group) == 1}
        moving |= {n for n in alone if not probe.unchanged(point, {n: -fresh.weights[n]})}
        inert = {n: -point.weights[n] for n in probe.names if n in alone - moving}
        groups = [group for group in groups if group[0] not in inert]
        point = fresh
        if all(probe.unchanged(point, inert | _scaled(point, groups, f)) for f in FACTORS):
            return ScaleInvariance(tuple(groups), tuple(inert))
    # Not what it seems, by saturation or by noise that is not PyTorch's: what holds on its own
    inert = {n: w for n, w in inert.items() if probe.unchanged(point, {n: w})}
    groups = [
        group
        for group in groups
        if all(probe.unchanged(point, _scaled(point, [group], f)) for f in FACTORS)
    ]
    return ScaleInvariance(tuple(groups), tuple(inert))


@dataclass(frozen=True)
class _Point:
    """Weights to evaluate at, and the seed of what the network draws itself."""

    weights: dict[str, torch.Tensor]
    seed: int


def _scaled(point: _Point, groups: list[tuple[str, ...]], factor: float) -> dict[str, torch.Tensor]:
    """Tensors of all these groups, scaled by factors of their own between 1 and `factor`.

    (Invariances compose, so all groups can be tried at once.)
    """
    scaled: dict[str, torch.Tensor] = {}
    for number, group in enumerate(groups, 1):
        for name in group:
            own = factor ** (number / len(groups))
            scaled[name] = scaled.get(name, point.weights[name]) * own
    return scaled


class _Probe:
    """Evaluates a copy of a network in one precision."""

    def __init__(self, model: nn.Module, inputs: Any, dtype: torch.dtype):
        self.network = _copy(model).to(dtype).train()
        for module in self.network.modules():
            if isinstance(getattr(module, "eps", None), float):
                module.eps = min(module.eps, EPS)
        self.inputs = _cast(inputs, dtype)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.central = dtype is not torch.float64  # which is precise enough for one-sided ones
        self.step = torch.finfo(dtype).eps ** (1 / (3 if self.central else 2))
        self.tolerance = TOLERANCE[dtype]

    def point(self, generator: torch.Generator) -> _Point:
        """Random weights of the signs of the network's own, none of them zero.

        Each tensor has the mean square 1 / (inputs of an output), with which activations keep their
        size from layer to layer, so that every tensor has its share in the outputs.
        """
        weights = {}
        for name, p in self.network.named_parameters():
            noise = torch.randn(p.shape, generator=generator).to(p)
            w = torch.where(p.detach() == 0, noise, p.detach().sign() * (SPREAD * noise).exp())
            inputs = p.numel() / len(p) if p.ndim else 1
            weights[name] = w / (w.square().mean() * inputs).sqrt()
        return _Point(weights, int(torch.randint(2**31, (), generator=generator)))

    @torch.no_grad()
    def _outputs(self, point: _Point, replaced: dict[str, torch.Tensor]) -> torch.Tensor:
        """All floating-point outputs as one vector, with other tensors in place of some."""
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        args, kwargs = (self.inputs,), {}
        if isinstance(self.inputs, Mapping):
            args, kwargs = (), self.inputs
        elif isinstance(self.inputs, tuple):
            args = self.inputs
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(point.seed)
            state = {**buffers, **point.weights, **replaced}
            outputs = list(_tensors(functional_call(self.network, state, args, kwargs)))
        if not any(map(torch.numel, outputs)):
            raise ValueError("the network gives no floating-point numbers")
        vector = torch.cat([output.flatten() for output in outputs])
        if not vector.isfinite().all():
            raise ValueError("the network's outputs are not finite at random weights")
        return vector

    def derivatives(self, point: _Point) -> np.ndarray:
        """∂ outputs / ∂ logarithm of each tensor's scale: (outputs, tensors), by differences.

        In units of the outputs' norm. Of very many outputs a random part is looked at.
        """

        def outputs(name: str, logarithm: float) -> torch.Tensor:
            return self._outputs(point, {name: point.weights[name] * np.exp(logarithm)})

        here = self._outputs(point, {})
        index = np.random.RandomState(0).permutation(len(here))[: ROWS + 10 * len(self.names)]
        columns = []
        for name in self.names:
            up = outputs(name, self.step)
            down, width = (outputs(name, -self.step), 2) if self.central else (here, 1)
            columns.append(((up - down) / (width * self.step)).double().cpu().numpy()[index])
        return np.stack(columns, axis=1) / max(here.double().norm().item(), 1e-300)

    def unchanged(self, point: _Point, replaced: dict[str, torch.Tensor]) -> bool:
        """Whether other tensors in place of some give the same outputs, but for rounding."""
        before, after = self._outputs(point, {}), self._outputs(point, replaced)
        return bool((after - before).norm() <= self.tolerance * before.norm())


def _copy(model: nn.Module) -> nn.Module:
    """A copy of a network, also where modules keep results of computations beside parameters.

    Such are activations that a forward pass has stored, and the weight that the older
    `torch.nn.utils.weight_norm` computes anew in each.
    """
    kept = [value for module in model.modules() for value in vars(module).values()]
    results = [v for v in kept if isinstance(v, torch.Tensor) and not v.is_leaf]
    return copy.deepcopy(model, {id(result): result.detach().clone() for result in results})


def _solve(derivatives: np.ndarray, tolerance: float) -> list[tuple[int, ...]]:
    """The minimal groups of columns, in order, from the derivatives by the logarithms of scales.

    A column that is zero, as of a tensor that is invariant alone or has no effect, is one too: next
    to the others, or to the outputs, where all are.
    """
    sizes = np.linalg.norm(derivatives, axis=0)
    zero = sizes <= tolerance * max(sizes.max(), EFFECT)
    alone = [(k,) for k in np.flatnonzero(zero).tolist()]
    if zero.all():
        return alone
    rest = np.flatnonzero(~zero)
    columns = derivatives[:, rest] / sizes[rest]
    _, values, directions = np.linalg.svd(
        np.pad(columns, ((0, len(rest)), (0, 0))), full_matrices=False
    )
    rank = int((values > tolerance * values[0]).sum())
    null, _ = np.linalg.qr((directions[rank:] / sizes[rest]).T)
    basis = _reduced_row_echelon(null.T)
    is_group = np.minimum(np.abs(basis), np.abs(basis - 1)).max(1, initial=0) < INTEGER
    together = [tuple(rest[row > 0.5].tolist()) for row in basis[is_group]]
    return sorted(alone + together)


def _reduced_row_echelon(rows: np.ndarray) -> np.ndarray:
    """A basis of the same space, (d, k), in which each vector is 1 where all others are 0."""
    rows, done = rows.copy(), 0
    for column in range(rows.shape[1]):
        if done == len(rows):
            break
        rows[done:] /= np.abs(rows[done:]).max(1, keepdims=True)
        pivot = done + int(np.argmax(np.abs(rows[done:, column])))
        if abs(rows[pivot, column]) < INTEGER:
            continue
        rows[[done, pivot]] = rows[[pivot, done]]
        rows[done] /= rows[done, column]
        others = np.arange(len(rows)) != done
        rows[others] -= rows[others, column, None] * rows[done]
        done += 1
    return rows


def _cast(inputs: Any, dtype: torch.dtype) -> Any:
    """The same inputs with floating-point tensors in another precision."""
    if isinstance(inputs, torch.Tensor):
        return inputs.detach().to(dtype) if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {key: _cast(value, dtype) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(_cast(value, dtype) for value in inputs)
    return inputs


def _tensors(outputs: Any) -> Iterator[torch.Tensor]:
    """All floating-point tensors in tuples, lists and dictionaries of outputs."""
    if isinstance(outputs, torch.Tensor):
        if outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, tuple | list):
        for value in outputs:
            yield from _tensors(value)
