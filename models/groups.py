"""Which tensors of any network are scale invariant together, found from the network itself.

A group of tensors is scale invariant if multiplying all of them by one a > 0 leaves the outputs as
they are. Let s be the logarithms of one factor for each tensor. A group is a vector of zeros and
ones in the null space of the matrix of derivatives ∂ outputs / ∂ s, at a point where nothing
vanishes by accident: a fresh network's zero biases would look invariant. Other vectors of that
space are balances, as of one convolution against the next, with -1s in them. What comes out is
tried on the network, by scaling.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

EPS = 1e-12  # at most this in normalisations: invariance is meant in the limit of none
SPREAD = 0.3  # of the random point: of the logarithms of the weights, and of weights that are zero
POINTS = 4  # at most so many random points
FACTORS = (0.5, 3.0)  # what comes out is tried with factors between these
INTEGER = 0.05  # how far an entry of the reduced null space may be off a whole number
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2}  # relative size of what counts as zero
ROWS = 1000  # outputs that are looked at, and ten more for every tensor


@dataclass(frozen=True)
class ScaleInvariance:
    """What of a network is scale invariant; iterates over the groups.

    Attributes
    ----------
    groups : the names of the tensors of each group, in the network's order. No part of a group is
        a group; two groups may share a tensor.
    without_effect : tensors that change no output, as a bias in front of batch normalisation.
    """

    groups: tuple[tuple[str, ...], ...]
    without_effect: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)


def scale_invariant_groups(model: nn.Module, inputs: Any, seed: int = 0) -> ScaleInvariance:
    """The minimal groups of tensors whose common scaling by any a > 0 changes no output.

    The outputs are those in train mode, of a copy in float64: the network, its statistics, its
    gradients and PyTorch's random state stay as they are. Two evaluations for each tensor; nothing
    is assumed about the layers, but that an attribute `eps` of a module only keeps it from
    dividing by zero. Dropout and stochastic depth draw the same numbers in evaluations that are
    compared.

    Parameters
    ----------
    model : any network; one under torch.compile is taken as what it was made from.
    inputs : what it is called with: a tensor, a tuple of arguments or a dictionary of keyword
        arguments. A batch of at least four: batch normalisation turns two values of a channel into
        ±1 whatever the weights.
    seed : of the random points.

    Raises
    ------
    ValueError : no floating-point tensor is among the outputs, or they are not finite.
    """
    model = getattr(model, "_orig_mod", model)
    if next(model.parameters(), None) is None:
        return ScaleInvariance((), ())
    try:
        return _find(_Probe(model, inputs, torch.float64), seed)
    except (RuntimeError, TypeError):  # the network insists on float32 somewhere
        return _find(_Probe(model, inputs, torch.float32), seed)


def _find(probe: "_Probe", seed: int) -> ScaleInvariance:
    """Solve for the groups at a random point, and at more as long as they fail at a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    point, derivatives, moving = probe.point(generator), [], set()
    for _ in range(POINTS):
        derivatives.append(probe.derivatives(point))
        groups = [
            tuple(probe.names[k] for k in group)
            for group in _solve(np.concatenate(derivatives), probe.tolerance)
        ]
        fresh = probe.point(generator)
        alone = {group[0] for group in groups if len(group) == 1}
        moving |= {n for n in alone if not probe.unchanged(point, {n: fresh.weights[n]})}
        inert = {n: point.weights[n] for n in probe.names if n in alone - moving}
        groups = [group for group in groups if group[0] not in inert]
        point = fresh
        if all(probe.unchanged(point, inert | _scaled(point, groups, f)) for f in FACTORS):
            return ScaleInvariance(tuple(groups), tuple(inert))
    # Not what it seems, by saturation or by noise that is not PyTorch's: what holds on its own
    inert = {n: w for n, w in inert.items() if probe.unchanged(point, {n: w})}
    groups = [g for g in groups if all(probe.unchanged(point, _scaled(point, [g], f)) for f in FACTORS)]
    return ScaleInvariance(tuple(groups), tuple(inert))


@dataclass(frozen=True)
class _Point:
    """Weights to evaluate at, and the seed of what the network draws itself."""

    weights: dict[str, torch.Tensor]
    seed: int


