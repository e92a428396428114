"""What weight decay and the learning rate do to the scale-invariant weights of anybody's training.

    from monitor import Monitor

    monitor = Monitor(model, optimizer, inputs)    # inputs: a batch that the network takes
    for step, (x, y) in enumerate(batches):
        ...                                        # loss.backward(), optimizer.step()
        monitor.record(loss)
    print(monitor.report())
    monitor.save("dynamics.csv")                   # appends what is new; python -m figures draws it
    monitor.close()

It needs torch and NumPy, and of this project the folders models/ and theory/. The groups alone, of
any function that makes a network:

    python monitor.py torchvision.models:resnet18 --input 4,3,64,64
"""

from utils import end_quietly  # first: what follows takes seconds

if __name__ == "__main__":
    end_quietly("monitor.py")

import argparse
import contextlib
import csv
import io
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models import doubling_effects, group_table, norms, own, scale_invariant_groups, unwrapped
from theory import dynamics
from theory.dynamics import effective_lr, effective_step, jump_threshold
from theory.forecast import Course
from theory.periods import Periods
from utils import UserError, plural, user_errors

DELTA = 0.01  # a step whose cosine is below 1 - DELTA is called a jump (P1, section 2)
ALL = "all"
COUPLED = ("Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Adadelta")
NOTICEABLE = 0.01  # a change of the outputs by doubling that is worth a word


