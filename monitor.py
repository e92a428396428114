"""Watches the scale-invariant weights in any training loop: norm, effective rate, periods.

    from monitor import Monitor

    monitor = Monitor(model, optimizer, inputs)    # inputs: a small batch for the network
    for step, (x, y) in enumerate(batches):
        ...                                        # loss.backward(), optimizer.step()
        monitor.record(loss)
    print(monitor.report())
    monitor.save("dynamics.csv")                   # appends what is new; python -m figures draws it
    monitor.close()

It needs torch and NumPy, and of this project the folders models/ and theory/ and the file utils.py.
As a script it prints the scale-invariant groups of a network, given the function that makes it:

    python monitor.py torchvision.models:resnet18 --input 4,3,64,64
"""

from utils import end_quietly  # first: the other imports take seconds

if __name__ == "__main__":
    end_quietly("monitor.py")

import argparse
import csv
import functools
import io
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models import (
    doubling_effects,
    group_table,
    norms,
    own,
    scale_invariant_groups,
    scaled_together,
    unwrapped,
)
from theory import dynamics
from theory.dynamics import effective_lr, effective_step, jump_threshold
from theory.forecast import Course
from theory.periods import Periods
from utils import UserError, plural, user_errors

DELTA = 0.01  # a step whose cosine is below 1 - DELTA is called a jump (P1, section 2)
ALL = "all"
# Optimisers whose weight decay is part of a gradient that is divided by its size.
COUPLED = ("Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Adadelta")
NOTICEABLE = 0.01  # change of the outputs by doubling a group that the report mentions
PHASES = {
    "A": "gradients dominate, the norm grows",
    "B": "weight decay dominates, the norm falls and the effective rate rises",
    "C": "the effective rate is too high for this minimum, the loss rises",
}
TABLE = {
    "group": "group",
    "ρ": "si_norm",
    "η̃": "effective_lr",
    "‖g̃‖": "effective_gradient_norm",
    "angle": "angle",
    "equilibrium": "equilibrium_angle",
    "η̃‖g̃‖": "effective_step",
    "δ-jump": "jump_threshold",
}


@dataclass(frozen=True)
class Record:
    """A row of the file: what one step did to one group of scale-invariant weights; empty if
    unknown.

    Attributes
    ----------
    step : number of the step, from 1.
    group : its first tensor and the number of others; "all" for all weights together.
    loss : mean of the losses since the record before.
    lr, decay : η; ηλ, the fraction of the weights that decay takes off in a step (of SGD with
        momentum, in the long run 1 / (1 - momentum) times as much). NaN for `COUPLED`.
    si_norm : ρ before the step.
    effective_lr : η̃ of the optimiser (`theory.dynamics.effective_lr`); NaN if it is unknown.
    effective_gradient_norm : ρ ‖g‖.
    angle : between the weights before and after the step, in radians.
    equilibrium_angle : the angle at which decay and gradients balance, or None.
    effective_step, jump_threshold : of SGD, η̃ ‖g̃‖ (of several rates ‖ηg‖ / ρ); without momentum,
        the value above which it is a δ-jump.
    phase, periods, steps_to_turn : of all weights together: "A", "B" or "C"; the number of periods
        so far; the forecast (`theory.forecast`).
    """

    step: int
    group: str
    loss: float
    lr: float
    decay: float
    si_norm: float
    effective_lr: float
    effective_gradient_norm: float
    angle: float
    equilibrium_angle: float | None
    effective_step: float | None
    jump_threshold: float | None
    phase: str | None = None
    periods: int | None = None
    steps_to_turn: float | None = None


COLUMNS = tuple(field.name for field in fields(Record))