def _scaled(
    point: _Point, groups: list[tuple[str, ...]], factor: float
) -> dict[str, torch.Tensor]:
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
        self.network = copy.deepcopy(model).to(dtype).train()
        for module in self.network.modules():
            if isinstance(getattr(module, "eps", None), float):
                module.eps = min(module.eps, EPS)
        self.inputs = _cast(inputs, dtype)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.step = torch.finfo(dtype).eps ** (1 / 3)  # the best one for a central difference
        self.tolerance = TOLERANCE[dtype]

    def point(self, generator: torch.Generator) -> _Point:
        """A random point near the network's weights: none is zero, the others keep their sign."""
        weights = {}
        for name, p in self.network.named_parameters():
            noise = SPREAD * torch.randn(p.shape, generator=generator).to(p)
            size = p.detach().square().mean().sqrt()
            small = torch.where(size > 0, size, 1) * noise
            weights[name] = torch.where(p.detach() == 0, small, p.detach() * noise.exp())
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
        if not outputs:
            raise ValueError("the network gives no floating-point tensor")
        vector = torch.cat([output.flatten() for output in outputs])
        if not vector.isfinite().all():
            raise ValueError("the network's outputs are not finite at random weights")
        return vector

    def derivatives(self, point: _Point) -> np.ndarray:
        """∂ outputs / ∂ logarithm of each tensor's scale: (outputs, tensors), central differences.

        Of very many outputs a random part is looked at.
        """
        count = len(self._outputs(point, {}))
        index = np.random.RandomState(0).permutation(count)[: ROWS + 10 * len(self.names)]
        columns = []
        for name, weight in point.weights.items():
            up, down = (
                self._outputs(point, {name: weight * np.exp(sign * self.step)}) for sign in (1, -1)
            )
            columns.append(((up - down) / (2 * self.step)).double().cpu().numpy()[index])
        return np.stack(columns, axis=1)

    def unchanged(self, point: _Point, replaced: dict[str, torch.Tensor]) -> bool:
        """Whether other tensors in place of some leave the outputs as they are, but for rounding."""
        before, after = self._outputs(point, {}), self._outputs(point, replaced)
        return bool((after - before).norm() <= self.tolerance * before.norm())


def _solve(derivatives: np.ndarray, tolerance: float) -> list[tuple[int, ...]]:
    """The minimal groups of columns, in order, from the derivatives by the logarithms of scales.

    A column that is zero, as of a tensor that is invariant alone or has no effect, is one too.
    """
    sizes = np.linalg.norm(derivatives, axis=0)
    zero = sizes <= tolerance * sizes.max()
    alone = [(k,) for k in np.flatnonzero(zero).tolist()]
    if zero.all():
        return alone
    rest = np.flatnonzero(~zero)
    columns = derivatives[:, rest] / sizes[rest]
    _, values, directions = np.linalg.svd(np.pad(columns, ((0, len(rest)), (0, 0))), full_matrices=False)
    rank = int((values > tolerance * values[0]).sum())
    null, _ = np.linalg.qr((directions[rank:] / sizes[rest]).T)
    together = [tuple(rest[sorted(group)].tolist()) for group in _zero_one_vectors(null.T)]
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


def _zero_one_vectors(space: np.ndarray) -> set[frozenset[int]]:
    """The supports of the vectors of zeros and ones in a space that hold no other such support.

    `space` is any basis, (d, k). Each vector sought is a sum of some rows of the reduced one, as
    each of these alone decides about its pivot. From each row in turn, rows are added as long as
    the sum has an entry that is neither 0 nor 1, and only those that change that entry.
    """
    basis = _reduced_row_echelon(space)
    found: set[frozenset[int]] = set()

    def grow(total: np.ndarray, unused: list[int]) -> None:
        off = np.minimum(np.abs(total), np.abs(total - 1))
        column = int(np.argmax(off))
        if off[column] < INTEGER:
            found.add(frozenset(np.flatnonzero(total > 0.5).tolist()))
            return
        helpers = [row for row in unused if abs(basis[row, column]) > INTEGER]
        for tried, row in enumerate(helpers, 1):
            grow(total + basis[row], [r for r in unused if r not in helpers[:tried]])

    for first in range(len(basis)):
        grow(basis[first], [row for row in range(len(basis)) if row != first])
    return {group for group in found if not any(other < group for other in found)}


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
