"""The layers of both architectures: convolutions and their normalisation.

The kinds of normalisation (`NORMS`) differ in what is scale invariant. In the ConvNet, where every
convolution is normalised on its own, each of these may be multiplied by a factor a > 0 of its own:

    batch, instance, weight    every filter
    group                      the filters of a group (GROUP_SIZE of them)
    layer                      the filters of a layer together

In the ResNet the residual stream adds the outputs of several convolutions before they are
normalised. With weight normalisation, which acts on the filters themselves, every filter is still
invariant; otherwise the first convolution of each block (conv1) is as in the ConvNet, and the
others are invariant only together, stage by stage.
"""

import math

import torch
from torch import nn
from torch.nn.utils import parametrize

# PyTorch's default of 1e-5, which the official code has, is not small compared with the variance of
# a convolution whose weights have shrunk, and would break the scale invariance where it matters, at
# the small norms before a jump. Above zero, so that a channel without variance gives zero, not NaN.
NORM_EPS = 1e-12
GROUP_SIZE = 4  # channels in a group of group normalisation; fewer where 4 does not divide them
NORMS = ("batch", "layer", "group", "instance", "weight")


class WeightNorm(nn.Module):
    """Weight normalisation (Salimans and Kingma, 2016, arXiv 1602.07868): w = g v / ‖v‖. As in P2's
    official code, the length g of every filter of v, (outputs, inputs, height, width), is frozen at
    its initial value ‖v‖, so every filter is scale invariant."""

    def __init__(self, v: torch.Tensor):
        super().__init__()
        self.register_buffer("g", _filter_norms(v.detach()))

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return v * (self.g / _filter_norms(v))


def _filter_norms(v: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)


class Affine(nn.Module):
    """Trainable scale and shift of every channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.bias.view(-1, 1, 1), x, self.weight.view(-1, 1, 1))


class Layers:
    """Makes the layers of one network with one of `NORMS`. `eps` is added to the variance that a
    normalisation divides by; if `affine`, each has a trainable scale and shift for each channel."""

    def __init__(self, norm: str, affine: bool, eps: float = NORM_EPS):
        self.kind, self.affine, self.eps = norm, affine, eps
        self.norm_copies = norm != "weight" or affine  # so its output may be overwritten

    def conv(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
        """A convolution without bias that keeps the image size (divides it by `stride`)."""
        layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        if self.kind == "weight":
            parametrize.register_parametrization(layer, "weight", WeightNorm(layer.weight))
        return layer

    def norm(self, channels: int) -> nn.Module:
        """The normalisation after a convolution with so many channels. Weight normalisation is in
        the convolution, so with it only the scale and shift, if any."""
        if self.kind == "batch":
            return nn.BatchNorm2d(channels, eps=self.eps, affine=self.affine)
        if self.kind == "weight":
            return Affine(channels) if self.affine else nn.Identity()
        size = {"layer": channels, "group": math.gcd(channels, GROUP_SIZE), "instance": 1}
        groups = channels // size[self.kind]
        return nn.GroupNorm(groups, channels, eps=self.eps, affine=self.affine)
