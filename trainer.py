"""One step of training: what it does to the weights, and at which learning rate."""

import argparse
import math
from typing import Any

import torch
from torch.nn import functional as F

import models
from capture import Captured
from device import autocast
from steps import StepTrace


def schedule(options: argparse.Namespace, progress: float) -> float:
    """The factor on the learning rate when a fraction 0 <= progress < 1 of training is done."""
    if options.no_schedule:
        return 1.0
    if options.cosan_schedule:
        return 0.5 * (1 + math.cos(math.pi * progress))
    if options.d_schedule:
        return options.d_schedule ** -math.floor(4 * progress)
    if options.c_schedule:
        low, fallen = 1 / options.c_schedule, max(progress - 0.25, 0) / 0.75
    else:
        low, fallen = 0.01, min(max(progress - 0.5, 0) / 0.4, 1)
    return 1 - (1 - low) * fallen


class Trainer:
    """What a training step changes: weights, the optimiser's moments, the sums of the epoch.

    Parameters
    ----------
    images : number of training images (full-batch descent divides by it).
    fixed_norm : the norm that --fix_si_pnorm or --fix_elr keeps, where the run has begun with one;
        else it is the one that the options give, or that of the present weights.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        options: argparse.Namespace,
        images: int,
        device: torch.device,
        fixed_norm: float | None,
    ):
        self.model, self.options, self.images, self.device = model, options, images, device
        self.network = torch.compile(model) if options.compile else model
        self.si_weights, self.others = models.split_parameters(model)
        self.fixed_norm = fixed_norm
        if (options.fix_si_pnorm or options.fix_elr) and fixed_norm is None:
            asked = options.fix_si_pnorm_value if options.fix_si_pnorm else -1
            self.fixed_norm = asked if asked > 0 else models.norm(self.si_weights).item()
            self._fix_norm()
        # The learning rate before the schedule. On the sphere it is that of the unit sphere, ELR,
        # times ρ₀²: by w = ρ₀u the step u' = u - ELR ρ₀ g becomes w' = w - ELR ρ₀² g (P2).
        self.base_lr = options.elr * self.fixed_norm**2 if options.fix_elr else options.lr_init
        self.optimizer = self._make_optimizer()
        # Summed loss, right answers and images of the epoch; they stay on the device until its end.
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        steps = 1 if options.fbgd else math.ceil(images / options.batch_size)  # in an epoch
        self.trace = StepTrace(self.si_weights, steps, device) if options.trace else None
        step = self._add_to_full_batch if options.fbgd else self._step_on_batch
        self.step = Captured(step, device)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """SGD or Adam with coupled weight decay (added to the gradient), in up to two groups.

        Alike, all weights are one group. With --noninvlr r >= 0 the first group holds the
        scale-invariant weights and follows the schedule, and the second holds all others at the
        constant rate r. With --fix_elr there are two groups in any case, since weight decay
        acts on the second alone: on the sphere it would only change the effective rate.
        """
        options = self.options
        own_rate = options.noninvlr >= 0
        if not own_rate and not options.fix_elr:
            groups = [{"params": list(self.model.parameters()), "lr": self._rate()}]
        else:
            groups = [
                {"params": self.si_weights, "lr": self._rate()},
                {"params": self.others, "lr": options.noninvlr if own_rate else self._rate()},
            ]
            if options.fix_elr:
                groups[0]["weight_decay"] = 0.0
        self.scheduled = 1 if own_rate else len(groups)  # groups that follow the schedule
        shared = {"weight_decay": options.wd, "fused": True}
        if options.optimizer == "adam":
            return torch.optim.Adam(groups, capturable=self.device.type == "cuda", **shared)
        return torch.optim.SGD(groups, momentum=options.momentum, **shared)

    def _rate(self) -> float | torch.Tensor:
        """A learning rate to start with; a captured step reads it from the device."""
        if self.device.type == "cuda":
            return torch.tensor(self.base_lr, device=self.device)
        return self.base_lr

    def set_lr(self, lr: float) -> None:
        """Set the rate of the groups that follow the schedule."""
        for group in self.optimizer.param_groups[: self.scheduled]:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def load_moments(self, content: dict[str, Any]) -> None:
        """Take over momentum or Adam's moments of a checkpoint; rates and decay stay this run's."""
        own = self.optimizer.state_dict()
        saved = content.get("optimizer") or {}
        shapes, saved_shapes = (
            [("betas" in group, len(group["params"])) for group in state.get("param_groups", [])]
            for state in (own, saved)
        )
        if saved_shapes != shapes:
            print("note: the checkpoint is of another optimiser, or groups its weights otherwise: "
                  "momentum starts at zero")  # fmt: skip
            return
        self.optimizer.load_state_dict(
            {"state": saved["state"], "param_groups": own["param_groups"]}
        )

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's state as every version of PyTorch can load it: rates as numbers."""
        state = self.optimizer.state_dict()
        for group in state["param_groups"]:
            group["lr"] = float(group["lr"])
        return state

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        with autocast(self.options.precision, self.device):
            return self.network(images).float()

    def _step_on_batch(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """One step of the optimiser on one batch."""
        self.optimizer.zero_grad()
        logits = self._forward(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        self._update(loss.detach())
        self._add_sums(loss.detach() * len(labels), logits, labels)

    def _add_to_full_batch(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Add one batch's part to the gradient of the mean loss over all training images."""
        logits = self._forward(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (loss / self.images).backward()
        self._add_sums(loss.detach(), logits, labels)

    def _update(self, loss: torch.Tensor) -> None:
        """Change the weights by their gradients, which are those of this loss."""
        if self.trace:
            self.trace.before()
        self.optimizer.step()
        if self.fixed_norm is not None:
            self._fix_norm()
        if self.trace:
            self.trace.after(loss)

    def _fix_norm(self) -> None:
        models.rescale_to_norm(self.si_weights, self.fixed_norm)

    def _add_sums(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        correct = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss, correct, torch.full_like(loss, len(labels))])

    def finish_epoch(self) -> dict[str, float]:
        """Mean loss and accuracy of the epoch, each image before the step that it was part of.

        In full-batch descent this is where the epoch's one step is taken.
        """
        if self.options.fbgd:
            self._update(self.sums[0] / self.sums[2])
            self.optimizer.zero_grad(set_to_none=False)  # a captured step adds to these tensors
        loss, correct, count = self.sums.tolist()
        self.sums.zero_()
        return {"loss": loss / count, "accuracy": correct / count}
