"""The networks of the two papers, and what is scale invariant in them.

`build` makes a network by name; `si_parameters` says which of its parameters are scale invariant.
Every other part of the project asks these two.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from models import own
from models.convnet import ConvNet
from models.groups import (
    ScaleInvariance,
    doubling_effects,
    group_table,
    scale_invariant_groups,
    unwrapped,
)
from models.layers import NORM_EPS, NORMS, Layers
from models.resnet import ResNet18
from models.scale_invariance import norm as norm
from models.scale_invariance import (
    norms,
    rescale_filters,
    rescale_to_norm,
    si_parameters,
    split_parameters,
)
from utils import UserError

OFFICIAL_SEED = 228  # of same_init and same_last_layer in the official code
IMAGE_SIZE = (32, 32)  # that the networks of the papers take

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
    norm_eps: float = NORM_EPS,
    same_init: bool = False,
    image_size: tuple[int, int] | None = None,
    si_names: Sequence[str] | None = None,
) -> nn.Module:
    """Make a freshly initialised network; torch's global generator decides the weights.

    Parameters
    ----------
    name : one of `MODELS`, or a function elsewhere that makes a network (`own.FORM`). It is called
        with num_classes and, if it takes them, num_channels and depth.
    num_classes : number of outputs.
    num_channels : width c of the first stage, >= 1.
    depth : number of 3x3 convolution blocks after the first (ConvNet only), >= 1.
    init_scale : if > 0, the last layer's weight matrix is rescaled to this Frobenius norm.
    same_last_layer, same_init : draw the last layer, or the whole network, from the official code's
        fixed seed, whatever the generator.
    norm : one of `NORMS`, how the convolutions are normalised (official networks: "batch").
    norm_eps : added to the variances that are normalised (official networks: 1e-5).
    image_size : (height, width) of the images that the network is for: it is checked that it takes
        them, and what is scale invariant in a network from elsewhere is found. None: it is not.
    si_names : the names of the SI weights of a network from elsewhere, where they are known.

    The network maps float images of shape (batch, 3, height, width) to logits (batch, num_classes);
    those of `MODELS` take 32 x 32.

    Raises
    ------
    KeyError : `name` is not one of `MODELS`.
    ValueError : `norm` is not one of `NORMS`.
    UserError : a network from elsewhere cannot be made, does not suit, or has no SI weights; or
        there is none of `MODELS` for images of this size.
    """
    is_own = own.is_own(name)
    if not is_own and image_size not in (None, IMAGE_SIZE):
        raise UserError(
            f"{name} takes images of 32 x 32, these have {image_size[0]} x {image_size[1]}: "
            f"--model {own.FORM} gives another network"
        )
    if not is_own and norm not in NORMS:
        raise ValueError(f"norm is one of {', '.join(NORMS)}, not {norm!r}")
    with _official_seed() if same_init else contextlib.nullcontext():
        if is_own:
            model = own.make(name, num_classes=num_classes, num_channels=num_channels, depth=depth)
        else:
            architecture, affine = MODELS[name]
            model = architecture(num_classes, num_channels, depth, Layers(norm, affine, norm_eps))
    _prepare_last_layer(model, name, init_scale, same_last_layer)
    if is_own and image_size is not None:
        own.check_images(model, name, num_classes, image_size)
        model.si_names = si_names or own.find_si_weights(model, name, image_size)
    return model


def _prepare_last_layer(
    model: nn.Module, name: str, init_scale: float, same_last_layer: bool
) -> None:
    """What --same_last_layer and --init_scale ask for; elsewhere it is the last linear layer."""
    if not same_last_layer and init_scale <= 0:
        return
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    last_layer = getattr(model, "last_layer", linear[-1] if linear else None)
    if last_layer is None:
        raise UserError(f"{name} has no linear layer for --init_scale or --same_last_layer")
    if same_last_layer:
        with _official_seed():
            last_layer.reset_parameters()
    if init_scale > 0:
        with torch.no_grad():
            weight = last_layer.weight
            weight.mul_(init_scale / weight.norm())


@contextlib.contextmanager
def _official_seed() -> Iterator[None]:
    """Draw weights from the official seed; the generators go on afterwards as they would.

    All are seeded alike, as in the official code: a network from elsewhere may use any.
    """
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(OFFICIAL_SEED)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
