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
import csv
import io
import math
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


@dataclass(frozen=True)
class Record:
    """What one step did to one group of scale-invariant weights (`COLUMNS` of the file).

    Attributes
    ----------
    step : number of the step, from 1.
    group : name of its first tensor, and how many more; "all" for all weights together.
    loss : mean of what was recorded since the record before.
    lr, decay : learning rate η; the fraction of the weights that decay takes off in a step, ηλ.
    si_norm, effective_lr, effective_gradient_norm : ρ before the step, η̃ = η / ρ², ρ ‖g‖.
    angle : between the weights before and after the step, in radians.
    equilibrium_angle : what weight decay and gradients balance at, `equilibrium_angle`; None: none.
    effective_step, jump_threshold : η̃ ‖g̃‖, and above what it is a δ-jump of SGD (δ = 0.01).
    phase, periods, steps_to_turn : of all weights together, else None: "A", "B" or "C"; how many
        periods there are so far; the forecast.
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
    effective_step: float
    jump_threshold: float | None
    phase: str | None = None
    periods: int | None = None
    steps_to_turn: float | None = None


COLUMNS = tuple(field.name for field in fields(Record))


def equilibrium_angle(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float | None:
    """`theory.dynamics.equilibrium_angle` of one of an optimiser's parameter groups.

    None where there is no such balance: without weight decay, for Adam with coupled decay (which
    the second moment divides by the gradients' size), and for optimisers of other kinds.
    """
    decay = float(group["lr"]) * group.get("weight_decay", 0.0)
    if not decay:
        return None
    if isinstance(optimizer, torch.optim.SGD):
        momentum = group["momentum"]
        if momentum:
            decay *= 1 - group["dampening"]
        return dynamics.equilibrium_angle(decay, momentum, nesterov=group["nesterov"])
    if isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay"):
        return dynamics.equilibrium_angle(decay, float(group["betas"][0]), decoupled=True)
    return None


class Monitor:
    """Measures what every `every`th step of an optimiser does to the scale-invariant weights.

    Between those steps it adds up the loss on its device and waits for nothing. The network, the
    optimiser and PyTorch's random state stay as they would be without it.

    Parameters
    ----------
    model : the network, also under torch.compile or DataParallel.
    optimizer : SGD, Adam, AdamW or any other that changes the weights in `step`. Several groups
        with rates and decays of their own, schedules, accumulated and clipped gradients are as good
        (the gradient is the one that the step uses).
    inputs : a batch for `models.scale_invariant_groups`; a small one will do.
    every : steps from one record to the next.

    Attributes
    ----------
    found : what is scale invariant in the network.
    groups : the groups that the optimiser trains as a whole, those followed here.
    records : list of Record that `save` has not written yet, and in any case the latest.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Any, *, every: int = 10
    ):
        self.optimizer, self.every = optimizer, every
        model = unwrapped(model)
        self.found = scale_invariant_groups(model, inputs)
        parameters = dict(model.named_parameters())
        owner = {id(p): k for k, g in enumerate(optimizer.param_groups) for p in g["params"]}
        self.groups = [
            names
            for names in self.found
            if all(id(parameters[n]) in owner and parameters[n].requires_grad for n in names)
        ]
        scopes = [_together(self.groups, parameters), *map(set, self.groups)]
        names = [name for name in parameters if any(name in scope for scope in scopes)]
        self.weights = [parameters[name] for name in names]
        self.members = np.array([[name in scope for name in names] for scope in scopes], float)
        self.labels = [ALL, *(_label(group) for group in self.groups)]
        self.owner = [owner[id(weight)] for weight in self.weights]
        self.records: list[Record] = []
        self.steps = 0
        self.course = Course()
        self._unsaved = 0
        self._old: list[torch.Tensor] = []
        self._measured: tuple[int, torch.Tensor, list[tuple]] | None = None
        self._losses: list[Any] = [0.0, 0]  # sum, on its device, and number
        self._handles = []
        if self.groups:
            self._handles = [
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
            ]

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks off the optimiser and free the copy of the weights."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._old = [], []

    @property
    def periods(self) -> Periods:
        """The periods so far, in steps."""
        return Periods(tuple(self.course.periods))

    @torch.no_grad()
    def _before(self, *_: object) -> None:
        self.steps += 1
        if (self.steps - 1) % self.every == 0:
            if not self._old:
                self._old = [torch.empty_like(weight) for weight in self.weights]
            torch._foreach_copy_(self._old, self.weights)

    @torch.no_grad()
    def _after(self, *_: object) -> None:
        """Norms of every tensor before and after, of its change and its gradient; no waiting."""
        if (self.steps - 1) % self.every:
            return
        before, after = norms(self._old), norms(self.weights)
        torch._foreach_sub_(self._old, self.weights)
        gradients = [w.grad if w.grad is not None else w.new_zeros(()) for w in self.weights]
        measured = torch.stack([before, after, norms(self._old), norms(gradients)])
        rates = [
            (float(g["lr"]), g.get("weight_decay", 0.0), equilibrium_angle(self.optimizer, g))
            for g in self.optimizer.param_groups
        ]
        self._measured = self.steps, measured, rates

    def record(self, loss: torch.Tensor | float) -> None:
        """Take the loss of the step just made; every `every`th time make records of it.

        A tensor need not be on the CPU. May be called more rarely than once a step: a record then
        holds what the latest step that was looked at did.
        """
        value = loss.detach().float() if isinstance(loss, torch.Tensor) else loss
        self._losses = [self._losses[0] + value, self._losses[1] + 1]
        if self._measured is None:
            return
        step, measured, rates = self._measured
        mean = float(self._losses[0]) / self._losses[1]
        self._measured, self._losses = None, [0.0, 0]
        numbers = self._numbers(measured.cpu().numpy(), [rates[k] for k in self.owner])
        if self._unsaved == 0:
            self.records.clear()
        for label, values in zip(self.labels, numbers, strict=True):
            record = Record(step, label, mean, **values)
            if label == ALL:
                left = self.course.add(step, mean, record.si_norm, record.lr)
                phase, periods = self.course.phase, len(self.course.periods)
                record = replace(record, phase=phase, periods=periods, steps_to_turn=left)
            self.records.append(record)
        self._unsaved += len(self.labels)

    def _numbers(self, measured: np.ndarray, rates: list[tuple]) -> list[dict[str, float | None]]:
        """The numbers of each scope from those of its tensors: `measured` is (4, tensors)."""
        squares = measured**2
        lrs, decays = np.array([[lr, lr * wd] for lr, wd, _ in rates]).T
        angles = [rate[2] for rate in rates]
        is_sgd = isinstance(self.optimizer, torch.optim.SGD)
        found = []
        for members in self.members:
            before, after, moved, gradient = np.sqrt(squares @ members).tolist()
            if not before * after:  # zeros have no direction
                before = after = moved = math.nan
            share = members * squares[0] / before**2
            lr, decay = float(share @ lrs), float(share @ decays)
            # The chord between the directions: exact where 1 - cos would be all rounding.
            chord = math.sqrt(max(moved**2 - (after - before) ** 2, 0) / (before * after))
            inside = [angle for angle, member in zip(angles, members, strict=True) if member]
            balance = None
            if None not in inside:
                squared = [angle**2 if angle else 0.0 for angle in angles]
                balance = math.sqrt(share @ squared)
            found.append(
                {
                    "lr": lr,
                    "decay": decay,
                    "si_norm": before,
                    "effective_lr": float(effective_lr(lr, before)),
                    "effective_gradient_norm": before * gradient,
                    "angle": 2 * math.asin(min(chord / 2, 1)),
                    "equilibrium_angle": balance,
                    "effective_step": float(effective_step(lr, before, gradient)),
                    "jump_threshold": float(jump_threshold(DELTA, lr, decay / lr))
                    if is_sgd and lr
                    else None,
                }
            )
        return found

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
        if whole and not whole.startswith(header.encode()):
            raise ValueError(f"{path} is not a file of this monitor: its columns are others")
        text = io.StringIO(newline="")
        if not whole:
            text.write(header)
        rows = self.records[len(self.records) - self._unsaved :]
        csv.writer(text, lineterminator="\n").writerows(
            [getattr(row, column) for column in COLUMNS] for row in rows
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if old else "wb") as file:
            file.truncate(len(whole))
            file.seek(len(whole))
            file.write(text.getvalue().encode())
        del self.records[: len(self.records) - len(self.labels)]
        self._unsaved = 0

    def report(self) -> str:
        """What is going on, in words, and a table of the groups as of the latest record."""
        if not self.groups:
            return (
                "No tensor of this network is scale invariant (or none that the optimiser trains): "
                "nothing here depends on the norm of its weights. Its spikes are of another kind."
            )
        if not self.records:
            return f"{plural(len(self.groups), 'group')} of scale-invariant weights; no record yet."
        latest = self.records[-len(self.labels) :]
        whole, periods = latest[0], self.periods
        words = [f"Step {whole.step}, loss {whole.loss:.4g}."]
        so_far = f"{plural(len(periods), 'period') if len(periods) else 'No period'} so far"
        if len(periods) > 1:
            so_far += f", one every {periods.mean:.0f} steps"
            spread = f" (coefficient of variation {periods.cv:.2f})" if len(periods) > 2 else ""
            settled = periods.after(1 / whole.decay) if whole.decay else periods
            so_far += spread + (": periodic" if settled.is_periodic else "")
        words.append(f"{so_far}.")
        if len(periods):
            words.append(f"Phase {whole.phase}: {PHASES[whole.phase]}.")
        if whole.steps_to_turn is not None:
            words.append(
                "At the present decay the effective rate comes to the level of the last "
                f"destabilisation in about {whole.steps_to_turn:.0f} steps."
            )
        if whole.equilibrium_angle is None:
            words.append("No equilibrium of decay and gradients to compare with here.")
        else:
            ratio = whole.angle / whole.equilibrium_angle
            words.append(f"The latest step turned the weights by {ratio:.2g} of the equilibrium.")
        rows = [[getattr(record, column) for column in TABLE.values()] for record in latest]
        left_out = [group for group in self.found if group not in self.groups]
        if left_out:
            words.append(f"{plural(len(left_out), 'group')} with frozen tensors left out.")
        return "\n".join([*words, "", _table([*TABLE], rows)])


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
    "δ-jump above": "jump_threshold",
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


def _label(group: tuple[str, ...]) -> str:
    return group[0] + (f" +{len(group) - 1}" if len(group) > 1 else "")


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
