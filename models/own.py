"""Networks from elsewhere, by the name of the function that makes them (--model)."""

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.groups import scale_invariant_groups, scaled_together, unwrapped
from models.probe import copied, random_numbers, tensors
from utils import UserError, lacks_memory, plural

BATCH = 8  # random images with which a network is tried and its groups are found
FORM = "path/to/file.py:function or package.module:name"


def is_own(name: str) -> bool:
    """Whether a network's name has the form of a function elsewhere: torchvision.models:vgg11."""
    return ":" in name


@contextlib.contextmanager
def fails(what: str) -> Iterator[None]:
    """Raise any error of someone else's code as a UserError of one line that begins with `what`."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if lacks_memory(error):
            raise
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise UserError(f"{what}: {type(error).__name__}: {reason}") from None


def find_function(name: str) -> Callable[..., Any]:
    """The function, class or other callable of a name like `FORM`. Raises UserError if there is no
    such file, module or function, or importing it fails."""
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise UserError(f"{name!r} does not name a network: {FORM}")
    with fails(f"importing {place} fails"):
        module = _load(place)
    function = getattr(module, attribute, None)
    if not callable(function):
        there = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UserError(f"there is no function {attribute} in {place} (there: {', '.join(there)})")
    return function


def _load(place: str) -> Any:
    """Import a file, given by its path, or a module."""
    path, is_file = Path(place).expanduser(), place.endswith(".py")
    if is_file and not path.is_file():
        raise UserError(f"there is no file {path}")
    folder = str(path.resolve().parent if is_file else Path.cwd())
    sys.path.insert(0, folder)  # as if it were run: it may import what lies beside it
    try:
        if not is_file:
            return importlib.import_module(place)
        # No other module has this name: a file may be called torch.py or data.py.
        spec = importlib.util.spec_from_file_location(f"own network {path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for it
        spec.loader.exec_module(module)
        return module
    except ModuleNotFoundError as error:
        if is_file:
            raise
        raise UserError(f"there is no module {place} ({error})") from None
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what it imports when it is called


def make(name: str, **arguments: Any) -> nn.Module:
    """Call the function of this name with those of the arguments that its signature has,
    num_classes always. The network is moved to the CPU, without torch.compile or data parallelism.
    Raises UserError as `find_function`, or if the call fails or does not return a network."""
    function = find_function(name)
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a callable that is not written in Python
        known = {}
    given = {key: v for key, v in arguments.items() if key in known or key == "num_classes"}
    call = ", ".join(f"{key}={value}" for key, value in given.items())
    with fails(f"{name} fails when called with {call}"):
        network = function(**given)
        if isinstance(network, nn.Module):
            return unwrapped(network).cpu()
    kind = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
    raise UserError(f"{name} gives {kind}, not a network (an instance of torch.nn.Module)")


def materialise(model: nn.Module, name: str, size: tuple[int, int]) -> None:
    """Initialise lazy modules. Raises UserError if the network takes no images of this size."""
    if any(map(nn.parameter.is_lazy, [*model.parameters(), *model.buffers()])):
        images = torch.zeros(BATCH, 3, *size)
        with fails(f"{name} does not take images of shape {_shape(images)}"), torch.no_grad():
            model.eval()  # running statistics stay
            model(images)
        model.train()


class Logits:
    """A forward hook that picks the logits out of outputs that are not a tensor."""

    def __init__(self, name: str, num_classes: int):
        self.name, self.num_classes = name, num_classes

    def __call__(self, model: nn.Module, inputs: tuple, outputs: Any) -> torch.Tensor:
        if isinstance(outputs, torch.Tensor):
            return outputs
        shape = len(inputs[0]), self.num_classes
        logits = [tensor for tensor in tensors(outputs) if tensor.shape == shape]
        if len(logits) != 1:
            mode = "train" if model.training else "evaluation"
            raise UserError(
                f"{self.name} gives a {type(outputs).__name__} in {mode} mode, with "
                f"{plural(len(logits), 'tensor')} of logits of shape {shape}, expected one"
            )
        return logits[0]


def suit(model: nn.Module, name: str, num_classes: int, size: tuple[int, int]) -> None:
    """Try a copy of a network on random images of this (height, width), in both modes. Raises
    UserError if it has nothing to train, does not take such images, or does not return finite
    logits. It gets a hook if its outputs are not a tensor, and another if it changes its inputs."""
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"{name} has no trainable parameters")
    choose, images = Logits(name, num_classes), _random_images(size)
    shape, is_plain, is_kept = _shape(images), True, True
    for mode in (False, True):
        given = images.clone()
        with fails(f"{name} cannot be copied"):
            network = copied(model, hooks=True)
            network.train(mode)
        with fails(f"{name} does not take images of shape {shape}"), random_numbers(0):
            outputs = network(given)
            logits = choose(network, (given,), outputs).detach()
        is_plain &= isinstance(outputs, torch.Tensor)
        is_kept &= torch.equal(given, images)
        if logits.shape != (BATCH, num_classes):
            raise UserError(
                f"{name} gives {tuple(logits.shape)} for images of shape {shape}, expected "
                f"({BATCH}, {num_classes}): a logit for each of {num_classes} classes"
            )
        if not logits.is_floating_point():
            raise UserError(f"{name} gives {logits.dtype}, expected floating-point logits")
    if not logits.isfinite().all():
        raise UserError(f"{name} gives NaN or infinite logits in train mode, before any training")
    with fails(f"{name} cannot be given a hook"):
        if not is_plain:
            model.register_forward_hook(choose)
        if not is_kept:
            model.register_forward_pre_hook(_clone)


def _clone(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.clone() for tensor in inputs)


def _random_images(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(BATCH, 3, *size, generator=torch.Generator().manual_seed(0), device="cpu")


def _shape(images: torch.Tensor) -> str:
    return " x ".join(map(str, images.shape))


def find_si_weights(model: nn.Module, name: str, size: tuple[int, int]) -> tuple[str, ...]:
    """Find the SI weights of a network that takes images, print them, and return their names: as in
    the papers, the trainable tensors of two or more dimensions in the scale-invariant groups.
    Raises UserError if there are none, or all are frozen."""
    with fails(f"what is scale invariant in {name} cannot be found"):
        model.train()
        found = scale_invariant_groups(model, _random_images(size))
    parameters = dict(model.named_parameters())
    invariant = {n: p for n, p in parameters.items() if n in set().union(*found) and p.ndim > 1}
    frozen = [n for n, p in invariant.items() if not p.requires_grad]
    trained = [group for group in found if not set(frozen).intersection(group)]
    chosen = set().union(*scaled_together(trained, parameters))
    weights = {n: p for n, p in invariant.items() if n in chosen}
    if not invariant:
        raise UserError(
            f"{name} has no scale-invariant weights, so there is no norm ρ to follow or to fix: "
            "networks here need normalisation layers"
        )
    if not weights:
        raise UserError(
            f"all scale-invariant weights of {name} are frozen (requires_grad=False), or invariant "
            "only together with such, so there is no norm ρ to follow or to fix"
        )
    total = sum(p.numel() for p in weights.values())
    print(f"{name}: {total:,} scale-invariant weights in {plural(len(weights), 'tensor')}: "
          + ", ".join(weights))  # fmt: skip
    if frozen:
        print(f"note: frozen, so not trained, held or recorded: {', '.join(frozen)}")
    others = [n for n in invariant if n not in weights and n not in frozen]
    if others:
        print(f"note: left out, as they cannot be scaled together with these: {', '.join(others)}")
    alone = set().union(*(group for group in found if weights.keys() >= set(group)))
    mixed = [n for n in weights if n not in alone]
    if mixed:
        print(f"note: {', '.join(mixed)}: invariant only together with biases or scales")
    return tuple(weights)
