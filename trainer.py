"""One step of training: what it does to the weights, and at which learning rate."""

import argparse
import math
from typing import Any

import torch
from torch.nn import functional as F

import models
from capture import Captured
from device import autocast


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
    """Everything that a training step changes: weights, momentum, and the sums of the epoch.

    Parameters
    ----------
    images : number of training images (full-batch descent divides by it).
    fixed_norm : the norm that --fix_si_pnorm keeps, where the run has begun with one; else it is
        the one that the options give, or that of the present weights.
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
        self.optimizer = self._make_optimizer()
        self.fixed_norm = fixed_norm
        if options.fix_si_pnorm and fixed_norm is None:
            asked = options.fix_si_pnorm_value
            self.fixed_norm = asked if asked > 0 else models.norm(self.si_weights).item()
            self._fix_norm()
        # Summed loss, right answers and images of the epoch; they stay on the device until its end.
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)
        step = self._add_to_full_batch if options.fbgd else self._sgd_step
        self.step = Captured(step, device)

    def _make_optimizer(self) -> torch.optim.SGD:
        """SGD with coupled weight decay; a group of its own for weights with another rate.

        The first group follows the schedule. With --noninvlr r >= 0 it holds the scale-invariant
        weights, and the second group holds all others at the constant rate r.
        """
        options = self.options
        # A captured step reads the rate from the device, so that it can change.
        lr = options.lr_init
        if self.device.type == "cuda":
            lr = torch.tensor(lr, device=self.device)
        if options.noninvlr < 0:
            groups = [{"params": list(self.model.parameters()), "lr": lr}]
        else:
            groups = [
                {"params": self.si_weights, "lr": lr},
                {"params": self.others, "lr": options.noninvlr},
            ]
        return torch.optim.SGD(
            groups, momentum=options.momentum, weight_decay=options.wd, fused=True
        )

    def set_lr(self, lr: float) -> None:
        group = self.optimizer.param_groups[0]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr

    def load_momentum(self, content: dict[str, Any]) -> None:
        """Take over the momentum of a checkpoint; rates and weight decay stay those of this run."""
        own = self.optimizer.state_dict()
        saved = content.get("optimizer") or {}
        sizes = [len(group["params"]) for group in own["param_groups"]]
        if [len(group["params"]) for group in saved.get("param_groups", [])] != sizes:
            print("note: the checkpoint groups its weights otherwise: momentum starts at zero")
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

    def _sgd_step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """One step of SGD on one batch."""
        self.optimizer.zero_grad()
        logits = self._forward(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        self._update()
        self._add_sums(loss.detach() * len(labels), logits, labels)

    def _add_to_full_batch(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Add one batch's part to the gradient of the mean loss over all training images."""
        logits = self._forward(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (loss / self.images).backward()
        self._add_sums(loss.detach(), logits, labels)

    def _update(self) -> None:
        self.optimizer.step()
        if self.fixed_norm is not None:
            self._fix_norm()

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
            self._update()
            self.optimizer.zero_grad(set_to_none=False)  # a captured step adds to these tensors
        loss, correct, count = self.sums.tolist()
        self.sums.zero_()
        return {"loss": loss / count, "accuracy": correct / count}
