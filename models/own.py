"""Networks that are not part of this project, by the name of the function that makes them."""

import copy
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.groups import scale_invariant_groups
from utils import UserError, plural

BATCH = 8  # random images on which the groups are found
FORM = "path/to/file.py:function or package.module:name"


def is_own(name: str) -> bool:
    """Whether a network's name is that of a function elsewhere, as in torchvision.models:vgg11."""
    return ":" in name


def find_function(name: str) -> Callable[..., Any]:
    """The function, class or other callable of a name like `FORM`.

    Raises
    ------
    UserError : there is no such file, module or function, or importing it fails.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise UserError(f"{name!r} does not name a network: {FORM}")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    except UserError:
        raise
    except Exception as error:  # whatever someone else's code raises
        raise UserError(f"importing {place} fails: {type(error).__name__}: {error}") from None
    function = getattr(module, attribute, None)
    if not callable(function):
        there = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(f"there is no function {attribute} in {place} (there: {', '.join(there)})")
    return function


def _load_file(path: Path) -> Any:
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # as if it were run: it may import what lies beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def _load_module(name: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"there is no module {name} ({error})") from None
    finally:
        sys.path.remove(here)


def make(name: str, **arguments: Any) -> nn.Module:
    """Call the function of this name with those of the arguments that it names.

    `num_classes` is given to every function.

    Raises
    ------
    UserError : as for `find_function`; the call fails; what it gives is not a network.
    """
    function = find_function(name)
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a callable that is not written in Python
        known = {}
    given = {key: v for key, v in arguments.items() if key in known or key == "num_classes"}
    try:
        network = function(**given)
    except Exception as error:  # whatever someone else's code raises
        call = ", ".join(f"{key}={value}" for key, value in given.items())
        raise UserError(f"{name} fails when called with {call}: {error}") from None
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} gives a {type(network).__name__}, not a network (torch.nn.Module)")
    return network


def check_images(model: nn.Module, name: str, num_classes: int, size: tuple[int, int]) -> None:
    """Try a network on a batch of images, without changing it.

    Raises
    ------
    UserError : it does not take images of this (height, width), or does not give (batch, classes).
    """
    images = torch.zeros(2, 3, *size)
    shape = " x ".join(map(str, images.shape))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = copy.deepcopy(model).eval()(images)
    except Exception as error:  # whatever the network raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} does not take images of shape {shape}: {reason}") from None
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(
            f"{name} gives {given} for images of shape {shape}, expected (2, {num_classes}): a "
            f"logit for each of {num_classes} classes"
        )


def find_si_weights(model: nn.Module, name: str, size: tuple[int, int]) -> tuple[str, ...]:
    """The names of the SI weights of a network that takes images, and say what they are.

    As in the papers' networks with trainable scales and shifts: of the scale-invariant groups, the
    tensors of two or more dimensions.

    Raises
    ------
    UserError : there are none.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, *size, generator=generator)
    found = scale_invariant_groups(model.train(), images)
    in_groups = set().union(*found)
    weights = {n: p for n, p in model.named_parameters() if n in in_groups and p.ndim > 1}
    if not weights:
        raise UserError(
            f"{name} has no scale-invariant weights, so there is no norm ρ to follow or to fix: "
            "all that is done here is about networks with normalisation"
        )
    total = sum(p.numel() for p in weights.values())
    print(f"{name}: {total:,} scale-invariant weights in {plural(len(weights), 'tensor')}: "
          + ", ".join(weights))  # fmt: skip
    alone = set().union(*(group for group in found if weights.keys() >= set(group)))
    mixed = [n for n in weights if n not in alone]
    if mixed:
        print(f"note: {', '.join(mixed)}: invariant only together with biases or scales")
    return tuple(weights)
