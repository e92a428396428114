"""What every training step did to the scale-invariant (SI) weights: train.py --trace."""

import torch

import models

COLUMNS = ("loss", "si_norm", "gradient_norm", "one_minus_cosine")


class StepTrace:
    """Rows of `COLUMNS`, one for each of the `steps` of an epoch, kept on the training device: the
    loss of the batch, ρ before the step, ‖g‖ of the batch for the SI weights without weight decay,
    and 1 - cos between the SI weights, as one vector, before and after the step."""

    def __init__(self, weights: list[torch.Tensor], steps: int, device: torch.device):
        self.weights = weights
        self.old = [torch.empty_like(w) for w in weights]
        self.si_norm, self.gradient_norm = torch.zeros(2, dtype=torch.float64, device=device)
        self.rows = torch.zeros(steps, len(COLUMNS), dtype=torch.float64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def before(self) -> None:
        """Call it when the gradient is complete."""
        torch._foreach_copy_(self.old, self.weights)
        self.si_norm.copy_(models.norm(self.old))
        gradients = (torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights)
        self.gradient_norm.copy_(models.norm(gradients))

    @torch.no_grad()
    def after(self, loss: torch.Tensor) -> None:
        new_norm = models.norm(self.weights)
        # ‖u' - u‖² / 2 for unit vectors u, u': accurate where 1 - u·u' would be rounding error.
        directions = torch._foreach_mul(self.weights, (1 / new_norm).to(self.old[0].dtype))
        torch._foreach_mul_(self.old, (-1 / self.si_norm).to(self.old[0].dtype))
        torch._foreach_add_(directions, self.old)
        one_minus_cosine = models.norm(directions) ** 2 / 2
        row = torch.stack([loss.double(), self.si_norm, self.gradient_norm, one_minus_cosine])
        self.rows.index_copy_(0, self.position, row[None])
        self.position += 1

    def take(self) -> dict[str, list[float]]:
        """The columns of the finished epoch, each with one number per step."""
        columns = dict(zip(COLUMNS, self.rows.T.tolist(), strict=True))
        self.position.zero_()
        return columns
