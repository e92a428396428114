"""The block of parameters at the top of the driver: the experiment it describes, its mistakes."""

import re
import shlex
import sys
import traceback
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, get_args

from experiments.setting import Differing, Experiment, rates
from options import Train, idle_options, parse, spellings
from utils import UserError, nearest

# Options of train.py that are given elsewhere: in the block, or to the driver.
ELSEWHERE = {
    "dataset": "dataset", "data_path": "data_path", "model": "network", "noninvlr": "fix_noninvlr",
    "lr_init": "lrs", "wd": "wds", "elr": "elrs", "fix_elr": "fix_elr", "fix_all_elr": "fix_elr",
    "dir": "exp_name", "overwrite": "--overwrite of the driver",
}  # fmt: skip


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def are_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_number, value))


def is_folder_name(value: Any) -> bool:
    path = Path(value) if isinstance(value, str) and value.isprintable() else Path()
    return path != Path() and not path.is_absolute() and ".." not in path.parts


TEXT = ('a text in quotes, as in "..."', lambda value: isinstance(value, str))
NUMBERS = ("a list of numbers, as in [0.01]", are_numbers)
MODES = ("fix_lr", "fix_elr", "fix_all_elr")
# Parameter -> what it should be, and whether a value is that.
PARAMETERS = {
    "exp_name": ("the name of a folder in Experiments/", is_folder_name),
    **dict.fromkeys(("dataset", "data_path", "network", "add_params"), TEXT),
    **dict.fromkeys(("lrs", "wds", "elrs"), NUMBERS),
    "fix_noninvlr": ("a number, as in 0.0", is_number),
    "params": ('a dictionary, as in {"depth": 3}', lambda value: isinstance(value, dict)),
    "combine": ('"zip" or "cross"', ("zip", "cross").__contains__),
    "fix_elr": ('"fix_lr", "fix_elr" or "fix_all_elr"', MODES.__contains__),
    "same_last_layer": ("True or False", lambda value: isinstance(value, bool)),
}  # fmt: skip


def experiment(namespace: Mapping[str, Any]) -> Experiment:
    """The experiment that the parameters, variables of this namespace, describe. Raises UserError
    if one is missing or wrong, they contradict each other, or train.py refuses them."""
    for name, (what, is_right) in PARAMETERS.items():
        if name not in namespace:
            raise UserError(f"{name} is missing from the parameters at the top of the driver")
        if not is_right(namespace[name]):
            raise UserError(f"{name}: {namespace[name]!r} is not {what}")
    block = SimpleNamespace(**{name: namespace[name] for name in PARAMETERS})
    lines = differing(block)
    in_params, in_flags = options_in(block.params), options_among(block.add_params)
    for place, given in (("params", in_params), ("add_params", in_flags)):
        for name in given.keys() & ELSEWHERE.keys():
            raise UserError(f"{place} holds {name}: use {ELSEWHERE[name]} instead")
    for name in in_params.keys() & in_flags.keys():
        raise UserError(f"{name} is both in params and in add_params: give it once")
    if block.network.endswith("Af") and block.fix_noninvlr == 0:
        raise UserError(
            f'network = "{block.network}" with fix_noninvlr = 0 trains none of its scales and '
            'shifts: set fix_noninvlr = -1 and "init_scale": -1 to train all weights'
        )
    file, colon, _ = block.network.rpartition(":")
    if colon and file.endswith(".py") and not Path(file).expanduser().is_file():
        raise UserError(f"network: there is no file {file}")
    given = {
        "dataset": block.dataset, "data_path": block.data_path, "model": block.network,
        "noninvlr": block.fix_noninvlr, **in_params, **in_flags,
    }  # fmt: skip
    if block.same_last_layer:
        given["same_last_layer"] = True
    if block.fix_elr != "fix_lr":
        given[block.fix_elr] = True
        if block.wds and block.fix_noninvlr != 0:
            given["wd"] = block.wds[0]  # of the weights that are not on the sphere
    try:
        options, *_ = [Train(**given, **line) for line in lines]
    except UserError as error:  # in the names of the block
        message = re.sub(r"^--(\w+):", lambda m: f"{ELSEWHERE.get(m[1], m[1])}:", str(error))
        raise UserError(message) from None
    if options.optimizer != "sgd" and given.get("momentum"):
        raise UserError("momentum belongs to SGD, and Adam has its own moments: leave it out")
    if given.get("resume") is False:
        raise UserError("resume: the driver goes on with what is there; --overwrite starts anew")
    if options.resume_epoch not in (None, -1):
        raise UserError("resume_epoch: the driver trains whole runs; branch off one with train.py")
    for name, reason in idle_options(options).items():
        if (in_params | in_flags).get(name) is not None:
            print(f"note: {name} changes nothing: {reason}", file=sys.stderr)
    return Experiment(block.exp_name, "the parameters at the top of the driver", options, lines)


def options_in(params: dict[str, Any]) -> dict[str, Any]:
    """The options that params gives, name -> value; None stands for the default. Raises UserError
    if there is no such option."""
    known = {name: each for each in fields(Train) for name in spellings(each)}
    given = {}
    for key, value in params.items():
        if key not in known:
            raise UserError(f"params: unknown option {key!r}{nearest(str(key), known)}")
        kinds = (known[key].type, *get_args(known[key].type))
        if isinstance(value, float) and value.is_integer() and int in kinds:
            value = int(value)  # 1e3
        if value is not None:
            given[known[key].name] = value
    return given


def options_among(flags: str) -> dict[str, Any]:
    """The options of add_params, name -> value. Raises UserError if train.py does not take them."""
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise UserError(f"add_params {flags}: {error}") from None
    if {"-h", "--help"} & {*words}:
        raise UserError("add_params holds --help: python train.py --help lists the options")
    options, given = parse(Train, words, "train.py", "")
    return {name: getattr(options, name) for name in given}


def differing(block: SimpleNamespace) -> tuple[Differing, ...]:
    """The rates of each line: pairs of lrs and wds or, on the sphere, elrs. Raises UserError for an
    empty list, lists of different lengths to zip, or lists without effect."""
    lrs, wds, elrs = block.lrs, block.wds, block.elrs
    if block.fix_elr != "fix_lr":
        if not elrs:
            raise UserError("elrs needs at least one value")
        if len(lrs) > 1 or len(wds) > 1:
            raise UserError(
                f"with {block.fix_elr} there is a line for each of elrs: leave at most one value "
                "in lrs and in wds"
            )
        return tuple({"elr": elr} for elr in elrs)
    if elrs:
        raise UserError('elrs has no effect with fix_elr = "fix_lr": leave it empty')
    if not lrs or not wds:
        raise UserError("lrs and wds need at least one value each")
    if block.combine == "cross" or 1 in (len(lrs), len(wds)):
        return rates(lrs, wds)
    if len(lrs) != len(wds):
        raise UserError(f"{len(lrs)} lrs and {len(wds)} wds cannot be zipped")
    return tuple({"lr_init": lr, "wd": wd} for lr, wd in zip(lrs, wds, strict=True))


def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As sys.excepthook: a mistake in the block itself, at the script's top level, is one line and
    ends with status 2. Everything else is shown as usual."""
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
