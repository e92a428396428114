"""One step of training: what it does to the weights, and its learning rate."""

import itertools
import math
from typing import Any

import torch

import models
from options import Optimisation, Train
from training.capture import Captured
from training.device import autocast, products
from training.loss import LOSSES
from training.trace import StepTrace

# The optimisers' state for each weight, by its names in torch.optim.
SGD_MOMENTS, ADAM_MOMENTS = ("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq")


def schedule(options: Optimisation, progress: float) -> float:
    """The learning rate over the initial one, after a fraction 0 <= progress < 1 of training. The
    official default: constant to half of training, linear to 1 % until 90 %, then constant. With
    --d_schedule the rate changes just after the end of a quarter."""
    if options.cosan_schedule:
        return 0.5 * (1 + math.cos(math.pi * progress))
    if options.no_schedule:
        return 1.0
    if options.d_schedule and not options.c_schedule:
        return options.d_schedule ** -max(math.ceil(4 * progress) - 1, 0)
    if options.c_schedule:
        low, fallen = 1 / options.c_schedule, max(progress - 0.25, 0) / 0.75
    else:
        low, fallen = 0.01, min(max(progress - 0.5, 0) / 0.4, 1)
    return 1 - (1 - low) * fallen


class Trainer:
    """What a training step changes: weights, the optimiser's moments, the sums of the epoch.

    `images` is the number of training images, which full-batch descent divides by. `base_lr` is η
    of the SI weights before the schedule. `fixed_norm` is the ρ at which they are held (given to
    resume a run), None if it is free.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        options: Train,
        images: int,
        device: torch.device,
        fixed_norm: float | None = None,
    ):
        self.model, self.options, self.images, self.device = model, options, images, device
        self.network = torch.compile(model, dynamic=False) if options.compile else model
        self.loss = LOSSES[options.use_squared_loss]
        self.si_weights, self.others = models.split_parameters(model)
        self.fixed_norm = None
        if options.fix_si_pnorm or options.on_sphere:
            asked = options.fix_si_pnorm_value if options.fix_si_pnorm else 0.0
            self.fixed_norm = fixed_norm or max(asked, 0.0) or models.norm(self.si_weights).item()
            if fixed_norm is None:  # a resumed run's weights have it already, to the bit
                self._fix_norm()
        # The learning rate before the schedule. On the sphere it is that of the unit sphere, ELR,
        # times ρ₀²: with w = ρ₀u the step u' = u - ELR ρ₀ g becomes w' = w - ELR ρ₀² g (P2).
        self.base_lr = options.elr * self.fixed_norm**2 if options.on_sphere else options.lr_init
        self.optimizer = self._make_optimizer()
        # Sums over the epoch, which stay on the device until its end.
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.seen = 0  # images of the epoch so far
        self.trace = None
        if options.trace:
            steps = 1 if options.fbgd else math.ceil(images / options.batch_size)  # in an epoch
            self.trace = StepTrace(self.si_weights, steps, device)
        self.captured = Captured(device)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """SGD or Adam with coupled weight decay, or AdamW. All weights are one group; on the
        sphere, or with --noninvlr, the SI weights are a first group and the others a second. On the
        sphere weight decay acts on the second alone: on the first it would only change the rate."""
        options = self.options
        own_rate, on_sphere = options.noninvlr >= 0, options.on_sphere
        if not own_rate and not on_sphere:
            groups = [{"params": list(self.model.parameters()), "lr": self._rate()}]
        else:
            groups = [
                {"params": self.si_weights, "lr": self._rate()},
                {"params": self.others, "lr": options.noninvlr if own_rate else self._rate()},
            ]
            if on_sphere:
                groups[0]["weight_decay"] = 0.0
        self.scheduled = 1 if own_rate else len(groups)  # groups that follow the schedule
        shared = {"weight_decay": options.wd, "fused": True}
        adaptive = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        if options.optimizer in adaptive:
            make = adaptive[options.optimizer]
            return make(groups, capturable=self.device.type == "cuda", **shared)
        return torch.optim.SGD(groups, momentum=options.momentum, **shared)

    def _rate(self) -> float | torch.Tensor:
        """The initial learning rate; on a GPU a tensor, which captured steps read there."""
        if self.device.type == "cuda":
            return torch.tensor(self.base_lr, device=self.device)
        return self.base_lr

    def set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups[: self.scheduled]:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def load_moments(self, content: dict[str, Any]) -> None:
        """Load momentum or Adam's moments from a checkpoint, but not its rates and decay. The
        weights may be grouped differently there (with another --noninvlr). Each moment is laid out
        in memory as its weight is: fused steps pair the storages, whatever the strides."""
        is_sgd = self.options.optimizer == "sgd"
        keys = SGD_MOMENTS if is_sgd else ADAM_MOMENTS
        if is_sgd and not self.options.momentum:
            return
        saved = content.get("optimizer") or {"param_groups": [], "state": {}}
        try:
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            states = [saved["state"].get(number, {}) for number in numbers]
            states = [{k: state[k] for k in keys if state.get(k) is not None} for state in states]
        except (TypeError, KeyError, AttributeError):  # not an optimiser's state
            states = []
        if not any(states):
            if content.get("epoch"):
                print("note: the checkpoint holds no moments of this optimiser: they start at zero")
            return
        # The optimiser numbers its weights group by group. Of the possible groups those of the
        # saved sizes come first: weights of different groups may have the same shapes.
        sizes = [len(group["params"]) for group in saved["param_groups"]]
        si_first = [self.si_weights, self.others]
        groupings = [[[*self.model.parameters()]], si_first, si_first[::-1]]
        groupings.sort(key=lambda grouping: [*map(len, grouping)] != sizes)
        orders = ([*itertools.chain(*grouping)] for grouping in groupings)
        weights = next((order for order in orders if _fit(order, states)), None)
        if weights is None:
            print("note: the checkpoint's moments have other shapes than the weights: "
                  "momentum starts at zero")  # fmt: skip
            return
        pairs = list(zip(weights, states, strict=True))
        without = sum(weight.requires_grad and not state for weight, state in pairs)
        if without:
            print(f"note: {without} of {len(states)} weights have no moments in the checkpoint: "
                  "theirs start at zero")  # fmt: skip
        for weight, state in pairs:
            moments = {key: torch.zeros_like(weight) for key in keys if key != "step"}
            if "step" in keys:
                moments["step"] = torch.zeros((), dtype=torch.float32, device=self.device)
            for key, value in state.items():
                moments[key].copy_(torch.as_tensor(value).reshape(moments[key].shape))
            self.optimizer.state[weight] = moments

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's state with rates as numbers, which every version of PyTorch can load."""
        state = self.optimizer.state_dict()
        for group in state["param_groups"]:
            group["lr"] = float(group["lr"])
        return state

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Train on one batch: float32 (B, 3, 32, 32) and int64 (B,). In full-batch descent this
        adds to the gradient, and `finish_epoch` takes the step."""
        self.captured(self.take_step, images, labels)
        self.seen += len(labels)

    def take_step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """`step` without a CUDA graph."""
        with products(self.options.precision):
            if not self.options.fbgd:
                self.optimizer.zero_grad()
            with autocast(self.options.precision, self.device):
                logits = self.network(images).float()
            losses = self.loss(logits, labels)
            if self.options.fbgd:  # its part of the mean loss over all training images
                loss = losses.sum()
                (loss / self.images).backward()
                self.loss_sum += loss.detach()
            else:
                loss = losses.mean()
                loss.backward()
                self._update(loss.detach())
                self.loss_sum.add_(loss.detach(), alpha=len(labels))
            self.correct += (logits.argmax(1) == labels).sum()

    def _update(self, loss: torch.Tensor) -> None:
        if self.trace:
            self.trace.before()
        self.optimizer.step()
        self._fix_norm()
        if self.trace:
            self.trace.after(loss)

    def _fix_norm(self) -> None:
        if self.fixed_norm is not None and self.options.fix_all_elr:
            models.rescale_filters(self.si_weights, self.fixed_norm)
        elif self.fixed_norm is not None:
            models.rescale_to_norm(self.si_weights, self.fixed_norm)

    def finish_epoch(self) -> dict[str, float]:
        """Mean loss and accuracy of the epoch, each image evaluated before the step on its batch.
        In full-batch descent this takes the epoch's one step."""
        if self.options.fbgd:
            self._update(self.loss_sum / self.seen)
            self.optimizer.zero_grad(set_to_none=False)  # a captured step adds to these tensors
        sums = {"loss": self.loss_sum.item(), "accuracy": self.correct.item()}
        means = {name: total / self.seen for name, total in sums.items()}
        self.loss_sum.zero_()
        self.correct.zero_()
        self.seen = 0
        return means


def _fit(weights: list[torch.Tensor], states: list[dict[str, Any]]) -> bool:
    """Whether the optimiser's states fit these weights in number and shapes."""
    return len(weights) == len(states) and all(
        getattr(value, "shape", None) == weight.shape
        for weight, state in zip(weights, states, strict=True)
        for key, value in state.items()
        if key != "step"
    )
