"""The block of parameters at the top of the driver: the experiment it describes, its mistakes."""

import shlex
import sys
import traceback
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.setting import Differing, Experiment
from options import Train, parse
from utils import UserError

TEXTS = ("exp_name", "dataset", "data_path", "network", "combine", "fix_elr", "add_params")
LISTS = ("lrs", "wds", "elrs")
NAMES = (*TEXTS, *LISTS, "fix_noninvlr", "params", "same_last_layer")
# Options that have a line of their own in the block.
ELSEWHERE = {
    "dataset": "dataset", "data_path": "data_path", "model": "network", "noninvlr": "fix_noninvlr",
    "lr_init": "lrs", "wd": "wds", "elr": "elrs", "fix_elr": "fix_elr", "fix_all_elr": "fix_elr",
}  # fmt: skip


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check(values: dict[str, Any]) -> None:
    """Check the type of each parameter.

    Raises
    ------
    UserError : one is wrong; it says what it is and what it should be.
    """
    for name, value in values.items():
        if name in TEXTS and not isinstance(value, str):
            raise UserError(f'{name} is a text in quotes, as in {name} = "...", not {value!r}')
        if name in LISTS and not (isinstance(value, (list, tuple)) and all(map(is_number, value))):
            example = value if is_number(value) else 0.01
            raise UserError(
                f"{name} is a list of numbers, as in {name} = [{example}], not {value!r}"
            )
        if name == "fix_noninvlr" and not is_number(value):
            raise UserError(f"{name} is a number, as in {name} = 0.0, not {value!r}")
        if name == "same_last_layer" and not isinstance(value, bool):
            raise UserError(f"{name} is True or False, not {value!r}")
        if name == "params" and not isinstance(value, dict):
            example = '{"num_channels": 32}'
            raise UserError(f"{name} is a dictionary, as in {name} = {example}, not {value!r}")
    exp_name, combine = values["exp_name"], values["combine"]
    path = Path(exp_name)
    if path == Path() or path.is_absolute() or ".." in path.parts or not exp_name.isprintable():
        raise UserError(f"exp_name is the name of a folder in Experiments/, not {exp_name!r}")
    if combine not in ("cross", "zip"):
        raise UserError(f"combine is 'cross' or 'zip', not {combine!r}")
    switches = {field.name: isinstance(field.default, bool) for field in fields(Train)}
    for name, value in values["params"].items():
        is_switch = switches.get(name, isinstance(value, bool))  # of an alias: not checked here
        if is_switch and not isinstance(value, bool):
            raise UserError(f'params: "{name}" is True or False, not {value!r}')
        if not is_switch and isinstance(value, bool):
            raise UserError(f'params: "{name}" takes a value, not {value}')


def experiment(
    *,
    exp_name: str,
    dataset: str,
    data_path: str,
    network: str,
    fix_noninvlr: float,
    params: dict[str, Any],
    lrs: list[float],
    wds: list[float],
    combine: str,
    fix_elr: str,
    elrs: list[float],
    same_last_layer: bool,
    add_params: str,
) -> Experiment:
    """The experiment that the parameters describe.

    Raises
    ------
    UserError : they contradict each other, or train.py does not take them.
    """
    check(locals())
    lines = differing(lrs, wds, combine, fix_elr, elrs)
    try:
        flags = shlex.split(add_params)
    except ValueError as error:
        raise UserError(f"add_params {add_params}: {error}") from None
    words = [word for key, value in params.items() for word in option_words(key, value)]
    _, in_params = parse(Train, words, "run_train_and_test.py", "")
    _, in_flags = parse(Train, flags, "run_train_and_test.py", "")
    in_params |= {name for name, value in params.items() if value is False}
    twice = sorted(in_params & in_flags)
    if twice:
        raise UserError(f"{twice[0]} is both in params and in add_params: give it once")
    for name in sorted((in_params | in_flags) & ELSEWHERE.keys()):
        where = "params" if name in in_params else "add_params"
        raise UserError(f"{where} holds {name}: change {ELSEWHERE[name]} in the block instead")
    if "dir" in in_params | in_flags:
        raise UserError(
            "dir: a line's folder is Experiments/<exp_name>/<its rates>, where it is measured and "
            "drawn; name another exp_name instead"
        )
    options, _ = parse(Train, [*words, *flags], "run_train_and_test.py", "")
    if network.endswith("Af") and fix_noninvlr == 0:
        raise UserError(
            f'network = "{network}" with fix_noninvlr = {fix_noninvlr} trains none of its scales '
            'and shifts: set fix_noninvlr = -1 and "init_scale": -1 to train all weights'
        )
    file, colon, _ = network.rpartition(":")
    if colon and file.endswith(".py") and not Path(file).is_file():
        raise UserError(f"network: there is no file {file}")
    if options.resume_epoch not in (None, -1):
        raise UserError("resume_epoch: the driver trains whole runs; branch off one with train.py")
    try:
        for line in reversed(lines):  # ends with the first
            options = replace(
                options,
                dataset=dataset,
                data_path=data_path,
                model=network,
                noninvlr=fix_noninvlr,
                same_last_layer=same_last_layer or options.same_last_layer,
                **({} if fix_elr == "fix_lr" else {fix_elr: True}),
                **line,
            )
    except UserError as error:
        option, colon, reason = str(error).partition(":")
        name = ELSEWHERE.get(option.removeprefix("--"), option)
        raise UserError(f"{name}{colon}{reason}") from None
    return Experiment(exp_name, "the parameters at the top of the driver", options, lines)


def option_words(key: str, value: Any) -> list[str]:
    """An entry of params as the words of a command line: true flags bare, false ones left out.

    1e3 is a whole number.
    """
    if value is None or isinstance(value, bool):
        return [f"--{key}"] if value else []
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [f"--{key}", str(value)]


def differing(
    lrs: list[float], wds: list[float], combine: str, fix_elr: str, elrs: list[float]
) -> tuple[Differing, ...]:
    """The rates of each line: pairs of lrs and wds or, on the sphere, elrs.

    Raises
    ------
    UserError : an empty list, lists of different lengths to zip, or lists without effect.
    """
    if fix_elr not in ("fix_lr", "fix_elr", "fix_all_elr"):
        raise UserError(f"fix_elr is 'fix_elr', 'fix_all_elr' or 'fix_lr', not {fix_elr!r}")
    if fix_elr != "fix_lr":
        if not elrs:
            raise UserError("elrs needs at least one value")
        if len(lrs) > 1 or len(wds) > 1:
            raise UserError(f"lrs and wds have no effect with {fix_elr}: leave one value in each")
        return tuple({"elr": elr} for elr in elrs)
    if elrs:
        raise UserError('elrs has no effect with fix_elr = "fix_lr": leave it empty')
    if not lrs or not wds:
        raise UserError("lrs and wds need at least one value each")
    if combine == "cross":
        pairs = list(product(lrs, wds))
    elif len({len(lrs), len(wds)} - {1}) > 1:
        raise UserError(f"{len(lrs)} lrs and {len(wds)} wds cannot be zipped")
    else:
        longest = max(len(lrs), len(wds))
        lrs, wds = (rates * (longest // len(rates)) for rates in (lrs, wds))
        pairs = list(zip(lrs, wds, strict=True))
    return tuple({"lr_init": lr, "wd": wd} for lr, wd in pairs)


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
