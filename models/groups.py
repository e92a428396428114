"""Which tensors of any network are scale invariant together, found from the network itself.

A group of tensors is scale invariant if multiplying all of them by one a > 0 leaves the outputs as
they are. Let s be the logarithms of one factor for each tensor. A group is a vector of zeros and
ones in the null space of the matrix of derivatives ∂ outputs / ∂ s, at a point where nothing
vanishes by accident: a fresh network's zero biases would look invariant. A backward pass gives one
row of that matrix for a random projection of the outputs. Two rows show which tensors are invariant
alone; only the others need as many rows as there are tensors. The groups are read off the reduced
row echelon form of their null space, in which each row alone is 1 at its pivot, so that none
contains another. Other rows have -1s: they are balances, as of one convolution against the next;
where a tensor is used twice, the sum of two may be a group.
Every group is confirmed by scaling it by powers of two, which add no rounding errors.
"""

import itertools
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from models.probe import CONSTANT, NotFinite, Point, Probe, has_hooks, undisturbed
from utils import duration, plural

POINTS = 4  # random points, at most, for the derivatives (twice as many where needed)
SPARE = 4  # rows collected beyond their rank
LARGEST = 6  # groups are confirmed by scaling with powers of two from 1 / 4 to 2 ** LARGEST
INTEGER = 0.05  # how far an entry of the reduced null space may be from a whole number
TOLERANCE = 1e-4  # relative size of a derivative that counts as zero; more where noise demands it
EFFECT = 1e-2  # relative size of a change of the outputs that rounding alone does not make
UNCHANGED = 1e-3  # relative change of the outputs up to which they are the same
NOISY = 0.05  # relative change by rounding that is too large to tell what has an effect
SMALL = 10**6  # weights up to which a CPU computes in float64
LARGE = 10**7  # weights from which one example is enough, where the examples do not interact
PATIENCE = 5.0  # seconds until the first line of progress


