"""The networks of the two papers and others, and what is scale invariant in them.

`build` makes a network by name; `si_parameters` are its scale-invariant parameters.
"""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from models import own
from models.convnet import ConvNet
from models.groups import (
    ScaleInvariance,
    doubling_effects,
    group_table,
    scale_invariant_groups,
    scaled_together,
    unwrapped,
)
from models.layers import NORM_EPS, NORMS, Layers
from models.probe import copied, random_numbers, reseed, seed_all
from models.resnet import ResNet18
from models.scale_invariance import (
    norm,
    norms,
    rescale_filters,
    rescale_to_norm,
    si_parameters,
    split_parameters,
)
from utils import UserError

if TYPE_CHECKING:  # the monitor does without options.py
    from options import Model

OFFICIAL_SEED = 228  # of same_init and same_last_layer in the official code
IMAGE_SIZE = (32, 32)  # for the networks of the papers

# name -> (architecture, whether its normalisation has trainable scale and shift)
MODELS = {
    "ConvNetSI": (ConvNet, False),
    "ConvNetSIAf": (ConvNet, True),
    "ResNet18SI": (ResNet18, False),
    "ResNet18SIAf": (ResNet18, True),
}


def build(
    options: "Model",
    num_classes: int,
    image_size: tuple[int, int] | None = None,
    si_names: Sequence[str] | None = None,
) -> nn.Module:
    """Make a network (batch, 3, height, width) -> logits (batch, num_classes), initialised with
    torch's global random number generator.

    Raises UserError if a network from elsewhere cannot be made, is unsuitable, or has no SI
    weights, or if one of `MODELS` does not take images of this size.

    Parameters
    ----------
    options : name, width, depth, normalisation and initialisation. The name is one of `MODELS`, for
        images of 32 x 32, or that of a function elsewhere (`own.FORM`), which is called with
        num_classes and, if it takes them, num_channels and depth.
    image_size : (height, width) of the images. With it, a network from elsewhere is tried on such
        images, and its SI weights are found.
    si_names : the names of those SI weights, if they are known.
    """
    name, is_own = options.model, own.is_own(options.model)
    if not is_own and image_size not in (None, IMAGE_SIZE):
        raise UserError(
            f"{name} takes images of 32 x 32, these have {image_size[0]} x {image_size[1]}: "
            f"--model {own.FORM} gives another network"
        )
    with random_numbers(OFFICIAL_SEED) if options.same_init else contextlib.nullcontext():
        if is_own:
            sizes = {"num_channels": options.num_channels, "depth": options.depth}
            model = own.make(name, num_classes=num_classes, **sizes)
            if image_size is not None:
                own.materialise(model, name, image_size)
        else:
            architecture, affine = MODELS[name]
            layers = Layers(options.norm, affine, options.norm_eps or NORM_EPS)
            model = architecture(num_classes, options.num_channels, options.depth, layers)
    _prepare_last_layer(model, options, num_classes)
    if is_own and image_size is not None:
        own.suit(model, name, num_classes, image_size)
        model.si_names = si_names or own.find_si_weights(model, name, image_size)
    return model


def _prepare_last_layer(model: nn.Module, options: "Model", num_classes: int) -> None:
    if not options.same_last_layer and options.init_scale <= 0:
        return
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(
            f"{options.model} has no linear layer for --init_scale or --same_last_layer"
        )
    last_layer = ([layer for layer in linear if layer.out_features == num_classes] or linear)[-1]
    if not isinstance(last_layer.weight, nn.Parameter):
        raise UserError(
            f"the last linear layer of {options.model} computes its weight (as weight_norm does), "
            "so --init_scale and --same_last_layer cannot set it"
        )
    if options.same_last_layer:
        with random_numbers(OFFICIAL_SEED):
            last_layer.reset_parameters()
    if options.init_scale > 0:
        with torch.no_grad():
            weight = last_layer.weight
            weight.mul_(options.init_scale / weight.norm())
