"""What a checkpoint holds, and reading one (own or official) without running code from it."""

import io
import warnings
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import UserError, write_atomically

# P2's official checkpoints hold NumPy scalars, under the name of either NumPy generation. These
# few constructors make plain numbers; torch.load refuses everything else that could run code.
_scalar = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?")},
    (str.encode, "_codecs.encode"),  # how a scalar's bytes are stored
]
_PARALLEL = "module."  # before every name in the weights of torch.nn.DataParallel


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint. It has the keys of official ones (epoch, state_dict, optimizer,
    train_res, test_res) and what an exact continuation needs besides."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this project or of the official code, onto the CPU. Raises UserError if
    the file is missing, truncated or not a checkpoint."""
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign files: the error below says enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    except Exception as e:  # torch raises many kinds of errors for other files
        reason = (str(e).strip() or type(e).__name__).splitlines()[0].split(". ")[0]
        raise UserError(f"{path} is truncated or not a checkpoint ({reason})") from None
    wrong = what_is_wrong(content)
    if wrong:
        raise UserError(f"{path} is not a checkpoint: {wrong}")
    weights = content["state_dict"]
    if all(name.startswith(_PARALLEL) for name in weights):
        content["state_dict"] = {k.removeprefix(_PARALLEL): v for k, v in weights.items()}
    return content


def what_is_wrong(content: Any) -> str | None:
    """Why this is not the content of a checkpoint; None if it is."""
    if not isinstance(content, dict) or "state_dict" not in content:
        return "it has no state_dict"
    weights = content["state_dict"]
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        return "its state_dict does not hold tensors by name"
    if not isinstance(content.get("epoch", 0), Real | torch.Tensor):
        return "its epoch is not a number"
    return None


def load_weights(model: torch.nn.Module, content: dict[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint, read from `path`, into a network. Raises UserError, which
    names the first difference, if they belong to another network."""
    saved, buffers = content["state_dict"], content.get("buffers", {})
    _make_room(model, {**saved, **buffers})
    own = model.state_dict()
    # The oldest torch versions did not count batches, and the count has no effect here.
    missing = [k for k in own if k not in saved and not k.endswith("num_batches_tracked")]
    foreign = [k for k in saved if k not in own]
    shapes = [k for k in own if k in saved and own[k].shape != saved[k].shape]
    if missing:
        what = f"it lacks {missing[0]}"
    elif foreign:
        what = f"it has {foreign[0]}"
    elif shapes:
        key = shapes[0]
        what = f"{key} is {tuple(saved[key].shape)}, expected {tuple(own[key].shape)}"
    else:
        model.load_state_dict(saved, strict=False)
        for name, value in buffers.items():
            if value is not None:
                model.get_buffer(name).copy_(value)
        return
    hint = "check --model, --num_channels, --depth and --dataset"
    if missing and missing[0].endswith("parametrizations.weight.0.g"):
        hint = (
            "it was trained with another weight normalisation, in which every filter has length "
            "√2 and which no longer exists: train it again"
        )
    elif _affine(own) != _affine(saved):
        has, ending = ("has", "SIAf") if _affine(saved) else ("has no", "SI")
        hint = (
            f"its normalisation {has} trainable scale and shift: --model ConvNet{ending} or "
            f"ResNet18{ending}"
        )
    raise UserError(f"{path} belongs to another network: {what}; {hint}")


def load_into(model: torch.nn.Module, path: Path) -> dict[str, Any]:
    """Read a checkpoint, put its weights into a network, and return its content. Raises UserError
    as `load` and `load_weights`."""
    content = load(path)
    load_weights(model, content, path)
    return content


def unsaved_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    """The buffers that are not in the state_dict (persistent=False, or None), by name."""
    saved = model.state_dict()
    return {name: module._buffers[key] for name, module, key in _places(model) if name not in saved}


def _places(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, str]]:
    """The name of every buffer, its module, and its key there."""
    for owner, module in model.named_modules():
        for key in module._buffers:
            yield f"{owner}.{key}" if owner else key, module, key


def _make_room(model: torch.nn.Module, saved: dict[str, torch.Tensor | None]) -> None:
    """Give buffers the shapes that are saved: some are None at first, or grow. Does nothing if the
    parameters do not fit: then the checkpoint is of another network."""
    parameters = dict(model.named_parameters())
    if any(name not in saved or saved[name].shape != p.shape for name, p in parameters.items()):
        return
    device = next((p.device for p in parameters.values()), None)
    for name, module, key in _places(model):
        if name in saved and saved[name] is None:
            module._buffers[key] = None
        elif name in saved and getattr(module._buffers[key], "shape", None) != saved[name].shape:
            module._buffers[key] = torch.empty_like(saved[name], device=device)


def _affine(state: dict[str, torch.Tensor]) -> bool:
    """Whether the batch normalisation of these weights has trainable scale and shift."""
    tracked = (key.removesuffix(".running_mean") for key in state if key.endswith(".running_mean"))
    return any(f"{layer}.weight" in state for layer in tracked)