@dataclass(frozen=True)
class ScaleInvariance:
    """What is scale invariant in a network; iterates over the groups.

    Attributes
    ----------
    groups : names of the tensors of each group, in the network's order. No part of a group is a
        group. Two groups may share tensors, as where a stream of a ResNet starts with two factors
        in a row. Of factors without a normalisation between them (values and outputs of attention),
        one choice is listed.
    without_effect : tensors that change no output on this batch, such as a bias in front of batch
        normalisation, or an expert that no input was sent to.
    in_eval : modules that were in evaluation mode. Batch normalisation then divides by stored
        statistics, so what it follows is not invariant.
    unknown : tensors with too little effect to tell, as of an expert that got hardly any input.
    hooked : modules whose forward hooks, which are not PyTorch's, were left out.
    constants : numbers between 0.001 and 0.1 that the network's code adds to tensors. If one is an
        epsilon, it hides invariance: only smaller ones are left out.
    """

    groups: tuple[tuple[str, ...], ...]
    without_effect: tuple[str, ...]
    in_eval: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    hooked: tuple[str, ...] = ()
    constants: tuple[float, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def notes(self) -> list[str]:
        """What else a reader of the groups has to know, a sentence each."""
        notes = []
        if self.without_effect:
            notes.append(f"Without any effect: {' '.join(self.without_effect)}.")
        if self.unknown:
            notes.append(
                f"Not determined (too little effect on this batch): {' '.join(self.unknown)}."
            )
        if "" in self.in_eval:
            notes.append(
                "Probed in evaluation mode: batch normalisation uses its stored statistics."
            )
        elif self.in_eval:
            names = ", ".join(self.in_eval[:4]) + (", ..." if len(self.in_eval) > 4 else "")
            notes.append(f"Probed in train mode, except in evaluation mode: {names}.")
        if self.hooked:
            notes.append(
                f"Probed without the forward hooks of: {', '.join(n or 'all' for n in self.hooked)}"
                ". If one changes what its module takes or gives, the groups are wrong."
            )
        if self.constants:
            notes.append(
                f"The network adds {', '.join(f'{c:g}' for c in self.constants)} to tensors: an "
                f"epsilon above {CONSTANT:g} hides scale invariance."
            )
        return notes


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside the wrappers of torch.compile and PyTorch's data parallelism."""
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

    This holds in the limit of no epsilon and exact arithmetic; `doubling_effects` measures the
    network as it is. Every module keeps its present mode (train or eval). The gradients of a group
    also have to be orthogonal to it, which those of a straight-through estimator are not. Nothing
    is assumed about the layers. Dropout and stochastic depth draw the same numbers in evaluations
    that are compared.

    The work is done on a copy, without its users' hooks: the network, its statistics, its gradients
    and all random states stay as they are. It takes about one backward pass for each tensor that is
    not invariant alone; after five seconds a line on stderr shows the progress.

    Raises ValueError if the network cannot be copied or evaluated, or is compiled by torch.jit, and
    if its outputs hold no floating-point tensor, are not finite, or depend on no weight.

    Parameters
    ----------
    model : any network; one under torch.compile or DataParallel is unwrapped.
    inputs : what it is called with: a tensor, a tuple of arguments or a dictionary of keyword
        arguments. At least four examples: batch normalisation turns two values of a channel into ±1
        whatever the weights.
    seed : of the random points.
    """
    model = unwrapped(model)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{type(model).__name__} is no torch.nn.Module")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ValueError("torch.jit has compiled the network: give the one it was made from")
    weights = list(model.parameters())
    if any(map(nn.parameter.is_lazy, weights)):
        raise ValueError("the network has lazy modules: call it once before it is probed")
    if not weights:
        return ScaleInvariance((), ())
    in_eval = tuple(name for name, module in model.named_modules() if not module.training)
    hooked = tuple(name for name, module in model.named_modules() if has_hooks(module))
    on_cpu = weights[0].device.type == "cpu"
    size = sum(map(torch.numel, weights))
    is_small, is_large = size <= SMALL, size >= LARGE
    precise = [torch.float64, torch.float32]
    if weights[0].device.type == "mps" or (on_cpu and not is_small):
        precise.reverse()  # float64 takes several times as long there
    for dtype in (*precise, None):
        try:
            with torch.inference_mode(False):
                probe = Probe(model, inputs, dtype)
                with undisturbed(probe):
                    search = _Search(probe, seed)
                    batch = probe.inputs
                    is_one = is_large and probe.use_one_example(search.point())
                    found = search.run()
                    if is_one and (found.without_effect or found.unknown):
                        probe.inputs = batch  # more may have an effect on more examples
                        found = _Search(probe, seed).run()
                    return replace(found, in_eval=in_eval, hooked=hooked, constants=probe.constants)
        except Exception as error:  # the network may insist on a precision: the next is tried
            # Without its traceback, which would keep the copy
            what = str(error)
            if not isinstance(error, ValueError):
                text = (what.strip() or "no message").splitlines()[0]
                what = f"the network fails when it is probed: {type(error).__name__}: {text}"
    raise ValueError(what)


def doubling_effects(
    model: nn.Module,
    inputs: Any,
    groups: Iterable[tuple[str, ...]],
    in_eval: Sequence[str] | None = None,
) -> list[float]:
    """How much the outputs of a network as it is change when each group is doubled.

    ‖f(2w) - f(w)‖ / ‖f(w)‖ at the present weights, with the network's own epsilons, precision and
    modes (or with the modules `in_eval` in evaluation mode and all others in train mode). It is
    zero in theory: if it is not small, an epsilon matters. NaN where the outputs are not finite.
    """
    with torch.inference_mode(False):
        probe = Probe(unwrapped(model), inputs, None, keep_epsilons=True)
        for name, module in probe.network.named_modules():
            module.training = module.training if in_eval is None else name not in in_eval
        with undisturbed(probe):
            here, effects = Point(probe.present, 0), []
            try:
                before = probe.outputs(here).detach()
            except NotFinite:
                return [math.nan for _ in groups]
            for group in groups:
                doubled = {name: 2 * here.weights[name] for name in group}
                try:
                    effects.append(probe.change(here, doubled, before))
                except NotFinite:
                    effects.append(math.nan)
    return effects


def scaled_together(
    groups: Iterable[tuple[str, ...]], parameters: Mapping[str, torch.Tensor]
) -> list[tuple[str, ...]]:
    """Groups without a common tensor, which one factor can scale all at once. Of groups that share
    a tensor one is kept: matrices alone before those with vectors, then the largest."""

    def order(group: tuple[str, ...]) -> tuple[bool, int]:
        tensors = [parameters[name] for name in group]
        return any(p.ndim < 2 for p in tensors), -sum(p.numel() for p in tensors)

    chosen, covered = [], set()
    for group in sorted(groups, key=order):
        if covered.isdisjoint(group):
            chosen.append(group)
            covered.update(group)
    return chosen


def group_table(
    model: nn.Module, found: ScaleInvariance, doubled: Sequence[float] | None = None
) -> str:
    """A line for each group of a network, with `doubling_effects` if given, and notes."""
    if not found.groups:
        first = "No tensor of this network is scale invariant, alone or with others."
        return "\n".join([first, *found.notes])
    sizes = {name: p.numel() for name, p in unwrapped(model).named_parameters()}
    covered = sum(sizes[name] for name in set().union(*found))
    lines = [
        f"{plural(len(found), 'scale-invariant group')}: {covered:,} of {sum(sizes.values()):,} "
        "weights are in a group.",
        "",
        "group      weights  " + ("doubled  " if doubled else "") + "tensors",
    ]
    for number, group in enumerate(found, 1):
        effect = f"{doubled[number - 1]:>7.1g}  " if doubled else ""
        weights = sum(sizes[name] for name in group)
        lines.append(f"{number:>5}  {weights:>11,}  {effect}{' '.join(group)}")
    notes = list(found.notes)
    if doubled:
        notes.insert(0, "doubled: relative change of the outputs when the group is doubled, as the "
                        "network is")  # fmt: skip
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


class _Search:
    """Collects derivatives at random points until the groups that they give are confirmed."""

    def __init__(self, probe: Probe, seed: int):
        self.probe, self.names = probe, list(probe.weights)
        self.generator = torch.Generator().manual_seed(seed)
        self.near = self.whole = False
        self.rows: list[np.ndarray] = []  # (tensors,) each
        self.sizes = np.zeros(len(self.names))  # largest ‖w‖ ‖∂/∂w‖ seen
        self.begin, self.silent = time.monotonic(), PATIENCE
        try:
            probe.outputs(self.point())
        except NotFinite:
            self.near = True
        point = self.point()
        noise = probe.change(point, {n: self._rounded(w) for n, w in point.weights.items()})
        if noise > NOISY:
            raise ValueError(
                "the probe failed: rounding, random numbers that no seed of PyTorch, NumPy or "
                "Python sets, or what the network keeps from call to call change the outputs by "
                f"{noise:.1g} of their norm"
            )
        self.tolerance, self.unchanged = max(TOLERANCE, noise), max(UNCHANGED, noise)

    def point(self) -> Point:
        return self.probe.point(self.generator, near=self.near)

    def _rounded(self, weight: torch.Tensor) -> torch.Tensor:
        """The tensor with every number changed by its precision, up or down at random."""
        sign = torch.randint(2, weight.shape, generator=self.generator, device="cpu")
        sign = sign.to(weight) * 2 - 1
        return weight * (1 + 2 * torch.finfo(weight.dtype).eps * sign)

    def run(self) -> ScaleInvariance:
        spare = 0
        for _ in range(POINTS):
            for _ in range(2):  # what vanishes by accident at one point does not at the next
                spare += SPARE
                self._collect(spare)
            for _ in range(POINTS):
                if (self.sizes <= self.tolerance).any():  # experts without an input, say
                    self._add(*next(self._rows(self.point(), 1, whole=True)))
            self._collect(spare)
            groups, inert, unknown = self._candidates(self.point(), self.point())
            point = self.point()
            holds = self._holds(point, groups, inert)
            if holds and not unknown:
                break
        if not holds:  # saturation or noise: keep what holds on its own
            wrong = [group for group in groups if not self._holds(point, [group], [])]
            unknown += {name for group in wrong for name in group if len(group) > 1}
            groups = [group for group in groups if group not in wrong]
            inert = [name for name in inert if self._holds(point, [], [name])]
        if len(inert) == len(self.names):
            raise ValueError(
                "the probe failed: no weight has any effect on the outputs (are they constant, "
                "saturated, or made from other tensors?)"
            )
        if not self.sizes.any():
            raise ValueError(
                "the probe failed: the outputs have no gradient by any weight (are they detached, "
                "or computed under torch.no_grad?)"
            )
        return ScaleInvariance(tuple(groups), tuple(inert), unknown=tuple(sorted(set(unknown))))

    def _rows(self, point: Point, number: int, whole: bool) -> Iterator[tuple]:
        return self.probe.rows(point, number, self.generator, whole=whole)

    def _collect(self, spare: int) -> None:
        """Add rows at new points until there are `spare` more than their rank."""
        while self._spare() < spare:
            point = self.point()
            self._add(*next(self._rows(point, 1, whole=True)))
            try:
                for row in self._rows(point, len(self.names), self.whole):
                    self._add(*row)
                    if len(self.rows) % SPARE == 0 and self._spare() >= spare:
                        break
            except RuntimeError:  # the shortcut fails for some networks, as with checkpoints
                if self.whole:
                    raise
                self.whole = True

    def _add(self, radial: np.ndarray, sizes: np.ndarray | float) -> None:
        """Keep a row; after some seconds, and then less and less often, print the progress."""
        self.rows.append(radial)
        self.sizes = np.maximum(self.sizes, sizes)
        elapsed = time.monotonic() - self.begin
        if elapsed > self.silent:
            self.silent = 2 * elapsed
            most = max(len(self.names) - int(self._alone().sum()) + 2 * SPARE, len(self.rows))
            print(
                f"looking for scale-invariant weights: {len(self.rows)} of about {most} backward "
                f"passes in {duration(elapsed)}",
                file=sys.stderr,
                flush=True,
            )

    def _alone(self) -> np.ndarray:
        """(tensors,) whether the derivative by the scale of each tensor is zero: next to those of
        the others (or the outputs, where all are zero), or to the gradient of the tensor itself."""
        radial = np.abs(self.rows).max(0)
        zero = radial <= self.tolerance * max(radial.max(), EFFECT)
        return zero | (radial <= self.tolerance / 100 * self.sizes)

    def _null_space(self) -> tuple[np.ndarray, np.ndarray]:
        """The tensors that are not invariant alone, and a basis (d, tensors) of their space."""
        rest = np.flatnonzero(~self._alone())
        if len(rest) == 0:
            return rest, np.zeros((0, 0))
        columns = np.array(self.rows)[:, rest]
        sizes = np.linalg.norm(columns, axis=0)
        columns = np.pad(columns / sizes, ((0, len(rest)), (0, 0)))
        _, values, directions = np.linalg.svd(columns, full_matrices=False)
        rank = int((values > self.tolerance * values[0]).sum())
        return rest, directions[rank:] / sizes

    def _spare(self) -> int:
        if not self.rows:
            return 0
        rest, null = self._null_space()
        return len(self.rows) - (len(rest) - len(null))

    def _candidates(
        self, point: Point, fresh: Point
    ) -> tuple[list[tuple[str, ...]], list[str], list[str]]:
        """Minimal groups by the derivatives, tensors without any effect, and undecided ones."""
        groups, inert, unknown = [], [], []
        radial = np.abs(self.rows).max(0)
        for k in np.flatnonzero(self._alone()).tolist():
            name = self.names[k]
            if self.sizes[k] > self.tolerance:
                is_weak = self.sizes[k] < EFFECT and radial[k] > UNCHANGED * self.sizes[k]
                if is_weak:
                    unknown.append(name)
                else:
                    groups.append((k,))
                continue
            other = {name: -fresh.weights[name]}
            if self.probe.change(point, other) > self.unchanged:
                if self._holds(point, [(name,)], []):  # only its sign matters
                    groups.append((k,))
            elif self._has_effect_now(other):
                unknown.append(name)
            else:
                inert.append(name)
        rest, null = self._null_space()
        if len(null):
            orthonormal, _ = np.linalg.qr(null.T)
            rows = list(_reduced_row_echelon(orthonormal.T))
            twice = [_has_twice(row) for row in rows]
            for i, j in itertools.combinations(range(len(rows)), 2):
                if (twice[i] or twice[j]) and _is_group(rows[i] + rows[j]):
                    rows.append(rows[i] + rows[j])
            for row in rows:
                if _is_group(row):
                    groups.append(tuple(rest[row > 0.5].tolist()))
                elif np.abs(row - np.round(2 * row) / 2).max() > INTEGER:  # too few points
                    unknown += [self.names[k] for k in rest[np.abs(row) > INTEGER]]
        named = [tuple(self.names[k] for k in group) for group in sorted(groups)]
        return named, inert, unknown

    def _has_effect_now(self, other: dict[str, torch.Tensor]) -> bool:
        """Whether other values of a tensor change the outputs at the present weights."""
        try:
            return self.probe.change(Point(self.probe.present, 0), other) > self.unchanged
        except NotFinite:
            return True

    def _holds(self, point: Point, groups: list[tuple[str, ...]], inert: list[str]) -> bool:
        """Whether the outputs stay when every group is scaled by a factor of its own, all at once,
        since invariances compose. The factors are powers of two, with which rounding is the same;
        tensors without effect change their sign."""
        for low, high in ((-2, -1), (1, LARGEST)):
            scaled = {name: -point.weights[name] for name in inert}
            for group in groups:
                exponent = torch.randint(low, high + 1, (), generator=self.generator, device="cpu")
                for name in group:
                    scaled[name] = scaled.get(name, point.weights[name]) * 2.0 ** int(exponent)
            try:
                if self.probe.change(point, scaled) > self.unchanged:
                    return False
            except NotFinite:
                return False
        return True


def _is_group(row: np.ndarray) -> bool:
    return bool(np.minimum(np.abs(row), np.abs(row - 1)).max() < INTEGER)


def _has_twice(row: np.ndarray) -> bool:
    """Whether a row has a 2 or a half, as where the network uses a tensor twice."""
    size = np.abs(row)
    return bool(size.max() > 2 - INTEGER or (np.abs(size - 0.5) < INTEGER).any())


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
