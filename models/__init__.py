"""The networks of the two papers, and what is scale invariant in them.

`build` makes a network by name; `si_parameters` says which of its parameters are scale invariant.
Every other part of the project asks these two.
"""

import torch
from torch import nn

from models import own
from models.convnet import ConvNet
from models.groups import ScaleInvariance, scale_invariant_groups
from models.layers import NORMS, Layers
from models.resnet import ResNet18
from models.scale_invariance import norm, rescale_to_norm, si_parameters, split_parameters

__all__ = [
    "MODELS",
    "NORMS",
    "ScaleInvariance",
    "build",
    "norm",
    "own",
    "rescale_to_norm",
    "scale_invariant_groups",
    "si_parameters",
    "split_parameters",
]

LAST_LAYER_SEED = 0

# name -> (architecture, whether its normalisation has trainable scale and shift)
MODELS = {
    "ConvNetSI": (ConvNet, False),
    "ConvNetSIAf": (ConvNet, True),
    "ResNet18SI": (ResNet18, False),
    "ResNet18SIAf": (ResNet18, True),
}


def build(
    name: str,
    num_classes: int,
    num_channels: int = 64,
    depth: int = 3,
    init_scale: float = -1.0,
    same_last_layer: bool = False,
    norm: str = "batch",
) -> nn.Module:
    """Make a freshly initialised network; torch's global generator decides the weights.

    Parameters
    ----------
    name : one of `MODELS`.
    num_classes : number of outputs.
    num_channels : width c of the first stage, >= 1.
    depth : number of 3x3 convolution blocks after the first (ConvNet only), >= 1.
    init_scale : if > 0, the last layer's weight matrix is rescaled to this Frobenius norm.
    same_last_layer : draw the last layer from a fixed seed of its own, whatever the generator.
    norm : one of `NORMS`, how the convolutions are normalised (official networks: "batch").

    The network maps float images of shape (batch, 3, 32, 32) to logits (batch, num_classes).

    Raises
    ------
    KeyError : `name` is not one of `MODELS`.
    ValueError : `norm` is not one of `NORMS`.
    """
    architecture, affine = MODELS[name]
    if norm not in NORMS:
        raise ValueError(f"norm is one of {', '.join(NORMS)}, not {norm!r}")
    model = architecture(num_classes, num_channels, depth, Layers(norm, affine))
    if same_last_layer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(LAST_LAYER_SEED)
            model.last_layer.reset_parameters()
    if init_scale > 0:
        with torch.no_grad():
            weight = model.last_layer.weight
            weight.mul_(init_scale / weight.norm())
    return model
