"""The block of parameters at the top of the driver: what it holds, its mistakes in one line."""

import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from utils import UserError

TEXTS = ("exp_name", "dataset", "data_path", "network", "combine", "fix_elr", "add_params")
LISTS = ("lrs", "wds", "elrs")
NAMES = (*TEXTS, *LISTS, "fix_noninvlr", "params", "same_last_layer")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check(values: dict[str, Any]) -> None:
    """Whether the parameters are of the right kind; train.py's options are checked elsewhere.

    Raises
    ------
    UserError : one is not; it says what it is and what it should be.
    """
    for name, value in values.items():
        if name in TEXTS and not isinstance(value, str):
            raise UserError(f'{name} is a text in quotes, as in {name} = "...", not {value!r}')
        if name in LISTS and not (isinstance(value, (list, tuple)) and all(map(is_number, value))):
            example = value if is_number(value) else 0.01
            raise UserError(f"{name} is a list of numbers, as in {name} = [{example}], not {value}")
        if name == "fix_noninvlr" and not is_number(value):
            raise UserError(f"{name} is a number, as in {name} = 0.0, not {value!r}")
        if name == "same_last_layer" and not isinstance(value, bool):
            raise UserError(f"{name} is True or False, not {value!r}")
        if name == "params" and not isinstance(value, dict):
            example = '{"num_channels": 32}'
            raise UserError(f"{name} is a dictionary, as in {name} = {example}, not {value!r}")


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As sys.excepthook: a mistake in the block itself, at the script's top level, is one line.

    Such a mistake ends with status 2. Everything else is shown as usual.
    """
    frames = traceback.extract_tb(trace)
    if len(frames) != 1 or frames[0].name != "<module>":
        sys.__excepthook__(kind, error, trace)
        return
    name = getattr(error, "name", None)
    hint = f'; a text is in quotes, as in "{name}"' if isinstance(error, NameError) else ""
    print(
        f"{Path(frames[0].filename).name}: error: line {frames[0].lineno}: {error}{hint}",
        file=sys.stderr,
    )
    sys.exit(2)