def equilibrium_angle(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float | None:
    """`theory.dynamics.equilibrium_angle` of one of an optimiser's parameter groups. None without a
    rate or weight decay, for optimisers other than SGD, AdamW, and Adam and RAdam with decoupled
    decay, and for subclasses with a `step` of their own."""
    decay, rule = _number(group.get("lr")) * _decay(optimizer, group), _rule(optimizer)
    if not 0 < decay < math.inf:
        return None
    if isinstance(optimizer, torch.optim.SGD) and rule == "SGD":
        momentum = group["momentum"]
        if momentum >= 1:
            return None
        if momentum:
            decay *= 1 - group["dampening"]
        return dynamics.equilibrium_angle(decay, momentum, nesterov=group["nesterov"])
    if rule in ("Adam", "AdamW", "RAdam") and group.get("decoupled_weight_decay"):
        return dynamics.equilibrium_angle(decay, float(group["betas"][0]), decoupled=True)
    return None


def _harmless(method: Callable[..., None]) -> Callable[..., None]:
    """A method of the monitor whose errors end the monitor with a warning, but not the training."""

    @functools.wraps(method)
    def guarded(self: "Monitor", *arguments: Any) -> None:
        if self._has_failed:
            return
        try:
            with torch.no_grad():
                method(self, *arguments)
        except Exception as error:
            self._has_failed = True
            message = f"the monitor stops: {type(error).__name__}: {error}"
            try:
                warnings.warn(message, stacklevel=3)
            except Warning:  # the user has turned warnings into errors
                print(message, file=sys.stderr)

    return guarded


class Monitor:
    """Measures what every `every`th step of training does to the scale-invariant weights.

    In the other steps it adds up the loss on its device, without waiting for it. The network, the
    optimiser and all random states stay as they would be without the monitor. If a measurement
    fails, a warning says so and training goes on without it. Raises ValueError if the network
    (`scale_invariant_groups`) or the optimiser (it has no step hooks) cannot be measured, `every` <
    1, or `start` < 0.

    Parameters
    ----------
    model : the network, also under torch.compile or DataParallel.
    optimizer : any torch.optim.Optimizer, or several (in a list, a dictionary or an object) that
        share the weights and step at most once each between two calls of `record`. If several step
        on one weight, its rate and gradient are those of the last. Inside a wrapper (Accelerate,
        Lookahead, SAM) the inner optimiser is watched: what the wrapper itself does to the weights
        is not part of a step. Rates and trainable weights may change at any time.
    inputs : a batch for `models.scale_invariant_groups`; a small one will do.
    every : steps from one record to the next. Where optimisers take turns, call `record` once after
        all of them.
    start : number of steps made before, if training is resumed without a `state_dict`.

    Attributes
    ----------
    found : the scale-invariant groups of the network.
    groups : those that are trained as a whole, which are followed here.
    left_out : the other groups, and why.
    records : those that `save` has not written yet, and in any case the latest.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        inputs: Any,
        *,
        every: int = 10,
        start: int = 0,
    ):
        self.every, self.steps = _whole("every", every, 1), _whole("start", start, 0)
        self.optimizers = _innermost(optimizer)
        if not self.optimizers:
            raise ValueError(
                f"{type(optimizer).__name__} is no torch.optim.Optimizer and holds none: "
                "its steps cannot be watched"
            )
        self.model, self.inputs = unwrapped(model), inputs
        self.found = scale_invariant_groups(self.model, inputs)
        self.records: list[Record] = []
        self.course = Course()
        self._latest: list[Record] = []
        self._unsaved = 0
        self._old: dict[int, torch.Tensor] = {}  # place of a weight -> it before the step
        self._stepped: set[int] = set()  # the optimisers that have made this step
        self._open: list[int] = []  # optimisers in a step, or in one within it (super().step())
        self._has_failed = self._has_losses = False
        self._followed: tuple[str, ...] | None = None  # the weights whose norm is ρ
        self._decayed, self._settled = 0.0, None  # e-folds of decay; the step of the first
        self._measured: torch.Tensor | None = None  # (4, weights), of the step
        self._rates: list[tuple] = []
        self._losses: list[Any] = [0.0, 0]  # sum, on its device, and number
        self._look()
        self._choose()
        self._handles = []
        if self.found:
            for one in self.optimizers:
                self._handles.append(one.register_step_pre_hook(self._before_step))
                self._handles.append(one.register_step_post_hook(self._after))

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks from the optimisers and free the copy of the weights."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._old = [], {}

    def state_dict(self) -> dict[str, Any]:
        """Steps, periods and forecast: what a new Monitor needs to continue."""
        more = {"decayed": self._decayed, "settled": self._settled, "followed": self._followed}
        return {"steps": self.steps, "course": self.course.state_dict(), **more}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`. Raises ValueError, without any change, if it is none."""
        course = Course()
        try:
            steps = _whole("steps", state["steps"], 0)
            course.load_state_dict(state["course"])
            decayed, settled = float(state.get("decayed", 0.0)), state.get("settled")
            followed = state.get("followed") and tuple(state["followed"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not the state of a monitor: {error!r}") from None
        self.steps, self.course, self._followed = steps, course, followed
        self._decayed, self._settled = decayed, settled
        self._measured, self._losses = None, [0.0, 0]

    @property
    def periods(self) -> Periods:
        """The periods so far, in steps."""
        end = self._latest[0].step if self._latest else self.steps
        return Periods(tuple(self.course.periods), end)

    def _look(self) -> None:
        """Find the weights of the groups, and by which groups of which optimisers they are trained.
        Frozen ones count too: they may be trained when their optimiser makes its step."""
        self.parameters = dict(self.model.named_parameters())
        owners: dict[int, dict[int, tuple]] = {}  # of a weight: (optimiser, group) of each
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    owners.setdefault(id(p), {})[id(optimizer)] = (optimizer, group)
        in_groups = set().union(*self.found)
        self.names = [n for n, p in self.parameters.items() if n in in_groups and id(p) in owners]
        self.weights = [self.parameters[name] for name in self.names]
        self.owners = [owners[id(weight)] for weight in self.weights]

    def _choose(self) -> None:
        """Choose the groups that are trained as a whole, after a step or before the first."""
        trained = {self.names[j] for j in self._old}

        def obstacle(name: str) -> str | None:
            if name not in self.parameters:
                return f"{name} is no longer in the network"
            if name not in trained and not self.parameters[name].requires_grad:
                return f"{name} is frozen"
            if name not in self.names:
                return f"{name} is in no optimiser that is watched"
            return None

        reasons = {group: next(filter(None, map(obstacle, group)), None) for group in self.found}
        self.groups = [group for group, reason in reasons.items() if not reason]
        self.left_out = {group: reason for group, reason in reasons.items() if reason}
        self.labels = _labels(self.groups) if self.groups else []
        scopes = (
            [_together(self.groups, self.parameters), *map(set, self.groups)] if self.groups else []
        )
        self.members = [[j for j, n in enumerate(self.names) if n in scope] for scope in scopes]

    def _is_measured(self) -> bool:
        return (self.steps - 1) % self.every == 0

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict] | None:
        """Begin a step, and take the norms of the gradients, which it may change. A closure gets a
        wrapper, because the gradient is that of its first call."""
        is_inner = id(optimizer) in self._open
        self._begin(optimizer)
        if is_inner or self._has_failed or self._measured is None or not self._is_measured():
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args[0]: optimizer
        if not callable(closure) or isinstance(closure, nn.Module):
            self._take_gradients(optimizer)
            return None
        is_first = True

        @functools.wraps(closure, updated=())
        def watched(*of_closure: Any, **named: Any) -> Any:
            nonlocal is_first
            result = closure(*of_closure, **named)
            if is_first:
                is_first = False
                self._take_gradients(optimizer)
            return result

        def swapped(value: Any) -> Any:
            return watched if value is closure else value

        return tuple(map(swapped, args)), {key: swapped(v) for key, v in kwargs.items()}

    @_harmless
    def _begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy the weights of an optimiser before a step that is measured."""
        # Within another step, as of super().step(), or by a later optimiser of several: the same
        is_new = not (self._open or (self._stepped and id(optimizer) not in self._stepped))
        self._open.append(id(optimizer))
        if is_new:
            self._stepped.clear()
            self.steps += 1
        if is_new and self._is_measured():
            self._look()
            self._measured, self._rates, self._old = None, [], {}
            if self.weights:
                before = norms(weight.detach() for weight in self.weights)
                self._measured = torch.stack([before, before, 0 * before, 0 * before])
            else:
                self._choose()
                self._latest = []
        if self._is_measured() and self._measured is not None:
            for j in self._own(optimizer):
                if j not in self._old and self.weights[j].requires_grad:
                    self._old[j] = self.weights[j].detach().clone()

    def _own(self, optimizer: torch.optim.Optimizer) -> list[int]:
        """The places of an optimiser's weights among those that are followed."""
        return [j for j, of_weight in enumerate(self.owners) if id(optimizer) in of_weight]

    @_harmless
    def _take_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        own = self._own(optimizer)
        if own:
            found = norms(_gradient(self.weights[j]) for j in own)
            scale = getattr(optimizer, "grad_scale", None)  # GradScaler's, for fused steps
            self._measured[3, own] = found if scale is None else found / scale

    @_harmless
    def _after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Measure the norms after the step and of the change; do not wait."""
        del self._open[-1:]
        self._stepped.add(id(optimizer))
        if not self._is_measured() or self._measured is None:
            return
        if not self._rates:
            self._rates = [_rates(*list(each.values())[-1]) for each in self.owners]
        own = [j for j in self._own(optimizer) if j in self._old]
        if not own:
            return
        for j in own:  # weights of several optimisers: those of the last that made a step
            self._rates[j] = _rates(*self.owners[j][id(optimizer)])
        weights = [self.weights[j].detach() for j in own]
        moved = [self._old[j] - w for j, w in zip(own, weights, strict=True)]
        self._measured[1:3, own] = torch.stack([norms(weights), norms(moved)])

    def record(self, loss: torch.Tensor | float | None = None) -> None:
        """Take the loss of the step just made; every `every`th time make records of it. A tensor
        need not be on the CPU. If `record` is called less often than once a step, its records
        describe the latest measured step."""
        self._record(loss)
        if self._has_failed:  # not in the hooks, which the optimiser may be iterating over
            self._measured = None
            self.close()

    @_harmless
    def _record(self, loss: torch.Tensor | float | None) -> None:
        self._stepped.clear()  # the next step of any optimiser is a new one
        self._open.clear()  # of a step that has raised an error
        if loss is not None:
            self._has_losses = True
            value = loss.detach().float().mean() if isinstance(loss, torch.Tensor) else loss
            self._losses = [self._losses[0] + value, self._losses[1] + 1]
        if self._measured is None or not self._rates:
            return
        mean = float(self._losses[0]) / self._losses[1] if self._losses[1] else math.nan
        self._losses = [0.0, 0]
        if self._unsaved == 0:
            self.records.clear()
        self._choose()
        measured = self._measured.cpu().numpy()
        with np.errstate(all="ignore"):  # rates may be NaN or infinite
            self._latest = [
                self._make_record(label, inside, mean, measured)
                for label, inside in zip(self.labels, self.members, strict=True)
            ]
        self._measured = None
        self.records += self._latest
        self._unsaved += len(self._latest)

    def _make_record(
        self, label: str, inside: list[int], loss: float, measured: np.ndarray
    ) -> Record:
        """The record of some weights together, from the (4, weights) norms of all."""
        step = self.steps - (self.steps - 1) % self.every  # the latest that was measured
        squares = measured[:, inside] ** 2
        before, after, moved, gradient = np.sqrt(squares.sum(1)).tolist()
        if not 0 < before * after < math.inf:  # zeros have no direction
            before = after = moved = math.nan
        share = squares[0] / before**2
        lrs, wds, angles, powers, momenta = zip(*(self._rates[j] for j in inside), strict=True)
        lr, decay = float(share @ lrs), float(share @ np.multiply(lrs, wds))
        kept = [1 - (momentum or 0) for momentum in momenta]
        turned = float(np.linalg.norm(effective_step(lrs, before, measured[3, inside])))
        # The chord between the directions: 1 - cos would be all rounding for small angles.
        chord = math.sqrt(max(moved**2 - (after - before) ** 2, 0) / (before * after))
        power = powers[0] if len(set(powers)) == 1 else None
        is_sgd = power == 2 and 0 < lr < math.inf
        is_plain = is_sgd and not any(momenta)
        record = Record(
            step=step,
            group=label,
            loss=loss,
            lr=lr,
            decay=decay,
            si_norm=before,
            effective_lr=float(effective_lr(lr, before, power)),
            effective_gradient_norm=before * gradient,
            angle=2 * math.asin(min(chord / 2, 1)),
            equilibrium_angle=None if None in angles else math.sqrt(share @ np.square(angles)),
            effective_step=turned if is_sgd else None,
            jump_threshold=float(jump_threshold(DELTA, lr, decay / lr)) if is_plain else None,
        )
        if label != ALL:
            return record
        if math.isfinite(decay):  # momentum multiplies it in the long run
            self._decayed += float(share @ (np.multiply(lrs, wds) / kept)) * self.every
            if self._decayed >= 1 and self._settled is None:
                self._settled = step
        followed = tuple(self.names[j] for j in inside)
        if self._followed not in (None, followed):  # ρ is another, and has not changed
            self.course.interrupt()
        self._followed = followed
        left = self.course.add(step, loss, before, lr, power)
        phase, periods = self.course.phase, len(self.course.periods)
        return replace(record, phase=phase, periods=periods, steps_to_turn=left)

    def metrics(self) -> dict[str, float]:
        """The latest finite numbers by "quantity/group", for Weights & Biases, TensorBoard, etc."""
        shared = ("step", "loss", "periods", "steps_to_turn")
        return {
            name if name in shared else f"{name}/{record.group}": value
            for record in self._latest
            for name, value in vars(record).items()
            if isinstance(value, int | float) and math.isfinite(value)
        }

    def save(self, path: str | Path) -> None:
        """Append the records that are not in the file yet, after removing a row that a crash has
        cut short. Raises ValueError if the file has other columns."""
        path = Path(path)
        header = ",".join(COLUMNS) + "\n"
        old = path.read_bytes() if path.exists() else b""
        whole = old[: old.rfind(b"\n") + 1]
        first = (whole or old).partition(b"\n")[0].decode("utf-8-sig", "replace").rstrip("\r")
        if first != header.strip() if whole else not header.startswith(first):
            raise ValueError(f"{path} is not a file of this monitor: its columns are others")
        text = io.StringIO("" if whole else header, newline="")
        text.seek(0, io.SEEK_END)
        rows = self.records[len(self.records) - self._unsaved :]
        csv.writer(text, lineterminator="\n").writerows(map(_cells, rows))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if old else "wb") as file:
            file.truncate(len(whole))
            file.seek(len(whole))
            file.write(text.getvalue().encode())
        self.records, self._unsaved = list(self._latest), 0

    def report(self) -> str:
        """The state of training in words, and a table of the groups as of the latest record. The
        column "doubled" is measured now (`models.doubling_effects`), in the mode (train or eval) in
        which the groups were found."""
        notes = [f"Left out: {' '.join(group)}: {reason}." for group, reason in
                 self.left_out.items()] + self.found.notes  # fmt: skip
        if not self.found.groups:
            first = (
                "No tensor of this network is scale invariant: nothing here depends on the norm of "
                "its weights. Its spikes are of another kind."
            )
            return "\n".join([first, *notes])
        if not self._latest:
            first = f"{plural(len(self.groups), 'group')} of scale-invariant weights; no record yet"
            return "\n".join([f"{first}.", *notes])
        rows = [[getattr(record, column) for column in TABLE.values()] for record in self._latest]
        header = list(TABLE)
        try:
            doubled = doubling_effects(self.model, self.inputs, self.groups, self.found.in_eval)
        except Exception as error:  # the network may have changed
            notes.append(f"Doubling the groups fails: {error}")
        else:
            header.append("doubled")
            effects = dict(zip(_labels(self.groups), [None, *doubled], strict=True))
            for row in rows:
                row.append(effects.get(row[0]))
            if any(effect > NOTICEABLE for effect in doubled):
                notes.append(
                    f"Doubling a group changes the outputs by up to {max(doubled):.2g} of their "
                    "norm: an epsilon or the precision matters (docs/spikes.md)."
                )
        if any(record.jump_threshold for record in self._latest):
            notes.append(
                "A step whose η̃‖g̃‖ exceeds the column δ-jump turns the weights by more than "
                f"{math.degrees(math.acos(1 - DELTA)):.0f} degrees."
            )
        return "\n".join([*self._in_words(), *notes, "", _table([header, *rows])])

    def _in_words(self) -> list[str]:
        """Sentences on the periods and the latest step of all weights together."""
        whole, periods = self._latest[0], self.periods
        so_far = f"{plural(len(periods), 'period') if len(periods) else 'No period'} so far"
        if len(periods) > 1:
            so_far += f", one every {periods.mean:.0f} steps"
        if len(periods) > 2:
            so_far += f" (coefficient of variation {periods.cv:.2f})"
        if self._decayed:  # after one e-fold, when the start is forgotten
            periods = periods.after(math.inf if self._settled is None else self._settled)
        if periods.is_periodic:
            so_far += ": periodic"
        if not self._has_losses:
            so_far += " (none can be found without losses)"
        words = [f"Step {whole.step}, loss {whole.loss:.4g}.", f"{so_far}."]
        if len(self.periods):
            words.append(f"Phase {whole.phase}: {PHASES[whole.phase]}.")
        if whole.steps_to_turn is not None:
            words.append(
                "At the present decay the effective rate reaches the level of the last "
                f"destabilisation in about {whole.steps_to_turn:.0f} steps."
            )
        if whole.equilibrium_angle:
            ratio = whole.angle / whole.equilibrium_angle
            words.append(
                f"The latest step turned the weights by {whole.angle:.2g} rad, {ratio:.2g} times "
                "the angle at which decay and gradients balance (column equilibrium)."
            )
        else:
            words.append("No equilibrium of decay and gradients to compare with here.")
        return words


def _together(groups: list[tuple[str, ...]], parameters: dict[str, torch.Tensor]) -> set[str]:
    """The weights whose norm is ρ: as in the papers, those of groups with tensors of two or more
    dimensions, or of all groups if there is none."""
    chosen = scaled_together(groups, parameters)
    large = [group for group in chosen if any(parameters[name].ndim > 1 for name in group)]
    return set().union(*(large or chosen))


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
        raise ValueError(f"{name} is a whole number of steps, {least} or more, not {value!r}")
    return int(value)


def _innermost(one: Any, outside: tuple[int, ...] = ()) -> list[torch.optim.Optimizer]:
    """The optimisers in an object; `outside`: what it is in. One that holds others is left out,
    unless it has weights that they do not have."""
    if isinstance(one, Mapping):
        parts = list(one.values())
    elif isinstance(one, list | tuple):
        parts = one
    elif (
        isinstance(one, torch.optim.Optimizer)
        or hasattr(one, "param_groups")
        or hasattr(one, "step")
    ):
        kept = getattr(one, "__dict__", {})
        parts = [kept[key] for key in kept if key not in ("state", "param_groups")]
        parts.append(getattr(one, "optimizer", None))  # it may be a property
    else:
        return []
    inside = (*outside, id(one))
    found = {id(o): o for part in parts if id(part) not in inside for o in _innermost(part, inside)}
    inner, is_watched = list(found.values()), hasattr(one, "_optimizer_step_pre_hooks")
    if not isinstance(one, torch.optim.Optimizer) or (found and not is_watched):
        return inner
    if not is_watched:
        raise ValueError(
            f"{type(one).__name__} does not call Optimizer.__init__: its steps cannot be watched"
        )
    return [one, *inner] if not found or _weights([one]) - _weights(inner) else inner


def _weights(optimizers: list[torch.optim.Optimizer]) -> set[int]:
    return {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}


def _rule(optimizer: torch.optim.Optimizer) -> str:
    """The name of the class that defines its `step`: a subclass may have a rule of its own."""
    return type(optimizer).step.__qualname__.rpartition(".")[0].rpartition(".")[2]


def _decay(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    """λ; NaN where ηλ is unknown or not the fraction that decay takes off (`COUPLED`)."""
    is_torchs = _rule(optimizer) in COUPLED
    if is_torchs and group.get("weight_decay") and not group.get("decoupled_weight_decay"):
        return math.nan
    return _number(group.get("weight_decay"))


def _rates(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> tuple:
    """η, λ, equilibrium angle, power of ρ and momentum for the weights of a group."""
    power = dynamics.norm_power(_rule(optimizer))
    rate, decay = _number(group.get("lr")), _decay(optimizer, group)
    return rate, decay, equilibrium_angle(optimizer, group), power, group.get("momentum")


def _number(value: Any) -> float:
    """A number or a tensor as a float; NaN for None, as the rate of Adafactor may be."""
    return math.nan if value is None else float(value)


def _gradient(weight: torch.Tensor) -> torch.Tensor:
    """The gradient, of a sparse one the values; zero where there is none."""
    gradient = weight.grad
    if gradient is None:
        return torch.zeros((), dtype=weight.dtype, device=weight.device)
    return gradient.coalesce().values() if gradient.is_sparse else gradient.detach()


def _cells(record: Record) -> list[Any]:
    """A row of the file; NaN is empty, as None is."""
    values = vars(record).values()
    return [None if isinstance(v, float) and math.isnan(v) else v for v in values]


def _labels(groups: list[tuple[str, ...]]) -> list[str]:
    """A name for all weights together and one for each group, all different."""
    labels = [ALL]
    for group in groups:
        label = group[0] + (f" +{len(group) - 1}" if len(group) > 1 else "")
        alike = sum(other.split(" (")[0] == label for other in labels)
        labels.append(f"{label} ({alike + 1})" if alike else label)
    return labels


def _table(rows: list[list]) -> str:
    """Aligned columns; numbers with three digits, "-" where there is none."""
    cells = [
        ["-" if v is None else v if isinstance(v, str) else f"{v:.3g}" for v in row] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])])
        for first, *others in cells
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="monitor.py", description="What is scale invariant in a network."
    )
    parser.add_argument("network", help=own.FORM)
    parser.add_argument("--input", default="4,3,64,64", help="shape of a batch for it")
    parser.add_argument("--num_classes", type=int, default=1000, help="what it is called with")
    asked = parser.parse_args(argv)
    try:
        inputs = torch.randn([int(size) for size in asked.input.split(",")])
        if not inputs.numel():
            raise ValueError
    except (ValueError, RuntimeError, TypeError):
        raise UserError(f"--input {asked.input} is not a shape such as 4,3,64,64") from None
    model = own.make(asked.network, num_classes=asked.num_classes)
    inputs = inputs.to(next((p.dtype for p in model.parameters() if p.is_floating_point()), None))
    with own.fails(f"{asked.network} fails on a batch {tuple(inputs.shape)}"):
        try:
            found = scale_invariant_groups(model, inputs)
        except ValueError as error:
            raise UserError(f"{asked.network} on a batch {tuple(inputs.shape)}: {error}") from None
        doubled = doubling_effects(model, inputs, found)
    print(group_table(model, found, doubled))


if __name__ == "__main__":
    with user_errors("monitor.py"):
        main()
