"""The sums of a pass over the data, batch by batch. All of them stay on the device."""

from collections.abc import Sequence

import numpy as np
import torch

CLASS_STATISTICS = ("mean", "std", "min", "max", "median")


class GradientMoments:
    """Mean and standard deviation of vectors that are added one by one (Welford's recursion)."""

    def __init__(self, size: int, device: torch.device):
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean, self.squares = (torch.zeros(size).double().to(device) for _ in range(2))

    def zero(self) -> None:
        for tensor in (self.count, self.mean, self.squares):
            tensor.zero_()

    def add(self, vector: torch.Tensor) -> None:
        self.count += 1
        difference = vector - self.mean
        self.mean += difference / self.count
        self.squares += difference * (vector - self.mean)

    def norms(self, keep: torch.Tensor) -> tuple[float, float]:
        """Norms of mean and standard deviation (n - 1; NaN for a single vector), over `keep`."""
        deviation = (self.squares / (self.count - 1)).sqrt()
        return self.mean[keep].norm().item(), deviation[keep].norm().item()


class Rows:
    """One tensor for each batch, in order: (batches, *shape)."""

    def __init__(self, batches: int, shape: Sequence[int], dtype: torch.dtype, device):
        self.values = torch.zeros(batches, *shape, dtype=dtype, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)

    def zero(self) -> None:
        self.position.zero_()

    def add(self, row: torch.Tensor) -> None:
        self.values.index_copy_(0, self.position, row[None].to(self.values.dtype))
        self.position += 1

    def numpy(self) -> np.ndarray:
        """A copy, since the next pass overwrites the rows."""
        return self.values.cpu().numpy().copy()


def image_sums(
    losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, corrupted: torch.Tensor
) -> torch.Tensor:
    """Images, sum of losses and right answers, for true and for corrupted labels: (2, 3)."""
    correct = (logits.argmax(1) == labels).double()
    each = torch.stack([torch.ones_like(correct), losses.double(), correct], 1)
    return torch.stack([~corrupted, corrupted]).double() @ each


def _members(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Which images are of which class: bool (classes, images)."""
    return torch.arange(classes, device=labels.device)[:, None] == labels


def outliers(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The number of wrongly classified images of a batch by true class: (classes,)."""
    wrong = logits.argmax(1) != labels
    return (_members(labels, logits.shape[1]) & wrong).sum(1)


def class_statistics(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`CLASS_STATISTICS` of the predicted probabilities of each class, by true class.

    Element (s, i, j) of (5, classes, classes) is over the batch's images of class i, of their
    probability of class j. As in torch, the deviation divides by n - 1, and the median of an even
    number is the lower middle one. NaN for a class without images (std: with fewer than two).
    """
    p = logits.softmax(1)
    members = _members(labels, logits.shape[1])[:, :, None]
    count = members.sum(1)
    mean = (members * p).sum(1) / count
    variance = (members * (p - mean[:, None]) ** 2).sum(1) / (count - 1)
    low, high, known = (p.masked_fill(~members, x) for x in (torch.inf, -torch.inf, torch.nan))
    median = known.nanmedian(1).values
    found = torch.stack([mean, variance.sqrt(), low.amin(1), high.amax(1), median])
    return found.masked_fill(count == 0, torch.nan)


def filter_norms(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Norm of the gradient of every filter (first dimension) of several weights: (filters,)."""
    return torch.cat([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
