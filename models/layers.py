"""The two layers that both architectures are made of."""

from torch import nn

# PyTorch's default of 1e-5 is not small beside the variance of a convolution whose weights have
# shrunk, which would break the scale invariance just where it matters, at the small norms
# before a jump. Invariance holds while this is far below that variance; a channel without any
# variance gives zero, not NaN.
BATCH_NORM_EPS = 1e-12


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the image size (divides it by `stride`)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def batch_norm(channels: int, affine: bool) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, affine=affine)