@dataclass(frozen=True)
class Record:
    """What one step did to one group of scale-invariant weights (`COLUMNS` of the file).

    Attributes
    ----------
    step : number of the step, from 1.
    group : name of its first tensor, and how many more; "all" for all weights together.
    loss : mean of what was recorded since the record before.
    lr, decay : learning rate η; ηλ, the fraction of the weights that decay takes off in a step (of
        SGD with momentum, in the long run 1 / (1 - momentum) times as much). NaN where decay is
        coupled to a gradient that is divided by its size, as in Adam with `weight_decay`.
    si_norm : ρ before the step.
    effective_lr : η̃, `theory.dynamics.effective_lr` for the optimiser: η / ρ² for SGD, η / ρ for
        Adam and its kin; NaN for optimisers whose it is not known.
    effective_gradient_norm : ρ ‖g‖.
    angle : between the weights before and after the step, in radians.
    equilibrium_angle : what weight decay and gradients balance at, `equilibrium_angle`; None: none.
    effective_step, jump_threshold : of SGD, η̃ ‖g̃‖, and above what it is a δ-jump (δ = 0.01).
    phase, periods, steps_to_turn : of all weights together, else None: "A", "B" or "C"; how many
        periods there are so far; the forecast.

    What is not known is NaN or None, and empty in the file.
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
    """`theory.dynamics.equilibrium_angle` of one of an optimiser's parameter groups.

    None where there is no such balance: without a rate or weight decay, for Adam with coupled decay
    (which the second moment divides by the gradients' size), and for other optimisers than SGD,
    AdamW and RAdam with decoupled decay, also those derived from them with a `step` of their own.
    """
    decay, rule = _number(group.get("lr")) * _decay(optimizer, group), _rule(optimizer)
    if not 0 < decay < math.inf:
        return None
    if isinstance(optimizer, torch.optim.SGD) and rule == "SGD":
        momentum = group["momentum"]
        if momentum:
            decay *= 1 - group["dampening"]
        return dynamics.equilibrium_angle(decay, momentum, nesterov=group["nesterov"])
    if rule in ("Adam", "AdamW", "RAdam") and group.get("decoupled_weight_decay"):
        return dynamics.equilibrium_angle(decay, float(group["betas"][0]), decoupled=True)
    return None


class Monitor:
    """Measures what every `every`th step of training does to the scale-invariant weights.

    Between those steps it adds up the loss on its device and waits for nothing. The network, the
    optimiser and all random states stay as they would be without it. Should a measurement fail, a
    warning says so and training goes on without the monitor.

    Parameters
    ----------
    model : the network, also under torch.compile or DataParallel.
    optimizer : any torch.optim.Optimizer, or several (in a list, a dictionary or an object) that
        share the weights and step at most once each between two calls of `record`. A wrapper
        (Accelerate, Lookahead, SAM) is watched inside: what it does to the weights itself, as
        Lookahead does, is not part of a step. Their groups, rates and what they train are looked at
        in every step that is measured.
    inputs : a batch for `models.scale_invariant_groups`; a small one will do.
    every : steps from one record to the next.
    start : number of steps made before, where training is resumed without a `state_dict`.

    Attributes
    ----------
    found : what is scale invariant in the network.
    groups : the groups that are trained as a whole, those followed here.
    left_out : the other groups, and why.
    records : list of Record that `save` has not written yet, and in any case the latest.

    Raises
    ------
    ValueError : in one line, what cannot be measured: the network (`scale_invariant_groups`), an
        optimiser without step hooks, `every` < 1, `start` < 0.
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
        self.optimizers = _inside(optimizer)
        self.model, self.inputs = unwrapped(model), inputs
        self.found = scale_invariant_groups(self.model, inputs)
        self.records: list[Record] = []
        self.course = Course()
        self._latest: list[Record] = []
        self._unsaved = 0
        self._old: list[torch.Tensor] = []
        self._stepped: set[int] = set()  # the optimisers that have made this step
        self._is_open = self._has_failed = False  # a step was begun and has not ended
        self._measured: tuple[int, torch.Tensor, list[tuple]] | None = None
        self._losses: list[Any] = [0.0, 0]  # sum, on its device, and number
        self._look()
        self._handles = []
        if self.found:
            for one in self.optimizers:
                self._handles.append(one.register_step_pre_hook(self._before))
                self._handles.append(one.register_step_post_hook(self._after))

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks off the optimisers and free the copy of the weights."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._old = [], []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs for a new Monitor to go on: steps, periods and forecast."""
        return {"steps": self.steps, "course": self.course.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Raises
        ------
        ValueError : it is not one; then nothing is changed.
        """
        course = Course()
        try:
            steps = _whole("steps", state["steps"], 0)
            course.load_state_dict(state["course"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the state of a monitor: {error!r}") from None
        self.steps, self.course = steps, course

    @property
    def periods(self) -> Periods:
        """The periods so far, in steps."""
        end = self._latest[0].step if self._latest else self.steps
        return Periods(tuple(self.course.periods), end)

    def _look(self) -> None:
        """Which groups are trained now, and by which group of which optimiser."""
        parameters = dict(self.model.named_parameters())
        owner = {
            id(p): (k, j)
            for k, optimizer in enumerate(self.optimizers)
            for j, group in enumerate(optimizer.param_groups)
            for p in group["params"]
        }
        self.groups, self.left_out = [], {}
        for group in self.found:
            gone = [n for n in group if n not in parameters]
            frozen = [n for n in group if n in parameters and not parameters[n].requires_grad]
            alien = [n for n in group if n in parameters and id(parameters[n]) not in owner]
            if gone:
                self.left_out[group] = f"{gone[0]} is no longer in the network"
            elif frozen:
                self.left_out[group] = f"{frozen[0]} is frozen"
            elif alien:
                self.left_out[group] = f"{alien[0]} is in no optimiser that is watched"
            else:
                self.groups.append(group)
        scopes = [_together(self.groups, parameters), *map(set, self.groups)]
        names = [name for name in parameters if any(name in scope for scope in scopes)]
        self.weights = [parameters[name] for name in names]
        self.members = np.array([[name in scope for name in names] for scope in scopes], float)
        self.labels = _labels(self.groups)
        self.owner = [owner[id(weight)] for weight in self.weights]

    def _before(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._has_failed:
            return
        with self._never_failing():
            if self._is_open or (self._stepped and id(optimizer) not in self._stepped):
                return  # called by another step, as super().step() is; or the step of several
            self._is_open = True
            self._stepped.clear()
            self.steps += 1
            if self._is_measured():
                self._look()
                self._old = [weight.detach().clone() for weight in self.weights]
                self._measured = None
                if not self._old:
                    self._latest = []
                else:
                    before = norms(self._old)
                    measured = torch.stack([before, before, 0 * before, 0 * before])
                    self._measured = self.steps, measured, []

    def _is_measured(self) -> bool:
        return (self.steps - 1) % self.every == 0

    def _after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Norms after the step, of the change and of the gradient; waits for nothing."""
        if self._has_failed:
            return
        with self._never_failing():
            self._is_open = False
            self._stepped.add(id(optimizer))
            if not self._is_measured() or self._measured is None:
                return
            step, measured, rates = self._measured
            own = [j for j, o in enumerate(self.owner) if self.optimizers[o[0]] is optimizer]
            weights = [self.weights[j].detach() for j in own]
            gradients = [_gradient(weight) for weight in (self.weights[j] for j in own)]
            if own:
                moved = [self._old[j] - w for j, w in zip(own, weights, strict=True)]
                measured[1:, own] = torch.stack([norms(weights), norms(moved), norms(gradients)])
            rates = [
                (
                    _number(group.get("lr")),
                    _decay(one, group),
                    equilibrium_angle(one, group),
                    dynamics.norm_power(_rule(one)),
                )
                for one, group in (
                    (self.optimizers[k], self.optimizers[k].param_groups[j]) for k, j in self.owner
                )
            ]
            self._measured = step, measured, rates

    @contextlib.contextmanager
    def _never_failing(self) -> Iterator[None]:
        try:
            with torch.no_grad():
                yield
        except Exception as error:  # whatever it is, training is worth more
            self._has_failed = True  # the hooks stay until `record`: they may be iterated over now
            self._measured, self._old = None, []
            message = f"the monitor stops: {type(error).__name__}: {error}"
            try:
                warnings.warn(message, stacklevel=4)
            except Warning:  # warnings are to be errors: not here
                print(message, file=sys.stderr)

    def record(self, loss: torch.Tensor | float | None = None) -> None:
        """Take the loss of the step just made; every `every`th time make records of it.

        A tensor need not be on the CPU. May be called more rarely than once a step: a record then
        holds what the latest step that was looked at did.
        """
        if self._has_failed:
            self.close()
            return
        with self._never_failing():
            self._stepped.clear()  # the next step of any optimiser is a new one
            if loss is not None:
                value = loss.detach().float().mean() if isinstance(loss, torch.Tensor) else loss
                self._losses = [self._losses[0] + value, self._losses[1] + 1]
            if self._measured is not None and self._measured[2]:
                self._make_records(*self._measured)
                self._measured = None

    def _make_records(self, step: int, measured: torch.Tensor, rates: list[tuple]) -> None:
        mean = float(self._losses[0]) / self._losses[1] if self._losses[1] else math.nan
        self._losses = [0.0, 0]
        if self._unsaved == 0:
            self.records.clear()
        self._latest = []
        with np.errstate(all="ignore"):  # of rates that are no numbers
            numbers = self._numbers(measured.cpu().numpy(), rates)
        for label, values in zip(self.labels, numbers, strict=True):
            record = Record(step, label, mean, **values)
            if label == ALL:
                powers = {rate[3] for rate, member in zip(rates, self.members[0], strict=True)
                          if member}  # fmt: skip
                power = powers.pop() if len(powers) == 1 else None
                left = self.course.add(step, mean, record.si_norm, record.lr, power)
                phase, periods = self.course.phase, len(self.course.periods)
                record = replace(record, phase=phase, periods=periods, steps_to_turn=left)
            self._latest.append(record)
        self.records += self._latest
        self._unsaved += len(self._latest)

    def _numbers(self, measured: np.ndarray, rates: list[tuple]) -> list[dict[str, float | None]]:
        """The numbers of each scope from those of its tensors: `measured` is (4, tensors)."""
        found = []
        for members in self.members:
            inside = np.flatnonzero(members)
            squares = measured[:, inside] ** 2
            before, after, moved, gradient = np.sqrt(squares.sum(1)).tolist()
            if not 0 < before * after < math.inf:  # zeros have no direction
                before = after = moved = math.nan
            share = squares[0] / before**2
            lrs, wds, angles, powers = zip(*(rates[j] for j in inside), strict=True)
            lr, decay = float(share @ lrs), float(share @ np.multiply(lrs, wds))
            # The chord between the directions: exact where 1 - cos would be all rounding.
            chord = math.sqrt(max(moved**2 - (after - before) ** 2, 0) / (before * after))
            power = powers[0] if len(set(powers)) == 1 else None
            is_sgd = power == 2 and 0 < lr < math.inf
            found.append(
                {
                    "lr": lr,
                    "decay": decay,
                    "si_norm": before,
                    "effective_lr": float(effective_lr(lr, before, power)),
                    "effective_gradient_norm": before * gradient,
                    "angle": 2 * math.asin(min(chord / 2, 1)),
                    "equilibrium_angle": None
                    if None in angles
                    else math.sqrt(share @ np.square(angles)),
                    "effective_step": float(effective_step(lr, before, gradient))
                    if is_sgd
                    else None,
                    "jump_threshold": float(jump_threshold(DELTA, lr, decay / lr))
                    if is_sgd
                    else None,
                }
            )
        return found

    def metrics(self) -> dict[str, float]:
        """The latest numbers by "quantity/group", for Weights & Biases, TensorBoard and the like.

        What is not known, or not a finite number, is left out.
        """
        numbers: dict[str, float] = {}
        for record in self._latest:
            for name in COLUMNS:
                value = getattr(record, name)
                is_shared = name in ("step", "loss", "periods", "steps_to_turn")
                if isinstance(value, int | float) and math.isfinite(value):
                    numbers[name if is_shared else f"{name}/{record.group}"] = value
        return numbers

    def save(self, path: str | Path) -> None:
        """Append the records that are not yet in the file: whole rows, under a header.

        A row that a crash has cut short at the end of the file is removed.

        Raises
        ------
        ValueError : the file has other columns.
        """
        path = Path(path)
        header = ",".join(COLUMNS) + "\n"
        old = path.read_bytes() if path.exists() else b""
        whole = old[: old.rfind(b"\n") + 1]
        if whole and whole.splitlines()[0].decode("utf-8-sig", "replace") != header.strip():
            raise ValueError(f"{path} is not a file of this monitor: its columns are others")
        text = io.StringIO(newline="")
        if not whole:
            text.write(header)
        rows = self.records[len(self.records) - self._unsaved :]
        csv.writer(text, lineterminator="\n").writerows(
            [_cell(getattr(row, column)) for column in COLUMNS] for row in rows
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if old else "wb") as file:
            file.truncate(len(whole))
            file.seek(len(whole))
            file.write(text.getvalue().encode())
        self.records, self._unsaved = list(self._latest), 0

    def report(self) -> str:
        """What is going on, in words, and a table of the groups as of the latest record.

        The column "doubled" is measured now, on a copy (`models.doubling_effects`).
        """
        notes = [f"Left out: {' '.join(group)}: {reason}." for group, reason in
                 self.left_out.items()]  # fmt: skip
        if self.found.in_eval:
            notes.append(f"Invariance was looked for in {self.found.mode}.")
        if self.found.unknown:
            notes.append("Not determined on that batch: " + " ".join(self.found.unknown) + ".")
        if not self.found.groups:
            first = (
                "No tensor of this network is scale invariant: nothing here depends on the norm of "
                "its weights. Its spikes are of another kind."
            )
            return "\n".join([first, *notes])
        if not self._latest:
            first = f"{plural(len(self.groups), 'group')} of scale-invariant weights; no record yet"
            return "\n".join([f"{first}.", *notes])
        whole, periods = self._latest[0], self.periods
        words = [f"Step {whole.step}, loss {whole.loss:.4g}."]
        so_far = f"{plural(len(periods), 'period') if len(periods) else 'No period'} so far"
        if len(periods) > 1:
            so_far += f", one every {periods.mean:.0f} steps"
            spread = f" (coefficient of variation {periods.cv:.2f})" if len(periods) > 2 else ""
            later = periods.after(1 / whole.decay) if 0 < whole.decay < math.inf else periods
            so_far += spread + (": periodic" if later.is_periodic else "")
        words.append(f"{so_far}.")
        if len(periods):
            words.append(f"Phase {whole.phase}: {PHASES[whole.phase]}.")
        if whole.steps_to_turn is not None:
            words.append(
                "At the present decay the effective rate comes to the level of the last "
                f"destabilisation in about {whole.steps_to_turn:.0f} steps."
            )
        if not whole.equilibrium_angle:
            words.append("No equilibrium of decay and gradients to compare with here.")
        else:
            ratio = whole.angle / whole.equilibrium_angle
            words.append(
                f"The latest step turned the weights by {whole.angle:.2g} rad, {ratio:.2g} times "
                "the angle at which decay and gradients balance (column equilibrium)."
            )
        rows = [[getattr(record, column) for column in TABLE.values()] for record in self._latest]
        try:
            doubled = doubling_effects(self.model, self.inputs, self.groups)
        except Exception as error:  # the network may have changed
            notes.append(f"Doubling the groups fails: {error}")
        else:
            effects = dict(zip(_labels(self.groups)[1:], doubled, strict=True))
            for row in rows:
                row.append(effects.get(row[0]))
            if any(effect > NOTICEABLE for effect in doubled):
                notes.append(
                    f"Doubling a group changes the outputs by up to {max(doubled):.2g} of their "
                    "norm: an epsilon or the precision matters (docs/spikes.md)."
                )
        if any(record.jump_threshold for record in self._latest):
            notes.append(
                f"A step whose η̃‖g̃‖ exceeds the column δ-jump turns the weights by more than "
                f"{math.degrees(math.acos(1 - DELTA)):.0f} degrees."
            )
        header = [*TABLE, "doubled"][: len(rows[0])]
        return "\n".join([*words, *notes, "", _table(header, rows)])


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


def _together(groups: list[tuple[str, ...]], parameters: dict[str, torch.Tensor]) -> set[str]:
    """The weights whose norm is ρ, as the papers' is that of the convolutions without the scales
    and shifts: groups of tensors of two or more dimensions alone, and those that other such tensors
    are in; all groups where there is none.
    """
    large = {name for name, p in parameters.items() if p.ndim > 1}
    chosen = set().union(*(group for group in groups if large.issuperset(group)))
    mixed = [group for group in groups if large.intersection(group) - chosen]
    return chosen.union(*mixed) or set().union(*groups)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
        raise ValueError(f"{name} is a whole number of steps, {least} or more, not {value!r}")
    return int(value)


def _inside(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The optimisers that change the weights: those in lists and in wrappers, each of them once."""
    innermost: dict[int, torch.optim.Optimizer] = {}
    seen: set[int] = set()

    def search(one: Any) -> bool:
        """Whether there are optimisers in it."""
        if isinstance(one, Mapping):
            one = list(one.values())
        if isinstance(one, list | tuple):
            return max(map(search, one), default=False)
        is_optimizer = isinstance(one, torch.optim.Optimizer)
        if not is_optimizer and not hasattr(one, "param_groups") and not hasattr(one, "step"):
            return False
        if id(one) in seen:
            return True
        seen.add(id(one))
        kept = [
            value
            for key, value in getattr(one, "__dict__", {}).items()
            if key not in ("state", "param_groups")
        ]
        is_wrapper = search([*kept, getattr(one, "optimizer", None)])  # it may be a property
        if is_optimizer and not is_wrapper:
            if not hasattr(one, "_optimizer_step_pre_hooks"):
                raise ValueError(f"{type(one).__name__} does not call Optimizer.__init__: "
                                 "its steps cannot be watched")  # fmt: skip
            innermost[id(one)] = one
        return is_optimizer or is_wrapper

    if not search(optimizer):
        raise ValueError(
            f"{type(optimizer).__name__} is no torch.optim.Optimizer and holds none: "
            "its steps cannot be watched"
        )
    return list(innermost.values())


def _rule(optimizer: torch.optim.Optimizer) -> str:
    """The name of the class whose `step` it is: a subclass may have a rule of its own."""
    return type(optimizer).step.__qualname__.split(".")[-2]


def _decay(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    """λ; NaN where ηλ is not what decay takes off, as it is divided with the gradient by its size,
    or where it is not known.
    """
    is_torchs = _rule(optimizer) in COUPLED
    if is_torchs and group.get("weight_decay") and not group.get("decoupled_weight_decay"):
        return math.nan
    return _number(group.get("weight_decay"))


def _number(value: Any) -> float:
    """A number or a tensor as a float; NaN for None, as the rate of Adafactor may be."""
    return math.nan if value is None else float(value)


def _gradient(weight: torch.Tensor) -> torch.Tensor:
    """The gradient, of a sparse one the values; zero where there is none."""
    gradient = weight.grad
    if gradient is None:
        return torch.zeros((), dtype=weight.dtype, device=weight.device)
    return gradient.coalesce().values() if gradient.is_sparse else gradient.detach()


def _cell(value: Any) -> Any:
    """Of a value in the file: empty for NaN, too."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _labels(groups: list[tuple[str, ...]]) -> list[str]:
    """A name for all weights together and one for each group, no two alike."""
    labels = [ALL]
    for group in groups:
        label = group[0] + (f" +{len(group) - 1}" if len(group) > 1 else "")
        alike = sum(other.split(" (")[0] == label for other in labels)
        labels.append(f"{label} ({alike + 1})" if alike else label)
    return labels


def _table(header: list[str], rows: list[list]) -> str:
    """Columns side by side; numbers with three digits, "-" where there is none."""
    cells = [
        [("-" if v is None else v if isinstance(v, str) else f"{v:.3g}") for v in row]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [header, *cells]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def main(argv: list[str] | None = None) -> None:
    """Print the groups of a network."""
    parser = argparse.ArgumentParser(
        prog="monitor.py", description="What is scale invariant in a network."
    )
    parser.add_argument("network", help=own.FORM)
    parser.add_argument("--input", default="4,3,64,64", help="shape of a batch for it")
    parser.add_argument("--num_classes", type=int, default=1000, help="what it is called with")
    arguments = parser.parse_args(argv)
    try:
        shape = [int(size) for size in arguments.input.split(",")]
        inputs = torch.randn(shape)
        if not inputs.numel():
            raise ValueError
    except (ValueError, RuntimeError):
        raise UserError(f"--input {arguments.input} is not a shape such as 4,3,64,64") from None
    model = own.make(arguments.network, num_classes=arguments.num_classes)
    try:
        found = scale_invariant_groups(model, inputs)
    except ValueError as error:
        raise UserError(f"{arguments.network} on a batch {tuple(shape)}: {error}") from None
    print(group_table(model, found, doubling_effects(model, inputs, found)))


if __name__ == "__main__":
    with user_errors("monitor.py"):
        main()
